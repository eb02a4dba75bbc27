//! Colour, where a person reads it. Messages go to standard error, so that the standard output of a verb stays what
//! the program it ran wrote there.

use std::io::IsTerminal;
use std::time::Duration;

/// Whether all output goes to a terminal, and its owner hasn't asked for plain text.
fn coloured() -> bool {
    let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(code: &str, text: &str) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What went wrong.
pub fn red(text: &str) -> String {
    paint("31", text)
}

/// What went well.
pub fn green(text: &str) -> String {
    paint("32", text)
}

/// What is worth knowing but stops nothing.
pub fn yellow(text: &str) -> String {
    paint("33", text)
}

/// What may be overlooked.
pub fn dim(text: &str) -> String {
    paint("2", text)
}

/// A check mark or a cross.
pub fn mark(good: bool) -> String {
    if good { green("✓") } else { red("✗") }
}

/// Says one thing to the person at the terminal.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// Says something that stops nothing now, but explains what may be missing later.
pub fn warn(text: &str) {
    eprintln!("{} {text}", yellow("note:"));
}

/// A duration as a person says it: `0.8 s`, `12.3 s`, `2 min 05 s`.
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_seconds_and_minutes() {
        assert_eq!(spoken(Duration::from_millis(840)), "0.8 s");
        assert_eq!(spoken(Duration::from_secs(125)), "2 min 05 s");
    }
}
