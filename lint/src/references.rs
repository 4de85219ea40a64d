//! The paths that the code of a module names, outside of its tests: those of `use` declarations,
//! expressions, types and patterns, and those within the arguments of macros.

use std::collections::HashMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::modules::is_test;

/// What a module names.
#[derive(Default)]
pub(crate) struct References {
    /// Paths as they stand in the code, with the number of inline modules around each.
    pub(crate) paths: Vec<Vec<String>>,
    /// What `use` declarations bind, by name.
    pub(crate) imports: HashMap<String, Vec<String>>,
}

/// Collects what `file` names.
pub(crate) fn of(file: &syn::File) -> References {
    let mut collector = Collector::default();
    collector.visit_file(file);
    collector.references
}

#[derive(Default)]
struct Collector {
    references: References,
    /// How many inline modules surround the place that is visited.
    depth: usize,
}

impl Collector {
    fn add(&mut self, mut path: Vec<String>) {
        // Seen from an inline module, the first `super` is this file.
        for _ in 0..self.depth {
            if path.first().is_some_and(|first| first == "super") {
                path.remove(0);
            }
        }
        self.references.paths.push(path);
    }

    fn add_use(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, prefix));
            }
            syn::UseTree::Glob(_) => self.add(prefix.to_vec()),
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.import(prefix.last().cloned(), prefix.to_vec());
            }
            syn::UseTree::Name(name) => {
                self.import(Some(name.ident.to_string()), with(&name.ident))
            }
            syn::UseTree::Rename(rename) => {
                let path =
                    if rename.ident == "self" { prefix.to_vec() } else { with(&rename.ident) };
                self.import(Some(rename.rename.to_string()), path);
            }
        }
    }

    fn import(&mut self, name: Option<String>, path: Vec<String>) {
        if let (Some(name), 0) = (name, self.depth) {
            self.references.imports.insert(name, path.clone());
        }
        self.add(path);
    }

    /// Adds every `a::b::c` among the tokens of a macro call.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.add(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.add(std::mem::take(&mut path));
                    self.add_tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.add(std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.add(path);
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.depth += 1;
        visit::visit_item_mod(self, module);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    // Neither says that a module needs another.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}
