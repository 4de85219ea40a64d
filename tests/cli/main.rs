//! What the command line program `kvs` promises, with real servers, pipes and terminals.
//!
//! - `commands.rs`: each command, as text and as JSON; commands from standard input.
//! - `failures.rs`: the exit code and the sentence of each failure; where the secret comes from and where it never goes.
//! - `files.rs`: options in a file.
//! - `watch.rs`: changes as they happen, and the commands that are run for them.
//! - `prompt.rs`: the prompt on a pseudo-terminal.

#![forbid(unsafe_code)]

mod commands;
mod failures;
mod files;
mod prompt;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use kvs_testkit::{AuthServer, LocalServer, Process, Program, Sockets, bin, private_dir};
use tempfile::TempDir;

const GROUP: &str = "weather";

/// A server with one group, and a home directory for the program.
struct World {
    server: LocalServer,
    auth: AuthServer,
    secret: String,
    home: TempDir,
}

/// A run that has come to its end.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl World {
    fn start() -> Self {
        Self::with([])
    }

    /// With these options of the server.
    fn with<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let auth = AuthServer::start();
        let server = LocalServer::builder(auth.addr()).args(options).start();
        let secret = server.create_group(GROUP);
        Self { server, auth, secret, home: private_dir() }
    }

    /// The environment of a member: the secret is in a file.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().expect("the test has chosen it").to_owned();
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

    /// A file with the secret and these permissions.
    fn secret_file(&self, mode: u32) -> PathBuf {
        let path = self.home.path().join(format!("secret-{mode:o}"));
        if !path.exists() {
            fs::write(&path, format!("{}\n", self.secret)).expect("the directory is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        }
        path
    }

    /// A member's `kvs`, to be started with a console.
    fn program<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        let program = Program::new(bin("kvs")).args(args);
        self.variables()
            .into_iter()
            .fold(program, |program, (name, value)| program.env(name, value))
    }

    /// A watch that has begun.
    fn watch<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Process {
        let watch = self.program(["watch"].into_iter().chain(args)).spawn();
        watch.expect_log("that it watches", |line| line.contains("watching"));
        watch
    }

    /// Runs a member's `kvs` to its end.
    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        self.run_with(args, b"", [])
    }

    /// With this input, and more or other variables.
    fn run_with<'a, 'b>(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
        variables: impl IntoIterator<Item = (&'a str, &'b str)>,
    ) -> Ran {
        let mut command = Command::new(bin("kvs"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVS_") {
                command.env_remove(name);
            }
        }
        command.args(args).envs(self.variables()).envs(variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // It need not read all of it.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("it has been started")
        });
        let stderr = String::from_utf8(output.stderr).expect("sentences are text");
        let ran = Ran { code: output.status.code(), stdout: output.stdout, stderr };
        // Whatever it was.
        assert!(
            !ran.text().contains(&self.secret) && !ran.stderr.contains(&self.secret),
            "{ran:?}"
        );
        ran
    }

    fn connect(&self) -> kvs::Connection {
        kvs_testkit::connect(&self.server, GROUP, &self.secret).expect("it is let in")
    }
}

impl Ran {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// It was done, and this is all that it said.
    #[track_caller]
    fn says(&self, stdout: impl AsRef<[u8]>) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        assert!(self.stdout == stdout.as_ref(), "{self:?}");
    }

    /// It has failed with this code and this sentence, and said nothing else.
    #[track_caller]
    fn fails(&self, code: i32, sentence: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(code), &*format!("kvs: {sentence}\n")));
        assert!(self.stdout.is_empty(), "{self:?}");
    }

    /// The JSON objects on standard output.
    #[track_caller]
    fn objects(&self) -> Vec<serde_json::Value> {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        objects(&self.text())
    }
}

/// One from each line.
fn objects(lines: &str) -> Vec<serde_json::Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
