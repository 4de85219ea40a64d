//! Building blocks of the end-to-end tests: real programs, and peers that speak raw protocol bytes.
//!
//! - [`TestEnv`]: the fixture of most tests. Both servers, a group, its secret, and applications.
//! - [`Program`] and [`Process`]: one real program with its console (pipes or a pseudo-terminal),
//!   its output by lines, and its exit. [`AuthServer`], [`LocalServer`], [`InteractiveApp`] and
//!   [`Driver`] are processes with methods for their commands.
//! - [`RawV1App`], [`RawV2App`], [`Channel`]: applications without the library, one for each
//!   protocol. [`Stepper`] is one in a process of its own that can be stopped between any two
//!   steps.
//! - [`ScriptedServer`]: a local server whose every byte the test chooses, for the library.
//! - [`RawLocalServer`]: a local server without a program, for the authentication server.
//! - [`Relay`]: a network between the servers that drops, duplicates and delays datagrams.
//! - [`connect`] and [`connection_builder`]: connections of the test's own process by the crate
//!   `kvs`.
//! - [`on_both_protocols`]: makes two tests of one promise, one for each protocol.
//! - [`compile()`], [`compile_c`], [`compile_preload`]: build C and C++ programs.
//!   [`InstalledTree`]: what `make install` writes. [`Machine`]: a container with a systemd of its
//!   own.
//! - [`MetricsClient`] and [`Browser`]: the local server's HTTP pages. [`Transcript`]: a recorded
//!   conversation of the original programs. [`SeededRng`]: reproducible random numbers.
//!
//! Invariants: tests share nothing. Sockets live in a temporary directory of their own, UDP ports
//! in a reserved block ([`Ports`]). Every wait ends at an event, or fails after [`DEADLINE`] with
//! what was expected and what was seen. A process never outlives the value that owns it.

#![forbid(unsafe_code)]

mod auth_server;
mod browser;
mod channel;
mod compile;
mod driver;
mod installed_tree;
mod interactive_app;
mod library;
mod local_server;
mod machine;
mod markdown;
mod metrics_client;
mod output;
mod paths;
mod ports;
mod process;
mod program;
mod protocol;
mod raw_local_server;
mod raw_v1;
mod raw_v2;
mod relay;
mod resources;
mod rng;
mod scripted_server;
mod settings;
mod skip;
mod sockets;
mod stepper;
mod terminal;
mod test_env;
mod transcript;
mod wait;

pub use auth_server::{AuthServer, AuthServerBuilder};
pub use browser::{Browser, Scheme};
pub use channel::{Channel, padded};
pub use compile::{
    STRICT, compile, compile_c, compile_preload, shared_library, static_library, tool,
};
pub use driver::Driver;
pub use installed_tree::InstalledTree;
pub use interactive_app::{InteractiveApp, application_paths};
pub use kvs_proto::Protocol;
pub use library::{connect, connection_builder};
pub use local_server::{AppStatus, GroupInfo, LocalServer, LocalServerBuilder};
pub use machine::{MACHINE_TOOLS, Machine, Network};
pub use markdown::{CodeBlock, code_blocks};
pub use metrics_client::{HttpResponse, MetricsClient, Scrape};
pub use paths::{bin, lib_dir, project_dir};
pub use ports::Ports;
pub use process::{Process, ProcessOutput};
pub use program::Program;
pub use raw_local_server::RawLocalServer;
pub use raw_v1::RawV1App;
pub use raw_v2::{RawEvent, RawFrame, RawResponse, RawV2App, encode_put, encode_request, entries};
pub use relay::Relay;
pub use relay::delivery::{Delay, Delivery, RandomFaults};
pub use rng::SeededRng;
pub use scripted_server::{OFFER, ScriptedServer, WELCOME};
pub use settings::number_from_env;
pub use skip::{are_installed, has_tools, is_root, skipped};
pub use sockets::{SocketPaths, Sockets, private_dir};
pub use stepper::{ChannelRole, Step, StepResult, Stepper};
pub use terminal::Console;
pub use test_env::{GROUP, TestEnv, TestEnvBuilder};
pub use transcript::{RecordedMessage, Transcript};
pub use wait::{AT_ONCE, DEADLINE, QUIET_PERIOD, StopOnDrop, until};
