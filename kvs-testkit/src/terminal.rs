//! The keyboard and the screen in front of a program: pipes, or a pseudo-terminal.

use std::fs::File;
use std::io;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// What a program finds at its standard input and output. Standard error is a pipe in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Console {
    /// Two pipes.
    #[default]
    Pipes,
    /// Standard input is at its end from the start; standard output is a pipe.
    NoInput,
    /// A pseudo-terminal in its usual line mode. With `echo` what the test types comes back as output,
    /// as on a screen.
    Terminal {
        /// Whether typed lines are shown.
        echo: bool,
    },
}

/// The program's ends, to be handed to it.
pub(crate) struct Ends {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
}

/// The test's ends: of a terminal, both are its master side.
pub(crate) struct Screen {
    pub(crate) master: File,
}

/// Opens a pseudo-terminal.
pub(crate) fn open_terminal(echo: bool) -> io::Result<(Ends, Screen)> {
    // Not `openpty`: its descriptors would be inherited by whatever another test starts meanwhile, and
    // the terminal then never hangs up.
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
