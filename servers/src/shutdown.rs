//! How a server ends: anyone asks, the server's `run` obeys.
//!
//! A [`Shutdown`] is handed to `run`; its clones go to the console, to the signal thread and to whatever
//! else may end the server. The first request counts, later ones change nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Why a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `Quit` on the console.
    Console,
    /// The same over the control socket.
    Control,
    /// SIGTERM or SIGINT.
    Signal(i32),
    /// The authentication server told this local server to quit.
    AuthServer,
    /// The authentication server does not answer, and the administrator wanted the server to end then.
    AuthLost,
    /// A thread of the server has ended that must not: a bug, or a system that refuses everything.
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

/// A request to end, shared by all who may make it and the server that obeys.
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
    /// Called once, at the request: wakes a thread that waits in `epoll` rather than here.
    wake: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shutdown").field(&self.reason()).finish()
    }
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the server to end. Never waits.
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

    /// Who has asked first, if anyone.
    pub fn reason(&self) -> Option<Reason> {
        self.0.state.lock().reason
    }

    /// Waits until somebody asks.
    pub fn wait(&self) -> Reason {
        let mut state = self.0.state.lock();
        loop {
            if let Some(reason) = state.reason {
                return reason;
            }
            self.0.requested.wait(&mut state);
        }
    }

    /// Calls `wake` at the request, or now when it has already been made. Replaces an earlier `wake`.
    pub fn on_request(&self, wake: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        if state.reason.is_none() {
            state.wake = Some(Box::new(wake));
            return;
        }
        drop(state);
        wake();
    }

    /// Makes SIGTERM and SIGINT requests to end, and with `on_hangup` SIGHUP a call of it. Without, that ends the process at
    /// once, as is usual for a program whose terminal has gone.
    ///
    /// # Errors
    /// When the handlers or their thread cannot be set up.
    pub fn on_signals(
        &self,
        on_hangup: Option<impl Fn() + Send + Sync + 'static>,
    ) -> io::Result<()> {
        let hangup = on_hangup.as_ref().map(|_| SIGHUP);
        let on_hangup = on_hangup.map(|call| Arc::new(Hangups { call, state: Mutex::default() }));
        let mut signals = Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup))?;
        let shutdown = self.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                match (signal, &on_hangup) {
                    (SIGHUP, Some(hangups)) => hangups.another(),
                    _ => shutdown.request(Reason::Signal(signal)),
                }
            }
        })?;
        Ok(())
    }
}

/// What SIGHUP calls: in a thread of its own, as a file may take as long as it likes to be read, and SIGTERM shall not wait
/// for it. One call at a time, and one more after it for all that came meanwhile.
struct Hangups<F> {
    call: F,
    state: Mutex<Calls>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Calls {
    #[default]
    None,
    Running,
    /// And then once more.
    Again,
}

impl<F: Fn() + Send + Sync + 'static> Hangups<F> {
    fn another(self: &Arc<Self>) {
        let before = {
            let mut state = self.state.lock();
            let before = *state;
            *state = if before == Calls::None { Calls::Running } else { Calls::Again };
            before
        };
        if before != Calls::None {
            return;
        }
        let hangups = Arc::clone(self);
        let spawned = thread::Builder::new().name("reload".into()).spawn(move || hangups.run());
        if let Err(error) = spawned {
            tracing::error!("SIGHUP changes nothing, as there is no thread for it: {error}");
            *self.state.lock() = Calls::None;
        }
    }

    fn run(&self) {
        loop {
            (self.call)();
            let mut state = self.state.lock();
            *state = if *state == Calls::Again { Calls::Running } else { Calls::None };
            if *state == Calls::None {
                return;
            }
        }
    }
}

/// Runs the whole life of a thread without which the server is no server: when it fails or panics, the
/// server ends.
///
/// # Errors
/// That of `life`.
pub fn end_with<E>(shutdown: &Shutdown, life: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    struct OnFailure<'a>(&'a Shutdown);
    impl Drop for OnFailure<'_> {
        fn drop(&mut self) {
            self.0.request(Reason::Broken);
        }
    }
    let on_failure = OnFailure(shutdown);
    life()?;
    std::mem::forget(on_failure);
    Ok(())
}
