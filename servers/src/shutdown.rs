//! How a server is shut down.
//!
//! The server's `run` takes a [`Shutdown`]; its clones go to the console, to the signal thread and
//! to every other part that may shut the server down. The first request counts; later ones change
//! nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Why a server shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `Quit` on the console.
    Console,
    /// A quit request over the control socket.
    Control,
    /// SIGTERM or SIGINT.
    Signal(i32),
    /// The authentication server is quitting and has asked this local server to quit.
    AuthServer,
    /// The authentication server does not answer, and `--exit-on-auth-loss` is set.
    AuthLost,
    /// A thread that the server needs has failed: a bug, or a system that refuses everything.
    Broken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console => f.write_str("Quit on the console"),
            Self::Control => f.write_str("quit over the control socket"),
            Self::Signal(SIGTERM) => f.write_str("SIGTERM"),
            Self::Signal(SIGINT) => f.write_str("SIGINT"),
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::AuthServer => f.write_str("the authentication server quits"),
            Self::Broken => f.write_str("a thread of the server has failed"),
            Self::AuthLost => f.write_str("the authentication server does not answer"),
        }
    }
}

/// A request to shut down, shared by the server and all parts that may make it.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    /// Called once, at the request: wakes a thread that waits in `epoll`.
    wake: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shutdown").field(&self.reason()).finish()
    }
}

impl Shutdown {
    /// No request has been made.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the shutdown. Never waits.
    pub fn request(&self, reason: Reason) {
        let wake = {
            let mut state = self.0.state.lock();
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason);
            state.wake.take()
        };
        self.0.requested.notify_all();
        if let Some(wake) = wake {
            wake();
        }
    }

    /// The reason of the first request, if one has been made.
    pub fn reason(&self) -> Option<Reason> {
        self.0.state.lock().reason
    }

    /// Waits for a request.
    pub fn wait(&self) -> Reason {
        let mut state = self.0.state.lock();
        loop {
            if let Some(reason) = state.reason {
                return reason;
            }
            self.0.requested.wait(&mut state);
        }
    }

    /// Calls `wake` at the request, or now if it has been made already. Replaces an earlier `wake`.
    pub fn on_request(&self, wake: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        if state.reason.is_none() {
            state.wake = Some(Box::new(wake));
            return;
        }
        drop(state);
        wake();
    }

    /// Makes SIGTERM and SIGINT request the shutdown, and SIGHUP call `on_hangup`. Without
    /// `on_hangup`, SIGHUP keeps its default action and ends the process.
    ///
    /// # Errors
    /// When the handlers or their thread cannot be set up.
    pub fn on_signals(
        &self,
        on_hangup: Option<impl Fn() + Send + Sync + 'static>,
    ) -> io::Result<()> {
        let hangup = on_hangup.as_ref().map(|_| SIGHUP);
        let on_hangup =
            on_hangup.map(|call| Arc::new(HangupHandler { call, state: Mutex::default() }));
        let mut signals = Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup))?;
        let shutdown = self.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match (signal, &on_hangup) {
                    (SIGHUP, Some(handler)) => handler.call_again(),
                    _ => shutdown.request(Reason::Signal(signal)),
                }
            }
        })?;
        Ok(())
    }
}

/// The function that SIGHUP calls. It runs in its own thread, because reading a file may take long
/// and must not delay SIGTERM. One call runs at a time; all signals that arrive meanwhile cause one
/// more.
struct HangupHandler<F> {
    call: F,
    state: Mutex<HangupCalls>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum HangupCalls {
    #[default]
    None,
    Running,
    /// One more call follows the one that runs.
    Again,
}

impl<F: Fn() + Send + Sync + 'static> HangupHandler<F> {
    fn call_again(self: &Arc<Self>) {
        let before = {
            let mut state = self.state.lock();
            let before = *state;
            *state =
                if before == HangupCalls::None { HangupCalls::Running } else { HangupCalls::Again };
            before
        };
        if before != HangupCalls::None {
            return;
        }
        let handler = Arc::clone(self);
        let spawned = thread::Builder::new().name("reload".into()).spawn(move || handler.run());
        if let Err(error) = spawned {
            tracing::error!("SIGHUP ignored: cannot start a thread for it: {error}");
            *self.state.lock() = HangupCalls::None;
        }
    }

    fn run(&self) {
        loop {
            (self.call)();
            let mut state = self.state.lock();
            *state =
                if *state == HangupCalls::Again { HangupCalls::Running } else { HangupCalls::None };
            if *state == HangupCalls::None {
                return;
            }
        }
    }
}

/// Runs the body of a thread that the server needs: when it fails or panics, the server shuts down.
///
/// # Errors
/// The error of `body`.
pub fn shut_down_on_failure<E>(
    shutdown: &Shutdown,
    body: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    struct OnFailure<'a>(&'a Shutdown);
    impl Drop for OnFailure<'_> {
        fn drop(&mut self) {
            self.0.request(Reason::Broken);
        }
    }
    let on_failure = OnFailure(shutdown);
    body()?;
    std::mem::forget(on_failure);
    Ok(())
}
