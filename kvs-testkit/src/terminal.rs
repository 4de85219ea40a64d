//! Standard input and output of a program: pipes, or a pseudo-terminal.

use std::fs::File;
use std::io;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Standard input and output of a program. Standard error is always a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Console {
    /// Two pipes.
    #[default]
    Pipes,
    /// Standard input is empty; standard output is a pipe.
    NoInput,
    /// A pseudo-terminal in its usual line mode.
    Terminal {
        /// Whether typed lines are echoed to the output.
        echo: bool,
    },
}

/// The program's ends.
pub(crate) struct Ends {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
}

/// The test's end, for reading and writing.
pub(crate) struct Screen {
    pub(crate) master: File,
}

/// Opens a pseudo-terminal.
pub(crate) fn open_terminal(echo: bool) -> io::Result<(Ends, Screen)> {
    // `openpty` is unsuitable: a program that another test starts meanwhile would inherit its
    // descriptors, and the terminal would never hang up.
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
    if !echo {
        let mut modes = tcgetattr(&slave)?;
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
    }
    let ends = Ends { stdin: slave.try_clone()?.into(), stdout: slave.into() };
    Ok((ends, Screen { master: master.into() }))
}
