//! Standard error for the log: above the line that is being typed, if there is an editor.

use std::io::{self, Write};
use std::mem;

use parking_lot::Mutex;
use rustyline::ExternalPrinter;

/// How the log is printed.
static PRINTER: Mutex<LogPrinter> = Mutex::new(LogPrinter::Detached);

enum LogPrinter {
    /// On standard error: there is no editor.
    Detached,
    /// Through the editor.
    Idle(Box<dyn ExternalPrinter + Send>),
    /// The thread of the log is printing through the editor, without this lock. If the printer is
    /// detached meanwhile, the thread drops it.
    InUse,
}

/// Prints the log through the editor from now on.
pub(super) fn attach(printer: impl ExternalPrinter + Send + 'static) {
    *PRINTER.lock() = LogPrinter::Idle(Box::new(printer));
}

/// Prints the log on standard error from now on.
pub(super) fn detach() {
    let printer = mem::replace(&mut *PRINTER.lock(), LogPrinter::Detached);
    drop(printer);
}

/// Writes lines of the log. For one thread.
pub(crate) struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let idle = {
            let mut state = PRINTER.lock();
            match mem::replace(&mut *state, LogPrinter::InUse) {
                LogPrinter::Idle(printer) => Some(printer),
                other => {
                    *state = other;
                    None
                }
            }
        };
        let Some(mut printer) = idle else { return io::stderr().write(line) };
        let printed = printer.print(String::from_utf8_lossy(line).into_owned());
        let mut state = PRINTER.lock();
        if matches!(*state, LogPrinter::InUse) {
            *state = LogPrinter::Idle(printer);
        }
        drop(state);
        printed.map(|()| line.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
