//! The programs of `README.md` and `docs/LIBRARY.md`, taken from these pages, built by the commands
//! that they show, and run with real servers.
//!
//! Only what a page cannot know is replaced: the path of the project, and the secret of the group.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use kvs_testkit::{
    Driver, LocalServer, Program, STRICT, Sockets, TestEnv, lib_dir, private_dir, project_dir, tool,
};
use tempfile::TempDir;

/// The group and the secret in the examples.
const GROUP: &str = "weather";
const SECRET: &str = "VKHMp";

const README: &str = "README.md";
const LIBRARY: &str = "docs/LIBRARY.md";

/// The fenced blocks of a page, with their languages, and the inline code of its prose.
struct Page {
    blocks: Vec<(String, String)>,
    code: Vec<String>,
}

impl Page {
    fn load(path: &str) -> Self {
        let text = fs::read_to_string(project_dir().join(path)).expect("the page exists");
        let (mut blocks, mut prose) = (Vec::new(), String::new());
        for (n, part) in text.split("```").enumerate() {
            if n % 2 == 0 {
                prose.push_str(part);
            } else {
                let (language, block) = part.split_once('\n').expect("a block has lines");
                blocks.push((language.to_owned(), block.to_owned()));
            }
        }
        let code = prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
        Self { blocks, code: code.collect() }
    }

    /// The block in this language that contains `what`.
    fn block(&self, language: &str, what: &str) -> &str {
        let mut found =
            self.blocks.iter().filter(|(of, block)| of == language && block.contains(what));
        match (found.next(), found.next()) {
            (Some((_, block)), None) => block,
            _ => panic!("not exactly one block of {language} contains {what}"),
        }
    }

    /// The code within the prose that begins like this.
    fn code(&self, beginning: &str) -> &str {
        let found = self.code.iter().find(|code| code.starts_with(beginning));
        found.unwrap_or_else(|| panic!("no code in the prose begins with {beginning}"))
    }
}

/// Runs `command` in `dir`, with a server to connect to. Returns its output.
fn run(server: &LocalServer, dir: &Path, command: &str) -> Vec<String> {
    // The callback path follows from this one.
    let program = Program::new("sh").args(["-c", command]).current_dir(dir);
    let process = program.env("KVS_SOCKET", server.socket()).spawn();
    let finished = process.finish();
    assert!(finished.status.success() && finished.stderr.is_empty(), "{}", process.report());
    finished.stdout
}

/// Creates a directory with a C program of a page and the files that its commands need.
fn with_program(name: &str, program: &str) -> TempDir {
    let dir = private_dir();
    let prepare = || {
        fs::write(dir.path().join(name), program)?;
        fs::create_dir(dir.path().join("target"))?;
        symlink(project_dir().join("include"), dir.path().join("include"))?;
        symlink(lib_dir(), dir.path().join("target/release"))
    };
    prepare().expect("the directory is new");
    dir
}

/// The command that builds a program, and the one that starts it.
fn build_and_start<'a>(page: &'a Page, build: &str, secret: &str) -> (&'a str, String) {
    let commands = page.block("sh", build);
    let (build, start) = commands.split_once('\n').expect("a line builds it, another starts it");
    (build, start.replace(SECRET, secret))
}

#[test]
fn six_function_program_builds_shared_and_static_and_runs() {
    let env = TestEnv::builder().group(GROUP).start();
    let page = Page::load(LIBRARY);
    let dir = with_program("hello.c", page.block("c", "put_value(\"greeting\""));
    let (dynamic, start) = build_and_start(&page, "gcc hello.c", env.secret());
    let archive = page.code("gcc hello.c");
    assert_eq!(page.code("-static"), "-static", "it may be added");
    for build in [dynamic, archive, &format!("{archive} -static")] {
        tool(Command::new("sh").args(["-c", build]).current_dir(dir.path()));
        let printed = run(&env.server, dir.path(), &start);
        assert_eq!(printed, ["greeting = hello"], "{build}");
        fs::remove_file(dir.path().join("hello")).expect("it was built");
    }
}

