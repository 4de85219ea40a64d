//! The options of `kvs` in a file.

use std::fs;

use crate::CliEnv;

/// Variables with which only the file sets the group and the secret.
fn without_variables<'a>() -> [(&'a str, &'a str); 2] {
    [("KVS_GROUP", ""), ("KVS_SECRET_FILE", "")]
}

fn content(env: &CliEnv) -> String {
    format!("group = 'weather'\nsecret-file = '{}'\n", env.secret_file(0o600).display())
}

#[test]
fn default_and_named_file_set_group_and_secret() {
    let env = CliEnv::start();
    env.run(["put", "k", "v"]).assert_prints("");
    let default_file = env.home.path().join(".config/kvs/kvs.toml");
    fs::create_dir_all(default_file.parent().unwrap()).unwrap();
    fs::write(&default_file, content(&env)).unwrap();
    let home = [("XDG_CONFIG_HOME", "")];
    env.run_with(["get", "k"], b"", without_variables().into_iter().chain(home)).assert_prints("v");

    let named = env.home.path().join("named.toml");
    fs::rename(&default_file, &named).unwrap();
    let named = named.to_str().unwrap();
    let gone = env.run_with(["get", "k"], b"", without_variables());
    assert_eq!(gone.code, Some(2), "{gone:?}");
    env.run_with(["get", "k", "--config", named], b"", without_variables()).assert_prints("v");
    let variable = [("KVS_CONFIG", named)];
    env.run_with(["get", "k"], b"", without_variables().into_iter().chain(variable))
        .assert_prints("v");
    let xdg = env.home.path().join("xdg");
    fs::create_dir_all(xdg.join("kvs")).unwrap();
    fs::rename(named, xdg.join("kvs/kvs.toml")).unwrap();
    let variable = [("XDG_CONFIG_HOME", xdg.to_str().unwrap())];
    env.run_with(["get", "k"], b"", without_variables().into_iter().chain(variable))
        .assert_prints("v");
}

#[test]
fn environment_and_options_override_the_file() {
    let env = CliEnv::start();
    env.run(["put", "k", "v"]).assert_prints("");
    let file = env.home.path().join("file.toml");
    fs::write(&file, "group = 'elsewhere'\nsocket = '/nowhere'\njson = true\n").unwrap();
    let file = file.to_str().unwrap();
    let output = env.run(["get", "k", "--config", file]);
    assert_eq!((output.code, output.text().starts_with('{')), (Some(0), true), "{output:?}");
    let output = env.run_with(["get", "k", "--config", file], b"", [("KVS_GROUP", "")]);
    assert_eq!(output.code, Some(4), "the group of the file: {output:?}");
    let typed = ["get", "k", "--config", file, "--group", "weather"];
    assert_eq!(env.run_with(typed, b"", [("KVS_GROUP", "")]).code, Some(0));
}

#[test]
fn errors_of_the_file_are_reported_with_lines() {
    let env = CliEnv::start();
    let file = env.home.path().join("file.toml");
    fs::write(&file, "group = 'weather'\n\ntimeout = 'long'\nsecret = 'VKHMp'\n").unwrap();
    let file = file.to_str().unwrap();
    let output = env.run(["get", "k", "--config", file]);
    assert_eq!(output.code, Some(2), "{output:?}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert!(lines[0].starts_with(&format!("kvs: {file}:3: timeout = long: ")), "{output:?}");
    assert!(lines[1].starts_with(&format!("{file}:4: there is no option secret")), "{output:?}");
    assert!(!output.stderr.contains("VKHMp"), "the message shows the secret");
}
