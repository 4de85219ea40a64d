//! The command line program `kvs`, with real servers, pipes and terminals.
//!
//! - `commands`: each command, as text and as JSON; commands from standard input.
//! - `failures`: exit codes and messages; where the secret comes from and where it never appears.
//! - `files`: options in a file.
//! - `watch`: changes as they happen, and the commands that `--exec` runs.
//! - `prompt`: the prompt on a pseudo-terminal.

#![forbid(unsafe_code)]

mod commands;
mod failures;
mod files;
mod prompt;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use kvs_testkit::{Process, Program, Sockets, TestEnv, bin, private_dir};
use tempfile::TempDir;

const GROUP: &str = "weather";

/// Both servers with one group, and a home directory for `kvs`.
struct CliEnv {
    env: TestEnv,
    home: TempDir,
}

impl Deref for CliEnv {
    type Target = TestEnv;

    fn deref(&self) -> &TestEnv {
        &self.env
    }
}

/// The result of a `kvs` that has exited.
#[derive(Debug)]
struct CliOutput {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl CliEnv {
    fn start() -> Self {
        Self::with_args([])
    }

    /// Starts a local server with these additional arguments.
    fn with_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        let env = TestEnv::builder().group(GROUP).args(args).start();
        Self { env, home: private_dir() }
    }

    /// The environment of `kvs`: the server, the group, and a file with the secret.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
        vec![
            ("KVS_SOCKET", path(self.server.socket())),
            ("KVS_GROUP", GROUP.into()),
            ("KVS_SECRET_FILE", path(&self.secret_file(0o600))),
            ("HOME", path(self.home.path())),
            ("XDG_STATE_HOME", path(&self.home.path().join("state"))),
            ("TERM", "xterm".into()),
            ("NO_COLOR", "1".into()),
        ]
    }

    /// A file with the secret and this mode.
    fn secret_file(&self, mode: u32) -> PathBuf {
        let path = self.home.path().join(format!("secret-{mode:o}"));
        if !path.exists() {
            fs::write(&path, format!("{}\n", self.secret())).expect("the directory is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        }
        path
    }

    /// `kvs` with the environment of this group, not started yet.
    fn kvs<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        let program = Program::new(bin("kvs")).args(args);
        self.variables()
            .into_iter()
            .fold(program, |program, (name, value)| program.env(name, value))
    }

    /// A `kvs watch` that has started to watch.
    fn watch<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Process {
        let watch = self.kvs(["watch"].into_iter().chain(args)).spawn();
        watch.expect_log("the start of the watch", |line| line.contains("watching"));
        watch
    }

    /// Runs `kvs` until it exits.
    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> CliOutput {
        self.run_with(args, b"", [])
    }

    /// Runs `kvs` with this input and these additional variables until it exits.
    fn run_with<'a, 'b>(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
        variables: impl IntoIterator<Item = (&'a str, &'b str)>,
    ) -> CliOutput {
        let mut command = Command::new(bin("kvs"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVS_") {
                command.env_remove(name);
            }
        }
        command.args(args).envs(self.variables()).envs(variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program was built");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // A command may exit without reading its input.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("the process is a child")
        });
        let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
        let output = CliOutput { code: output.status.code(), stdout: output.stdout, stderr };
        // No command prints the secret.
        assert!(
            !output.text().contains(self.secret()) && !output.stderr.contains(self.secret()),
            "{output:?}"
        );
        output
    }
}

impl CliOutput {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts that the command succeeded and printed only this.
    #[track_caller]
    fn assert_prints(&self, stdout: impl AsRef<[u8]>) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        assert!(self.stdout == stdout.as_ref(), "{self:?}");
    }

    /// Asserts that the command failed with this exit code and printed only this message.
    #[track_caller]
    fn assert_fails(&self, code: i32, message: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(code), &*format!("kvs: {message}\n")));
        assert!(self.stdout.is_empty(), "{self:?}");
    }

    /// The JSON objects on standard output, after asserting success.
    #[track_caller]
    fn json(&self) -> Vec<serde_json::Value> {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        parse_json_lines(&self.text())
    }
}

/// One JSON value per line.
fn parse_json_lines(lines: &str) -> Vec<serde_json::Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("the line is JSON")).collect()
}
