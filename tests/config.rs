//! The options of the servers in a file: valid options take effect, errors are reported with their
//! lines, and SIGHUP changes the log level of a running server.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use kvs_testkit::{AuthServer, ProcessOutput, Program, TestEnv, bin, private_dir};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A directory with the file and the sockets of a local server.
struct ConfigDir {
    dir: tempfile::TempDir,
}

impl ConfigDir {
    fn new() -> Self {
        Self { dir: private_dir() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the file: the address and the socket of the server, followed by these lines.
    fn write(&self, auth: &AuthServer, lines: &str) -> PathBuf {
        let file = self.path("local-server.toml");
        let text = format!(
            "auth = \"{}\"\nsocket = \"{}\"\n{lines}",
            auth.addr(),
            self.path("sock").display()
        );
        fs::write(&file, text).expect("the directory is ours");
        file
    }

    fn program(&self, file: &Path) -> Program {
        Program::new(bin("KVS-LocalServer")).arg("--config").arg(file)
    }
}

/// Runs a server that exits before it serves.
fn run_to_exit(program: Program) -> ProcessOutput {
    program.spawn().finish()
}

#[test]
fn file_configures_the_server() {
    let auth = AuthServer::start();
    let files = ConfigDir::new();
    let callback = files.path("elsewhere");
    let lines = format!("callback-socket = '{}'\nmax-value-bytes = 200\n", callback.display());
    let server = files.program(&files.write(&auth, &lines)).spawn();
    server.expect_line_where("the port", |line| line.starts_with("Port Number: "));
    assert!(files.path("sock").exists() && callback.exists());
    server.send("Create group\ng");
    let secret = server.expect_line_where("the secret", |line| line.starts_with("Group created"));
    let secret = secret["Group created with secret ".len()..].trim_end_matches('!').to_owned();
    let connection = kvs::Connection::builder()
        .socket(files.path("sock"))
        .callback_socket(&callback)
        .open("g", &secret)
        .expect("the server uses the sockets of the file");
    connection.put("k", vec![b'x'; 200]).expect("it is short enough");
    let error = connection.put("k", vec![b'x'; 201]).unwrap_err();
    assert_eq!(error.code(), -15, "{error}");
    connection.close().expect("the server is there");
    server.send("Quit");
    assert!(server.wait_exit().success());
}

#[test]
fn options_override_environment_and_environment_the_file() {
    let auth = AuthServer::start();
    let files = ConfigDir::new();
    let file = files.write(&auth, "login-timeout = 20\nmax-pairs-per-user = 30\nverbose = true\n");
    let checked = run_to_exit(
        files
            .program(&file)
            .arg("--check-config")
            .args(["--login-timeout", "21"])
            .env("KVS_LOGIN_TIMEOUT", "22")
            .env("KVS_MAX_PAIRS_PER_USER", "32"),
    );
    assert!(checked.status.success(), "{checked:?}");
    let setting = |name: &str| {
        let line = checked.stdout.iter().find(|line| line.starts_with(&format!("{name} =")));
        let (value, source) = line.and_then(|line| line.split_once(" # ")).expect("it is listed");
        (value.trim().to_owned(), source.to_owned())
    };
    assert_eq!(setting("login-timeout"), ("login-timeout = 21".into(), "--login-timeout".into()));
    let pairs = ("max-pairs-per-user = 32".into(), "KVS_MAX_PAIRS_PER_USER".into());
    assert_eq!(setting("max-pairs-per-user"), pairs);
    assert_eq!(setting("verbose"), ("verbose = true".into(), "line 5".into()));
    assert_eq!(setting("exit-on-auth-loss").1, "default");
    assert!(checked.stderr.is_empty());
    assert!(!files.path("sock").exists(), "nothing is served");
}

#[test]
fn errors_are_reported_with_lines_and_prevent_the_start() {
    let auth = AuthServer::start();
    let files = ConfigDir::new();
    let file = files.write(&auth, "login-timeout = 0\n\nsocket-mod = 660\nlog-level = \"loud\"\n");
    for arguments in [&[][..], &["--check-config"]] {
        let output = run_to_exit(files.program(&file).args(arguments));
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty(), "{output:?}");
        let at = file.display();
        assert_eq!(
            output.stderr,
            [
                format!("KVS-LocalServer: {at}:3: login-timeout = 0: 0 is not in 1..=3600"),
                format!("{at}:5: there is no option socket-mod; did you mean socket-mode?"),
                format!("{at}:6: log-level = loud: it must be one of error, warn, info, debug"),
            ]
        );
        assert!(!files.path("sock").exists());
    }
    let missing = files.path("missing.toml");
    let output = run_to_exit(files.program(&missing));
    assert_eq!(output.status.code(), Some(2));
    let message = format!(
        "KVS-LocalServer: cannot read {}: No such file or directory (os error 2)",
        missing.display()
    );
    assert_eq!(output.stderr, [message]);
    // Each option is valid, but not both together.
    let same = format!("callback-socket = '{}'", files.path("sock").display());
    let output = run_to_exit(files.program(&files.write(&auth, &same)).arg("--check-config"));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr[0].contains("--socket and --callback-socket must differ"), "{output:?}");
}

