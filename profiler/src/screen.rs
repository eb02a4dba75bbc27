//! The terminal: one live block that is drawn over again, and log lines that go above it.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::Mutex,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::export::terminal::Style;

/// The live block on standard output, and what lies around it.
pub struct Screen {
    block: Mutex<String>,
    live: bool,
}

/// The one screen of this process: the log and the live block must not write over each other.
pub static SCREEN: std::sync::LazyLock<Screen> = std::sync::LazyLock::new(|| Screen {
    block: Mutex::new(String::new()),
    live: io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
});

impl Screen {
    /// Whether a block can be drawn over again: standard output is a terminal.
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// How text for standard output may look.
    pub fn style(&self) -> Style {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|_| self.live);
        let colour = self.live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Style { colour, width: size.map_or(0, |size| usize::from(size.ws_col)) }
    }

    /// Draws a new block in place of the last one.
    pub fn draw(&self, text: String) {
        // A terminal that doesn't say its size says zero.
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        let rows = if rows == 0 { 24 } else { rows.max(2) };
        let mut block = self.lock();
        let mut out = io::stdout().lock();
        let text: String = text.lines().take(rows - 1).map(|line| format!("{line}\n")).collect();
        // A terminal that can't be written to has nobody in front of it.
        let _written = write!(out, "{}{text}", erase(&block));
        let _flushed = out.flush();
        *block = text;
    }

    /// Leaves the last block where it is; what comes next goes below it.
    pub fn keep(&self) {
        self.lock().clear();
    }

    /// Writes to standard error, above the block.
    fn log(&self, bytes: &[u8]) {
        let block = self.lock();
        let mut out = io::stdout().lock();
        if !block.is_empty() {
            let _written = write!(out, "{}", erase(&block));
            let _flushed = out.flush();
        }
        let _written = io::stderr().lock().write_all(bytes);
        if !block.is_empty() {
            let _written = write!(out, "{block}");
            let _flushed = out.flush();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, String> {
        // A block that was being drawn by a thread that panicked is still only text.
        self.block.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Moves the cursor to the block's first line and clears from there.
fn erase(block: &str) -> String {
    let lines = block.lines().count();
    // From the first column: a terminal that echoes ^C has moved the cursor.
    if lines == 0 { String::new() } else { format!("\r\x1b[{lines}A\x1b[J") }
}

/// Log lines, one write each.
pub struct LogWriter(Vec<u8>);

/// Makes the log's writers.
pub struct MakeLogWriter;

impl<'a> MakeWriter<'a> for MakeLogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter(Vec::new())
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        SCREEN.log(&self.0);
    }
}
