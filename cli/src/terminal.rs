//! A line that is typed at the terminal without being seen.
//!
//! The echo is off before the question appears, so whatever answers it is not seen, however fast it comes. The terminal is
//! the one that controls the process: standard input and output may be anything. It is as before when this returns; so
//! Ctrl-C is taken from what is typed, as the signal would end the process before that.

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

/// Asks on the terminal, and returns what is typed up to the end of the line.
///
/// # Errors
/// [`ErrorKind::Interrupted`] after Ctrl-C, [`ErrorKind::UnexpectedEof`] at the end of the input or after Ctrl-D on an
/// empty line; any other when the process has no terminal, or it fails.
pub(crate) fn ask_unseen(question: &str) -> io::Result<Vec<u8>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let unseen = Unseen::new(&terminal)?;
    (&terminal).write_all(question.as_bytes())?;
    #[expect(clippy::unbuffered_bytes, reason = "what follows the line is for whoever reads next")]
    let answer = read_line((&terminal).bytes());
    (&terminal).write_all(b"\n")?;
    drop(unseen);
    answer
}

/// As long as it lives the terminal shows nothing of what is typed, and hands each byte over at once.
struct Unseen<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before the question is no answer to it.
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs it no more.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
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
                // A character, which may have several bytes.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            ESCAPE => skip_key(&mut typed)?,
            byte if byte.is_ascii_control() => {}
            byte => line.push(byte),
        }
    }
}

/// The rest of an arrow key and the like.
fn skip_key(typed: &mut impl Iterator<Item = io::Result<u8>>) -> io::Result<()> {
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
    fn a_line_can_be_corrected_and_given_up() {
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