#[test]
fn watch_program_of_the_readme_prints_a_change() {
    let env = TestEnv::builder().group(GROUP).start();
    let page = Page::load(README);
    let dir = with_program("watch.c", page.block("c", "kvs_watch_prefix"));
    let (build, _) = build_and_start(&page, "gcc watch.c", env.secret());
    let build = format!("{build} -std=c99 {}", STRICT.join(" "));
    tool(Command::new("sh").args(["-c", &build]).current_dir(dir.path()));
    let watch = Program::new(dir.path().join("watch"))
        .args([GROUP, env.secret()])
        .env("KVS_SOCKET", env.server.socket())
        .spawn();
    env.server
        .status_where("it watches", |status| status.iter().any(|app| !app.watched.is_empty()));
    Driver::connected(&env.server, GROUP, env.secret()).store("temperature", "21.5");
    watch.expect_line_where("a change", |line| line == "temperature has version 1");
    watch.send("");
    assert!(watch.finish().status.success(), "{}", watch.report());
}

#[test]
fn counter_program_loses_no_increment() {
    let env = TestEnv::builder().group(GROUP).start();
    let page = Page::load(LIBRARY);
    let dir = with_program("counter.c", page.block("c", "kvs_cas"));
    let (build, start) = build_and_start(&page, "gcc counter.c", env.secret());
    tool(
        Command::new("sh")
            .args(["-c", &format!("{build} {}", STRICT.join(" "))])
            .current_dir(dir.path()),
    );
    for _ in 0..2 {
        assert_eq!(run(&env.server, dir.path(), &start), ["starts has changed"]);
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let lines = run(&env.server, dir.path(), &start);
                assert!(lines.iter().all(|line| line == "starts has changed"), "{lines:?}");
            });
        }
    });
    let driver = Driver::connected(&env.server, GROUP, env.secret());
    assert_eq!(driver.get("starts").as_deref(), Ok("10"));
}

#[test]
fn rust_program_builds_without_the_c_interface_and_runs() {
    let env = TestEnv::builder().group(GROUP).start();
    let page = Page::load(LIBRARY);

    // The directory is permanent and files are written only when they change, so that the program
    // is built only once.
    let dir = lib_dir().join("test-programs/readme");
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        fs::write(&path, text)
    };
    let dependency = page.code("kvs-lib = ").replace('…', project_dir().to_str().expect("UTF-8"));
    let manifest = format!(
        "[package]\nname = \"readme\"\nedition = \"2024\"\n\n[dependencies]\n{dependency}\n\n\
         [profile.dev]\ndebug = false\n\n[workspace]\n"
    );
    let secret_in_place = format!("\"{SECRET}\"");
    let program = page.block("rust", "fn main");
    assert!(program.contains(&secret_in_place), "{program}");
    let program = program.replace(&secret_in_place, "std::env::args().nth(1).unwrap()");
    let lock = fs::read_to_string(project_dir().join("Cargo.lock")).expect("it is committed");
    fs::create_dir_all(dir.join("src"))
        .and_then(|()| write("Cargo.toml", &manifest))
        // With the versions in the project's lock file, nothing must be downloaded.
        .and_then(|()| write("Cargo.lock", &lock))
        .and_then(|()| write("src/main.rs", &program))
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    tool(
        Command::new(cargo)
            .args(["build", "--quiet", "--offline", "--target-dir", "target"])
            .current_dir(&dir),
    );

    let printed = run(&env.server, &dir, &format!("target/debug/readme {}", env.secret()));
    assert_eq!(printed, ["21.5 degrees"]);
    let status = env
        .server
        .status_where("it has closed", |status| status.iter().all(|app| app.status == "Closed"));
    assert_eq!(status.len(), 1);
}
