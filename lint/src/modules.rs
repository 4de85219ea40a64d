//! The modules of a package, each with its file, found by following the `mod` declarations from the
//! roots of its targets. Modules that exist in tests only are left out.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item};

/// One module that has a file of its own.
pub(crate) struct Module {
    /// The path of the module from its crate root; empty for the root itself.
    pub(crate) path: Vec<String>,
    /// The file, relative to the package.
    pub(crate) file: PathBuf,
    /// The target that the module belongs to: the file of its root.
    pub(crate) target: PathBuf,
    /// The parsed file.
    pub(crate) syntax: syn::File,
}

/// The directories below `directory` that have a `Cargo.toml` with a package.
pub(crate) fn packages(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut packages = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

/// All modules of all targets of a package, but for integration tests.
pub(crate) fn of_package(package: &Path) -> Result<Vec<Module>, Box<dyn Error>> {
    let mut roots: Vec<PathBuf> =
        ["build.rs", "src/lib.rs", "src/main.rs"].map(PathBuf::from).into();
    if let Ok(programs) = fs::read_dir(package.join("src/bin")) {
        for program in programs {
            roots.push(Path::new("src/bin").join(program?.file_name()));
        }
    }
    let mut modules = Vec::new();
    for root in roots {
        if package.join(&root).is_file() {
            let children = root.parent().unwrap_or(Path::new("")).to_owned();
            collect(package, &root, &root, &children, Vec::new(), &mut modules)?;
        }
    }
    Ok(modules)
}

/// Adds the module in `file`, whose submodules are in the directory `children`.
fn collect(
    package: &Path,
    target: &Path,
    file: &Path,
    children: &Path,
    path: Vec<String>,
    modules: &mut Vec<Module>,
) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(package.join(file))
        .map_err(|error| format!("{}: {error}", package.join(file).display()))?;
    let syntax = syn::parse_file(&text)
        .map_err(|error| format!("{}: {error}", package.join(file).display()))?;
    let mut declared = Vec::new();
    for item in &syntax.items {
        let Item::Mod(item) = item else { continue };
        if item.content.is_none() && !is_test(&item.attrs) {
            declared.push((item.ident.to_string(), path_attribute(&item.attrs)));
        }
    }
    let target = target.to_owned();
    modules.push(Module { path: path.clone(), file: file.to_owned(), target, syntax });
    let target = modules[modules.len() - 1].target.clone();
    for (name, explicit) in declared {
        let directory = children.join(&name);
        let candidates = match explicit {
            Some(explicit) => vec![file.parent().unwrap_or(Path::new("")).join(explicit)],
            None => vec![children.join(format!("{name}.rs")), directory.join("mod.rs")],
        };
        let Some(child) = candidates.iter().find(|file| package.join(file).is_file()) else {
            return Err(format!("{}: the file of mod {name} is missing", file.display()).into());
        };
        let path = path.iter().cloned().chain([name]).collect();
        collect(package, &target, child, &directory, path, modules)?;
    }
    Ok(())
}

/// Whether an item is compiled for tests only.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Ok(list) = attribute.meta.require_list() else { return false };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let value = attribute.meta.require_name_value().ok()?;
        let syn::Expr::Lit(literal) = &value.value else { return None };
        match &literal.lit {
            syn::Lit::Str(file) if value.path.is_ident("path") => Some(file.value()),
            _ => None,
        }
    })
}
