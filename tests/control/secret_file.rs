//! The file of `kvs admin create --secret-file`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use kvs_testkit::{Console, Driver, TestEnv, is_root, private_dir};

use crate::{assert_error, assert_prints, control_path, kvs_admin, program};

#[test]
fn secret_file_is_new_and_private() {
    let mut env = TestEnv::without_group();
    let dir = private_dir();
    let file = dir.path().join("secret");
    let path = file.to_str().expect("test paths are UTF-8");
    let create = |group: &str| {
        let program =
            program(&control_path(&env.server), &["create", group, "--secret-file", path]);
        program.umask("000").console(Console::NoInput).spawn().finish()
    };
    assert_prints(&create("g"), &[]);
    let info = env.server.group_info("g").expect("it was created");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{}\n", info.secret));
    assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);

    fs::remove_file(&file).expect("it is ours");

    // A link is not followed.
    std::os::unix::fs::symlink(dir.path().join("victim"), &file).expect("the name is free");
    assert_error(&create("h"), 4, &[path, "it is a symbolic link", "nothing was created"]);
    assert!(!dir.path().join("victim").exists());
    fs::remove_file(&file).expect("it is ours");

    assert_error(&create("g"), 5, &["group g exists"]);
    assert!(!file.exists(), "the file is removed, because no group was created");
    env.auth.kill();
    assert_error(&create("h"), 6, &["does not answer"]);
    assert!(!file.exists(), "the file is removed, because no group was created");
    env.auth.restart();
    let nowhere = dir.path().join("no/such/directory");
    let nowhere = nowhere.to_str().expect("test paths are UTF-8");
    assert_error(
        &kvs_admin(&env.server, &["create", "h", "--secret-file", nowhere]),
        7,
        &["cannot use the secret file"],
    );
    assert_error(&kvs_admin(&env.server, &["info", "h"]), 1, &["no group h"]);
}

#[test]
fn group_is_recreated_with_the_secret_of_a_file() {
    let env = TestEnv::without_group();
    let dir = private_dir();
    let file = dir.path().join("secret");
    let path = file.to_str().expect("test paths are UTF-8");
    let create = |group: &str| kvs_admin(&env.server, &["create", group, "--secret-file", path]);
    assert_prints(&create("g"), &[]);
    let content = fs::read_to_string(&file).expect("it is there");
    env.server.delete_group("g");

    assert_prints(&create("g"), &[]);
    assert_eq!(env.server.group_info("g").expect("it was created").secret, content.trim_end());
    assert_eq!(fs::read_to_string(&file).expect("it is there"), content);
    let app = Driver::connected(&env.server, "g", content.trim_end());
    app.store("k", "v");

    fs::write(&file, "1234567\nnot this\n").expect("it is ours");
    assert_prints(&create("h"), &[]);
    assert_eq!(env.server.group_info("h").expect("it was created").secret, "1234567");
    for (content, code, word) in [
        ("12345678", 2, "at most 7 are allowed"),
        ("a\0b", 2, "invalid secret"),
        ("\nsecret\n", 2, "first line of the secret file"),
    ] {
        fs::write(&file, content).expect("it is ours");
        assert_error(&create("i"), code, &[word]);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), content);
    }
    assert_eq!(env.server.ask("Show group info", "i"), "Group id not found!");
    // An interrupted creation leaves an empty file behind.
    fs::write(&file, "").expect("it is ours");
    assert_prints(&create("i"), &[]);
    let secret = env.server.group_info("i").expect("it was created").secret;
    assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{secret}\n"));
}

#[test]
fn secret_file_that_others_can_write_is_rejected() {
    let env = TestEnv::without_group();
    let dir = private_dir();
    let create = |path: &Path| {
        kvs_admin(&env.server, &["create", "g", "--secret-file", path.to_str().expect("ours")])
    };
    let file = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, "known\n").expect("the directory is ours");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        path
    };
    assert_error(
        &create(&file("writable", 0o620)),
        4,
        &["users other than its owner can write it"],
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(file("right", 0o600), &link).expect("the name is free");
    assert_error(&create(&link), 4, &["it is a symbolic link"]);
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the name is free");
    assert_error(&create(&pipe), 4, &["it is not a regular file"]);
    if is_root("a file of another user") {
        let theirs = file("theirs", 0o600);
        std::os::unix::fs::chown(&theirs, Some(65534), None).expect("root may");
        assert_error(&create(&theirs), 4, &["it belongs to another user"]);
    }
    assert_eq!(env.server.ask("Show group info", "g"), "Group id not found!");
    assert_prints(&create(&dir.path().join("right")), &[]);
    assert_eq!(env.server.group_info("g").expect("it was created").secret, "known");
}
