//! The installed units and option files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use kvs_testkit::{InstalledTree, are_installed, bin, private_dir, project_dir, tool};
use tempfile::TempDir;

/// The maximum exposure of a service by `systemd-analyze security`, in tenths. (10.0 is a service
/// without any protection.)
const EXPOSED: [(&str, u32); 2] =
    [("kvs-local-server.service", 12), ("kvs-auth-server.service", 11)];

/// Units contain the paths of their programs, so the tree must be at its final path.
fn installed() -> TempDir {
    let dir = private_dir();
    tool(
        Command::new(project_dir().join("packaging/install"))
            .arg("install")
            .env("PREFIX", dir.path()),
    );
    dir
}

#[test]
fn systemd_accepts_the_units_and_rates_them_safe() {
    if !are_installed(&["systemd-analyze"], "the units") {
        return;
    }
    let installed = installed();
    let units = installed.path().join("lib/systemd/system");
    let names = ["kvs-local-server.socket", "kvs-local-server.service", "kvs-auth-server.service"];
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(names.map(|name| units.join(name)))
        .output()
        .expect("it is there");
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && said.is_empty(), "{said}");
    for (unit, tenths) in EXPOSED {
        tool(
            Command::new("systemd-analyze")
                .args(["security", "--no-pager", "--offline=true"])
                .arg(format!("--threshold={tenths}"))
                .arg(units.join(unit)),
        );
    }
}

/// The options of a server with their defaults, from its help.
fn options(program: &str) -> BTreeMap<String, Option<String>> {
    let help = tool(Command::new(bin(program)).arg("--help"));
    let mut options = BTreeMap::new();
    let mut last = None;
    for line in help.lines() {
        let line = line.trim();
        if let Some((_, option)) = line.split_once("--").filter(|(before, _)| before.len() < 5) {
            let name = option.split(' ').next().expect("a word").to_owned();
            // The text after the options mentions options, too.
            if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                continue;
            }
            options.insert(name.clone(), None);
            last = Some(name);
        } else if let (Some(name), Some(default)) = (&last, line.strip_prefix("[default: ")) {
            let default = default.strip_suffix(']').expect("it ends the line");
            // Some defaults depend on other options and are described in words.
            if !default.contains(' ') {
                options.insert(name.clone(), Some(default.to_owned()));
            }
        }
    }
    // Options that a file cannot set.
    options
        .retain(|name, _| !["help", "version", "config", "check-config"].contains(&name.as_str()));
    options
}

#[test]
fn option_files_list_every_option_with_its_default() {
    for (program, file) in
        [("KVS-LocalServer", "local-server.toml"), ("KVS-AuthServer", "auth-server.toml")]
    {
        let text = fs::read_to_string(project_dir().join("packaging/etc").join(file));
        let text = text.expect("it is there");
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{file}");
        let entries: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# ")?.split_once(" = "))
            .filter(|(name, _)| !name.contains(' '))
            .collect();
        let options = options(program);
        assert!(options.len() >= 5, "{options:?}");
        let named: Vec<&str> = entries.keys().copied().collect();
        let wanted: Vec<&str> = options.keys().map(String::as_str).collect();
        assert_eq!(named, wanted, "{file}");
        for (name, default) in &options {
            if let Some(default) = default {
                assert_eq!(entries[name.as_str()].trim_matches('"'), default, "{name} in {file}");
            }
        }
    }
}

#[test]
fn changed_configuration_is_neither_overwritten_nor_removed() {
    let installed = InstalledTree::new();
    let [changed, unchanged] =
        ["local-server.toml", "auth-server.toml"].map(|name| installed.path("etc/kvs").join(name));
    let original = fs::read_to_string(&unchanged).expect("it is installed");
    let mine = "login-timeout = 20\n";
    fs::write(&changed, mine).expect("the tree is ours");
    installed.again();
    let read = |path: &Path| fs::read_to_string(path).expect("it is there");
    assert_eq!(read(&changed), mine);

    // An earlier version without changes.
    let before = original.replacen("# ", "# Of an earlier version: ", 1);
    fs::write(&unchanged, &before).expect("the tree is ours");
    let pristine = installed.path("share/doc/kvs/etc/auth-server.toml");
    fs::write(pristine, &before).expect("the tree is ours");
    installed.again();
    assert_eq!(read(&unchanged), original);

    installed.uninstall();
    assert!(!unchanged.exists());
    assert_eq!(read(&changed), mine);
    // The second time there is no earlier version for comparison.
    installed.uninstall();
    assert_eq!(read(&changed), mine);
}
