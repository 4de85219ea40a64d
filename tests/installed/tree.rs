//! The installed files, their symbols, the Debian package, and uninstallation.

use std::fs;
use std::path::Path;
use std::process::Command;

use kvs_testkit::{InstalledTree, are_installed, has_tools, private_dir, project_dir, tool};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAJOR: &str = env!("CARGO_PKG_VERSION_MAJOR");

#[test]
fn the_library_has_its_soname_and_both_links() {
    let installed = InstalledTree::new();
    let file = format!("libkvs.so.{VERSION}");
    let soname = format!("libkvs.so.{MAJOR}");
    let links_to = |name: &str| fs::read_link(installed.path("lib").join(name)).expect("a link");
    assert_eq!(links_to(&soname), Path::new(&file));
    assert_eq!(links_to("libkvs.so"), Path::new(&soname));
    let dynamic = tool(Command::new("readelf").arg("-d").arg(installed.path("lib").join(&file)));
    assert!(dynamic.contains(&format!("Library soname: [{soname}]")), "{dynamic}");
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    let of_the_system =
        |line: &&str| ["libc.so", "libgcc_s.so", "ld-linux"].iter().any(|name| line.contains(name));
    assert!(needed.iter().all(of_the_system), "{needed:?}");
    assert!(!dynamic.contains("TEXTREL") && !dynamic.contains("RPATH"), "{dynamic}");
}

/// The functions that the header declares.
fn declared(header: &Path) -> Vec<String> {
    let text = fs::read_to_string(header).expect("it is installed");
    let preprocessed = tool(Command::new("gcc").args(["-E", "-P", "-include"]).arg(header).args([
        "-x",
        "c",
        "/dev/null",
    ]));
    let mut names: Vec<String> = preprocessed
        .split(';')
        .filter(|declaration| !declaration.contains("typedef") && declaration.contains('('))
        .filter_map(|declaration| {
            let name = declaration.split('(').next()?.split([' ', '*', '\n']).next_back()?;
            Some(name.to_owned())
        })
        // Functions of the system's headers are not in the text.
        .filter(|name| !name.is_empty() && text.contains(&format!("{name}(")))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The exported symbols.
fn visible(nm: &mut Command) -> Vec<String> {
    let mut names: Vec<String> = tool(nm)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (_, kind, name) = (words.next()?, words.next()?, words.next()?);
            (kind != "A").then(|| name.split('@').next().unwrap_or(name).to_owned())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn library_exports_exactly_the_declared_functions() {
    let installed = InstalledTree::new();
    let declared = declared(&installed.path("include/kvs.h"));
    assert!(declared.contains(&"put_value".to_owned()) && declared.len() > 20, "{declared:?}");
    let shared = installed.path("lib/libkvs.so");
    assert_eq!(visible(Command::new("nm").args(["-D", "--defined-only"]).arg(shared)), declared);
    for object in ["lib/libkvs.a", "lib/kvs/KVS-lib.o"] {
        let path = installed.path(object);
        assert_eq!(
            visible(Command::new("nm").args(["-g", "--defined-only"]).arg(path)),
            declared,
            "{object}"
        );
    }
}

#[test]
fn uninstall_removes_exactly_the_installed_files() {
    let installed = InstalledTree::new();
    let other = installed.path("lib/another-library.so");
    fs::write(&other, "").expect("the tree is ours");
    installed.uninstall();
    for ours in ["lib/kvs", "lib/cmake/kvs", "share/doc/kvs"] {
        assert!(!installed.path(ours).exists(), "{ours}");
    }
    // Directories that other software shares stay.
    assert!(installed.path("include").exists() && installed.path("lib/pkgconfig").exists());
    let mut left = Vec::new();
    let mut dirs = vec![installed.dest().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() { dirs.push(path) } else { left.push(path) }
        }
    }
    assert_eq!(left, [other]);
}

#[test]
fn debian_package_is_the_installed_tree() {
    if !has_tools(&["dpkg-architecture", "dpkg-deb"]) {
        return;
    }
    let dir = private_dir();
    let built = tool(Command::new(project_dir().join("packaging/deb")).arg(dir.path()));
    let package = built.trim();
    let fields = tool(Command::new("dpkg-deb").args(["--field", package]));
    assert!(fields.contains(&format!("Version: {VERSION}-1")), "{fields}");
    assert!(fields.contains("Depends: libc6 (>= "), "{fields}");

    let root = dir.path().join("root");
    tool(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root));
    let multiarch = tool(Command::new("dpkg-architecture").arg("-qDEB_HOST_MULTIARCH"));
    let library = root.join("usr/lib").join(multiarch.trim()).join(format!("libkvs.so.{VERSION}"));
    let installed = InstalledTree::new();
    let same =
        |one: &Path, other: &Path| fs::read(one).expect("there") == fs::read(other).expect("there");
    assert!(same(&library, &installed.path(&format!("lib/libkvs.so.{VERSION}"))));
    for file in ["bin/KVS-LocalServer", "bin/KVS-AuthServer", "include/kvs.h"] {
        assert!(same(&root.join("usr").join(file), &installed.path(file)), "{file}");
    }
    // The services start programs of the package.
    for unit in ["kvs-auth-server", "kvs-local-server"] {
        let path = root.join(format!("usr/lib/systemd/system/{unit}.service"));
        let text = fs::read_to_string(&path).expect("it is in the package");
        let command =
            text.lines().find_map(|line| line.strip_prefix("ExecStart=/")).expect("a command");
        let program = root.join(command.split(' ').next().expect("a word"));
        assert!(program.is_file(), "{}", program.display());
    }

    let control = dir.path().join("control");
    tool(Command::new("dpkg-deb").arg("--control").arg(package).arg(&control));
    for script in ["postinst", "prerm", "postrm"] {
        tool(Command::new("sh").arg("-n").arg(control.join(script)));
    }
}

