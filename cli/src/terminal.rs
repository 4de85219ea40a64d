//! Reads a line from the terminal without echo.
//!
//! Echo is switched off before the question is printed, so that nothing typed is ever shown,
//! however early it is typed. The terminal is the controlling one (`/dev/tty`); standard input and
//! output may be redirected. The terminal is restored before the function returns. Ctrl-C therefore
//! arrives as a byte: the signal would kill the process before the terminal is restored.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// Prints a question on the terminal and reads the line typed in reply.
///
/// # Errors
/// [`ErrorKind::Interrupted`] after Ctrl-C; [`ErrorKind::UnexpectedEof`] at the end of the input or
/// after Ctrl-D on an empty line; any other error if the process has no terminal or the terminal
/// fails.
pub(crate) fn read_password(question: &str) -> io::Result<Vec<u8>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let echo_off = EchoOff::new(&terminal)?;
    (&terminal).write_all(question.as_bytes())?;
    #[expect(
        clippy::unbuffered_bytes,
        reason = "a buffer would take bytes after the line from the next reader"
    )]
    let line = read_line((&terminal).bytes());
    (&terminal).write_all(b"\n")?;
    drop(echo_off);
    line
}

/// Puts the terminal into a mode without echo, line buffering and signals, until it is dropped.
struct EchoOff<'a> {
    terminal: &'a File,
    original: Termios,
}

impl<'a> EchoOff<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let original = tcgetattr(terminal)?;
        let mut modes = original.clone();
        modes
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Discards what was typed before the question.
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, original })
    }
}

impl Drop for EchoOff<'_> {
    fn drop(&mut self) {
        // This fails only if the terminal is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.original);
    }
}

fn read_line(mut typed: impl Iterator<Item = io::Result<u8>>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let byte = typed.next().unwrap_or(Err(ErrorKind::UnexpectedEof.into()))?;
        match byte {
            b'\r' | b'\n' => return Ok(line),
            CTRL_C => return Err(ErrorKind::Interrupted.into()),
            CTRL_D if line.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            CTRL_U => line.clear(),
            DELETE | BACKSPACE => {
                // Removes a character, which may have several bytes.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            ESCAPE => skip_escape_sequence(&mut typed)?,
            byte if byte.is_ascii_control() => {}
            byte => line.push(byte),
        }
    }
}

/// Skips the rest of an escape sequence, such as that of an arrow key.
fn skip_escape_sequence(typed: &mut impl Iterator<Item = io::Result<u8>>) -> io::Result<()> {
    if !matches!(typed.next().transpose()?, Some(b'[' | b'O')) {
        return Ok(());
    }
    for byte in typed {
        if (0x40..=0x7e).contains(&byte?) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        read_line(typed.bytes()).map_err(|error| error.kind())
    }

    #[test]
    fn line_can_be_corrected_and_cancelled() {
        assert_eq!(read(b"VKHMp\rmore"), Ok(b"VKHMp".to_vec()));
        assert_eq!(read(b"VKX\x7fHMp\n"), Ok(b"VKHMp".to_vec()));
        assert_eq!(read(b"\x08wrong\x15VK\x1b[A\x1bOBH\x1b[1;5CMp\n"), Ok(b"VKHMp".to_vec()));
        assert_eq!(read("a\u{e4}\x7fb\n".as_bytes()), Ok(b"ab".to_vec()));
        assert_eq!(read(b"\xff\x01\x04\n"), Ok(b"\xff".to_vec()));
        assert_eq!(read(b"\n"), Ok(Vec::new()));
        assert_eq!(read(b"VK\x03\n"), Err(ErrorKind::Interrupted));
        assert_eq!(read(b"\x04"), Err(ErrorKind::UnexpectedEof));
        assert_eq!(read(b"VK"), Err(ErrorKind::UnexpectedEof));
    }
}
