//! What the end-to-end tests are made of: the real programs, a terminal in front of them, and peers
//! that speak the protocols byte by byte.
//!
//! - [`Process`]: one real program with its console (pipes or a pseudo-terminal), its output line by
//!   line, its end. [`AuthServer`], [`LocalServer`], [`App`] and [`Driver`] are processes that know their
//!   commands.
//! - [`compile()`], [`compile_c`], [`compile_preload`]: the C and C++ programs, built by the test that
//!   runs them.
//! - [`Installed`]: what `make install` puts into a directory.
//! - [`RawApp`] and [`Channel`]: an application without the library, as the original one spoke.
//! - [`FramedApp`]: one in a framed session, with the encoders of `kvs_proto` or frames of bytes.
//! - [`Stepper`]: the same as a process of its own, which can be stopped or killed between any two steps.
//! - [`ScriptedServer`]: a local server that says what the test says, for the library to talk to.
//! - [`RawLocalServer`]: a local server without a program, for the authentication server to talk to.
//! - [`Relay`]: a network between the servers that loses, repeats and delays datagrams.
//! - [`Site`]: what the local server shows over HTTP, and [`Browser`], a real one that looks at it.
//! - [`Session`] and [`on_both_sessions`]: for what is promised of both kinds of session.
//! - [`Conversation`]: a recorded conversation of the original programs.
//! - [`Dice`]: numbers that look random and follow from a seed.
//!
//! Rules that all of them keep. Nothing is shared between two tests: sockets are in a temporary
//! directory of their own, UDP ports come from a reserved block ([`Ports`]). Every wait ends at an
//! event, and after [`DEADLINE`] at the latest, with a message that says what was awaited and what had
//! been seen. A process never outlives the value that stands for it.

#![forbid(unsafe_code)]

mod app;
mod auth;
mod browser;
mod compile;
mod conversation;
mod dice;
mod framed;
mod installed;
mod local;
mod machine;
mod page;
mod ports;
mod process;
mod programs;
mod raw;
mod relay;
mod resources;
mod scripted;
mod session;
mod site;
mod skipping;
mod steps;
mod terminal;

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use app::{App, Driver, application_paths};
pub use auth::{AuthServer, AuthServerBuilder, RawLocalServer};
pub use browser::{Browser, Scheme};
pub use compile::{
    STRICT, compile, compile_c, compile_preload, shared_library, static_library, tool,
};
pub use conversation::{Conversation, Message};
pub use dice::Dice;
pub use framed::{FramedApp, RawFrame, Reply, Told, entries, framed, framed_put};
pub use installed::Installed;
pub use local::{AppStatus, GroupInfo, LocalServer, LocalServerBuilder};
pub use machine::{MACHINE_TOOLS, Machine, Network};
pub use page::{Block, blocks};
pub use ports::Ports;
pub use process::{Finished, Process, Program};
pub use programs::{bin, lib_dir, project_dir};
pub use raw::{Channel, RawApp, padded};
pub use relay::{Fate, Relay, Storm, When};
pub use scripted::{OFFER, ScriptedServer, WELCOME};
pub use session::Session;
pub use site::{Page, Scrape, Site};
pub use skipping::{are_installed, is_root, skipped};
pub use steps::{On, Seen, Step, Stepper};
pub use terminal::Console;

/// The longest time that anything may be waited for. Nothing that works comes near it, on a loaded
/// machine neither.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The longest time for what is promised to be seen or answered at once.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// How long a test looks on before it takes it that the server does not read, or does not answer: that is seen by
/// nothing but time. Longer makes no test wrong.
pub const LOOKED_ON: Duration = Duration::from_millis(500);

/// Repeats `act` until it returns something, for what no event tells.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub fn until<T>(what: &str, mut act: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(result) = act() {
            return result;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where applications find a local server, a real one or a scripted one.
pub trait Sockets {
    /// The path of the main socket.
    fn socket(&self) -> &Path;
    /// The path of the callback socket.
    fn callback_socket(&self) -> &Path;
}

/// A new directory with a short name, as paths of sockets have at most 107 bytes. Removed when dropped.
///
/// # Panics
/// When it cannot be made.
pub fn private_dir() -> TempDir {
    TempDir::with_prefix("kvs-").expect("a temporary directory can be made")
}

/// What a variable of the environment says, for tests that can be made longer or repeated; `None` when it is
/// not set, or empty.
///
/// # Panics
/// When it is no number.
pub fn number_from_env<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no such number")))
}

/// Tells the threads of a test to end when it is dropped, in a failure too: otherwise nobody would hear of it.
#[derive(Debug)]
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
