//! Circles between modules: sets of files of one crate that need each other.
//!
//! File A needs file B when the code of A names something in B by its path. A `mod` declaration
//! alone is no need, a re-export is one. So a module that re-exports a child needs it, and the
//! child must not name items of that module.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;

use crate::modules::Module;
use crate::references;

/// The circles among `modules`, each as a line that names the files and what ties them.
pub(crate) fn find(modules: &[Module]) -> Vec<String> {
    let mut graph = DiGraph::<&Path, ()>::new();
    let nodes: Vec<_> = modules.iter().map(|module| graph.add_node(&module.file)).collect();
    let mut names = BTreeMap::<(usize, usize), BTreeSet<String>>::new();
    for (from, module) in modules.iter().enumerate() {
        let known: HashMap<&[String], usize> = modules
            .iter()
            .enumerate()
            .filter(|(_, other)| other.target == module.target)
            .map(|(at, other)| (other.path.as_slice(), at))
            .collect();
        let references = references::of(&module.syntax);
        for path in &references.paths {
            let Some((to, item)) = resolve(module, path, &references.imports, &known) else {
                continue;
            };
            if to != from {
                names.entry((from, to)).or_default().insert(item);
            }
        }
    }
    for (from, to) in names.keys() {
        graph.update_edge(nodes[*from], nodes[*to], ());
    }
    let circles = tarjan_scc(&graph).into_iter().filter(|circle| circle.len() > 1);
    circles
        .map(|circle| {
            let members: BTreeSet<usize> = circle.iter().map(|node| node.index()).collect();
            let within =
                |(from, to): &(usize, usize)| members.contains(from) && members.contains(to);
            let ties = names.iter().filter(|(pair, _)| within(pair)).map(|((from, to), names)| {
                let (from, to) = (modules[*from].file.display(), modules[*to].file.display());
                let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("\n  {from} -> {to}: {names}")
            });
            format!("circle of {} modules{}", members.len(), ties.collect::<String>())
        })
        .collect()
}

/// The module in which `path` ends, as seen from `module`, and the item that it names there.
fn resolve(
    module: &Module,
    path: &[String],
    imports: &HashMap<String, Vec<String>>,
    known: &HashMap<&[String], usize>,
) -> Option<(usize, String)> {
    let first = path.first()?;
    let mut rest = path;
    let mut base = module.path.clone();
    match first.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while let Some((first, others)) = rest.split_first()
                && first == "super"
            {
                base.pop()?;
                rest = others;
            }
        }
        name => {
            let child = [base.as_slice(), &[name.to_owned()]].concat();
            if !known.contains_key(child.as_slice()) {
                let import = imports.get(name).filter(|import| import.first() != Some(first))?;
                if path.len() == 1 {
                    return None;
                }
                let full = [import.as_slice(), &path[1..]].concat();
                return resolve(module, &full, &HashMap::new(), known);
            }
        }
    }
    let mut end = base.clone();
    let mut used = 0;
    for segment in rest {
        let longer = [end.as_slice(), std::slice::from_ref(segment)].concat();
        if !known.contains_key(longer.as_slice()) {
            break;
        }
        end = longer;
        used += 1;
    }
    let item = rest.get(used).map_or_else(|| "the module".to_owned(), Clone::clone);
    known.get(end.as_slice()).map(|at| (*at, item))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::modules;

    /// The circles of a package with these files.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = directory.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        find(&modules::of_package(directory.path()).unwrap())
    }

    #[test]
    fn circle_of_two_siblings_is_found() {
        let found = circles(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B; pub struct A(B);"),
            ("src/b.rs", "pub struct B; fn f() -> Option<super::a::A> { None }"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("src/a.rs -> src/b.rs: B"), "{found:?}");
        assert!(found[0].contains("src/b.rs -> src/a.rs: A"), "{found:?}");
    }

    #[test]
    fn circle_through_macro_and_import_is_found() {
        let found = circles(&[
            ("src/main.rs", "mod a; mod b;"),
            ("src/a.rs", "pub fn f() { println!(\"{}\", crate::b::X); }"),
            ("src/b.rs", "use crate::a; pub const X: u8 = 1; fn g() { a::f() }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn child_that_needs_its_reexporting_parent_is_found() {
        let parent = "mod child; pub use child::C; pub struct P;";
        let child = "use super::P; pub struct C(P);";
        let found = circles(&[("src/lib.rs", parent), ("src/child.rs", child)]);
        assert_eq!(found.len(), 1, "{found:?}");
        let parent = "mod child; pub struct P;";
        let found = circles(&[("src/lib.rs", parent), ("src/child.rs", child)]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn tests_and_visibility_tie_nothing() {
        let found = circles(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("src/b.rs", "use crate::a::A; pub(in crate) struct B(A);"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
