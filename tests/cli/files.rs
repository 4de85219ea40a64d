//! The options of `kvs` in a file.

use std::fs;

use crate::World;

/// With the group and the secret in this file alone.
fn without_variables<'a>() -> [(&'a str, &'a str); 2] {
    [("KVS_GROUP", ""), ("KVS_SECRET_FILE", "")]
}

fn content(world: &World) -> String {
    format!("group = 'weather'\nsecret-file = '{}'\n", world.secret_file(0o600).display())
}

#[test]
fn the_usual_file_and_a_named_one_have_group_and_secret() {
    let world = World::start();
    world.run(["put", "k", "v"]).says("");
    let usual = world.home.path().join(".config/kvs/kvs.toml");
    fs::create_dir_all(usual.parent().unwrap()).unwrap();
    fs::write(&usual, content(&world)).unwrap();
    let home = [("XDG_CONFIG_HOME", "")];
    world.run_with(["get", "k"], b"", without_variables().into_iter().chain(home)).says("v");

    let named = world.home.path().join("named.toml");
    fs::rename(&usual, &named).unwrap();
    let named = named.to_str().unwrap();
    let gone = world.run_with(["get", "k"], b"", without_variables());
    assert_eq!(gone.code, Some(2), "{gone:?}");
    world.run_with(["get", "k", "--config", named], b"", without_variables()).says("v");
    let variable = [("KVS_CONFIG", named)];
    world.run_with(["get", "k"], b"", without_variables().into_iter().chain(variable)).says("v");
    let xdg = world.home.path().join("xdg");
    fs::create_dir_all(xdg.join("kvs")).unwrap();
    fs::rename(named, xdg.join("kvs/kvs.toml")).unwrap();
    let variable = [("XDG_CONFIG_HOME", xdg.to_str().unwrap())];
    world.run_with(["get", "k"], b"", without_variables().into_iter().chain(variable)).says("v");
}

#[test]
fn the_environment_and_the_command_line_count_before_the_file() {
    let world = World::start();
    world.run(["put", "k", "v"]).says("");
    let file = world.home.path().join("file.toml");
    fs::write(&file, "group = 'elsewhere'\nsocket = '/nowhere'\njson = true\n").unwrap();
    let file = file.to_str().unwrap();
    let ran = world.run(["get", "k", "--config", file]);
    assert_eq!((ran.code, ran.text().starts_with('{')), (Some(0), true), "{ran:?}");
    let ran = world.run_with(["get", "k", "--config", file], b"", [("KVS_GROUP", "")]);
    assert_eq!(ran.code, Some(4), "the group of the file: {ran:?}");
    let typed = ["get", "k", "--config", file, "--group", "weather"];
    assert_eq!(world.run_with(typed, b"", [("KVS_GROUP", "")]).code, Some(0));
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let world = World::start();
    let file = world.home.path().join("file.toml");
    fs::write(&file, "group = 'weather'\n\ntimeout = 'long'\nsecret = 'VKHMp'\n").unwrap();
    let file = file.to_str().unwrap();
    let ran = world.run(["get", "k", "--config", file]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with(&format!("kvs: {file}:3: timeout = long: ")), "{ran:?}");
    assert!(lines[1].starts_with(&format!("{file}:4: there is no option secret")), "{ran:?}");
    assert!(!ran.stderr.contains("VKHMp"), "a secret that was written there is not shown");
}
