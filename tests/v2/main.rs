//! What `docs/RELIABILITY.md` promises of the local server, for framed sessions. The tests of the same promises
//! for original sessions are in `malformed.rs`, `stalled.rs` and `limits.rs` beside this directory; `stopped.rs`
//! has both.
//!
//! - `malformed.rs`: whatever bytes an application sends.
//! - `together.rs`: both kinds of session in one group, and the end of that group.
//! - `stalled.rs`: applications that do not take their changes, or their answers.
//! - `limits.rs`: what one user may take, and what one application can do to the others.

#![forbid(unsafe_code)]

mod limits;
mod malformed;
mod stalled;
mod together;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvs_testkit::{AuthServer, LocalServer, LocalServerBuilder, RawV1App, RawV2App, private_dir};
use tempfile::TempDir;

/// A server with one group.
struct Scene {
    server: LocalServer,
    _auth: AuthServer,
    secret: String,
    dir: TempDir,
    apps: AtomicUsize,
}

const GROUP: &str = "g";

impl Scene {
    fn new() -> Self {
        Self::with(|server| server)
    }

    fn with(configure: impl FnOnce(LocalServerBuilder) -> LocalServerBuilder) -> Self {
        let auth = AuthServer::start();
        let server = configure(LocalServer::builder(auth.addr())).start();
        let secret = server.create_group(GROUP);
        Self { server, _auth: auth, secret, dir: private_dir(), apps: AtomicUsize::new(0) }
    }

    /// A name for one more application of this process.
    fn name(&self) -> String {
        self.apps.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// One more application in a framed session.
    fn app(&self) -> RawV2App {
        RawV2App::login_as(&self.server, self.dir.path(), &self.name(), GROUP, &self.secret)
    }

    /// One in another group.
    fn app_of(&self, group: &str, secret: &str) -> RawV2App {
        RawV2App::login_as(&self.server, self.dir.path(), &self.name(), group, secret)
    }

    /// One more application in an original session.
    fn original(&self) -> RawV1App {
        RawV1App::login_as(&self.server, self.dir.path(), &self.name(), GROUP, &self.secret)
    }

    /// One more with the library.
    fn library(&self) -> kvs::Connection {
        kvs_testkit::connect(&self.server, GROUP, &self.secret).expect("the server knows the group")
    }

    fn pairs(&self) -> usize {
        self.server.group_info(GROUP).expect("the group exists").pairs
    }
}

/// The most memory that a process has had in use since [`forget_peak`], in KiB.
fn peak_kib(pid: i32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|value| value.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_else(|| panic!("{path} tells no VmHWM"))
}

/// From now on the peak is that of what follows (proc_pid_clear_refs(5)).
fn forget_peak(pid: i32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}