#[test]
fn interface_change_needs_a_new_version() {
    if !are_installed(&["abidiff"], "interface_change_needs_a_new_version") {
        return;
    }
    // A copy of the files that the check reads, with another header each time.
    let copy = private_dir();
    let files = ["Cargo.toml", "include", "packaging", "target/install"];
    fs::create_dir(copy.path().join("target")).expect("the directory is ours");
    for file in files {
        let to = copy.path().join(file);
        tool(Command::new("cp").arg("-r").arg(project_dir().join(file)).arg(to));
    }
    let header = fs::read_to_string(copy.path().join("include/kvs.h")).expect("it was copied");
    let cargo = fs::read_to_string(copy.path().join("Cargo.toml")).expect("it was copied");
    let check = |header: &str, version: &str| {
        fs::write(copy.path().join("include/kvs.h"), header).expect("the directory is ours");
        let cargo =
            cargo.replace(&format!("version = \"{VERSION}\""), &format!("version = \"{version}\""));
        fs::write(copy.path().join("Cargo.toml"), cargo).expect("the directory is ours");
        let real = copy.path().join(format!("target/install/libkvs.so.{VERSION}"));
        let named = copy.path().join(format!("target/install/libkvs.so.{version}"));
        if !named.exists() {
            fs::copy(real, named).expect("the directory is ours");
        }
        let output = Command::new(copy.path().join("packaging/abi")).arg("check").output();
        let output = output.expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let next_minor = "1.1.0";
    let next_major = "2.0.0";
    assert!(check(&header, VERSION).0);

    let with_another_code = header.replace("KVS_ERROR_CONFLICT (-18)", "KVS_ERROR_CONFLICT (-20)");
    assert_ne!(with_another_code, header);
    let (passed, said) = check(&with_another_code, VERSION);
    assert!(!passed && said.contains("constants"), "{said}");

    let without_a_field = header.replace("  size_t key_len;\n", "");
    assert_ne!(without_a_field, header);
    let (passed, said) = check(&without_a_field, VERSION);
    assert!(!passed && said.contains("would break"), "{said}");
    assert!(!check(&without_a_field, next_minor).0);

    let with_another_type = header.replace("size_t value_len;", "int value_len;");
    assert!(!check(&with_another_type, next_minor).0);
    assert!(check(&with_another_type, next_major).0);

    let with_another_argument = header.replace(
        "int delete_value(const char *key);",
        "int delete_value(const char *key, int how);",
    );
    assert_ne!(with_another_argument, header);
    assert!(!check(&with_another_argument, VERSION).0);

    // A function that is declared but not in the library.
    let declared = header.replace(
        "int close_connection(void);",
        "int close_connection(void);\n\nint kvs_more(void);",
    );
    let map = copy.path().join("packaging/kvs.map");
    let symbols = fs::read_to_string(&map).expect("it was copied");
    fs::write(&map, symbols.replace("kvs_open;", "kvs_open; kvs_more;"))
        .expect("the directory is ours");
    let (passed, said) = check(&declared, VERSION);
    assert!(!passed && said.contains("does not have"), "{said}");
}
