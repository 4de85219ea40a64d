//! The keyboard and the screen in front of a program: pipes, or a pseudo-terminal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

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
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(ptsname_r(&master)?)?;
    if !echo {
        let mut modes = tcgetattr(&slave)?;
        modes.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&slave, SetArg::TCSANOW, &modes)?;
    }
    let master: OwnedFd = master.into();
    let ends = Ends { stdin: slave.try_clone()?.into(), stdout: slave.into() };
    Ok((ends, Screen { master: master.into() }))
}