#[test]
fn auth_server_has_a_file_too() {
    let files = ConfigDir::new();
    let file = files.path("auth-server.toml");
    fs::write(&file, "# nothing but comments\nlisten = \"127.0.0.1:1\"\nconfirm-wait = '1h'\n")
        .unwrap();
    let program = || Program::new(bin("KVS-AuthServer")).arg("--config").arg(&file);
    let output = run_to_exit(program());
    assert_eq!(output.status.code(), Some(2));
    let message =
        format!("KVS-AuthServer: {}:3: confirm-wait = 1h: it must be a number", file.display());
    assert_eq!(output.stderr, [message]);
    fs::write(&file, "groups-per-machine = 5\n").unwrap();
    let output = run_to_exit(program().arg("--check-config"));
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.iter().any(|line| line.starts_with("groups-per-machine = 5 ")));
}

#[test]
fn sighup_changes_only_the_log_level() {
    let auth = AuthServer::start();
    let files = ConfigDir::new();
    let server = files.program(&files.write(&auth, "")).spawn();
    server.expect_line_where("the port", |line| line.starts_with("Port Number: "));
    server.send("Create group\ng");
    let secret = server.expect_line_where("the secret", |line| line.starts_with("Group created"));
    let secret = secret["Group created with secret ".len()..].trim_end_matches('!').to_owned();
    let opened = kvs::Connection::builder().socket(files.path("sock")).open("g", &secret);
    let connection = opened.expect("it is served");
    let put = |key: &str| connection.put(key, "v").expect("the server still serves");
    put("first");

    files.write(&auth, "log-level = \"debug\"\nlogin-timeout = 99\n");
    server.signal(Signal::SIGHUP);
    server.expect_log("the new level", |line| line.contains("the log level is debug now"));
    put("second");
    server.expect_log("every operation", |line| line.contains("second"));

    // An invalid file changes nothing, and the error is logged with its line.
    let file = files.write(&auth, "log-level = \"debug\"\nlogin-timeout = 'long'\n");
    server.signal(Signal::SIGHUP);
    server.expect_log("the error", |line| {
        line.contains("not applied") && line.contains(&format!("{}:4: ", file.display()))
    });
    // Each option is valid, but not both together.
    let same =
        format!("log-level = 'error'\ncallback-socket = '{}'\n", files.path("sock").display());
    files.write(&auth, &same);
    server.signal(Signal::SIGHUP);
    server.expect_log("the error", |line| line.contains("must differ"));
    put("third");
    server.expect_log("every operation", |line| line.contains("third"));

    files.write(&auth, "log-level = \"warn\"\n");
    server.signal(Signal::SIGHUP);
    server.expect_log("the new level", |line| line.contains("the log level is warn now"));
    put("fourth");
    connection.close().expect("the server is there");
    server.send("Quit");
    assert!(server.wait_exit().success());
    let log = server.finish().stderr;
    let seen = |key: &str| log.iter().any(|line| line.contains(key));
    assert!(!seen("first") && seen("second") && seen("third") && !seen("fourth"), "{log:#?}");
    assert!(!seen("quitting"), "informational: {log:#?}");
}

#[test]
fn sighup_without_file_terminates_the_server() {
    let env = TestEnv::without_group();
    env.server.signal(Signal::SIGHUP);
    let output = env.server.wait_exit();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output), Some(Signal::SIGHUP as i32));
}

#[test]
fn json_log_has_one_object_per_line() {
    let env = TestEnv::builder()
        .args(["--log-format", "json", "--log-level", "debug"])
        .group("a\"group\"")
        .start();
    let app = env.driver();
    app.store("k", "v");
    env.server.quit();
    let log = env.server.finish().stderr;
    assert!(!log.is_empty());
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field} of {line}");
        }
    }
    assert!(lines.iter().any(|line| {
        line["message"] == "group created"
            && line["group"].as_str().is_some_and(|name| name.contains("group"))
    }));
    assert!(!log.concat().contains(env.secret()), "a secret is logged");
}
