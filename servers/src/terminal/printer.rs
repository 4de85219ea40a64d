//! Prints above the line that is being typed.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rustyline::ExternalPrinter;

use super::screen::Screen;

/// How long an editor that has a text to print may take until it reads again.
const NEXT_READ_TIMEOUT: Duration = Duration::from_millis(200);

/// Moves the cursor up a line and down again: shows nothing.
const NO_OP: &str = "\x1b[A\n";

/// Prints above the line that is being typed. Writing collects text, [`flush`](Write::flush) prints
/// it; a flush without text waits until all earlier text is visible.
pub(crate) struct Printer {
    editor: Box<dyn ExternalPrinter + Send>,
    text: String,
    screen: Arc<Screen>,
    /// The last text may not be visible yet: it was passed to an editor that was reading.
    is_pending: bool,
}

impl Printer {
    pub(super) fn new(editor: impl ExternalPrinter + Send + 'static, screen: Arc<Screen>) -> Self {
        Self { editor: Box::new(editor), text: String::new(), screen, is_pending: false }
    }

    /// An editor that takes its line from type-ahead keeps a text that was passed to it until it
    /// reads again. Text printed directly in between would overtake it, and at the end of the
    /// program the editor would not read again. So the editor gets a moment to read.
    fn print(&mut self, text: String) -> io::Result<()> {
        if self.is_pending {
            self.screen.wait_for_raw(NEXT_READ_TIMEOUT);
        }
        let (reads, begin_count) = self.screen.editing();
        let printed = self.editor.print(text).map_err(io::Error::other);
        // Pending, too, if the editor has begun meanwhile, even if it has ended again.
        self.is_pending = reads || self.screen.editing() != (false, begin_count);
        printed
    }
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let text = mem::take(&mut self.text);
        if !text.is_empty() {
            return self.print(text);
        }
        // The editor prints one text before it takes the next. When it has taken the first of these
        // two, all earlier text is visible.
        for _ in 0..2 {
            self.print(NO_OP.into())?;
        }
        Ok(())
    }
}
