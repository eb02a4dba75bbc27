//! Reading a machine's console: sections between `@@begin NAME` and `@@end NAME`, among what firmware and kernel say.

use std::collections::BTreeMap;

const BOOTED: &str = "@@booted ";
const BEGIN: &str = "@@begin ";
const END: &str = "@@end ";
const OVER: &str = "@@over";

/// What a machine said.
#[derive(Debug, Default)]
pub struct Console<'a> {
    /// The kernel's release, as soon as its first process ran.
    pub release: Option<String>,
    /// Whether the script came to its end.
    pub complete: bool,
    sections: BTreeMap<&'a str, Vec<&'a str>>,
    lines: Vec<&'a str>,
}

impl<'a> Console<'a> {
    /// Takes a console's text apart. A section that was cut short is as long as it got.
    pub fn read(text: &'a str) -> Self {
        let mut console = Self { lines: text.lines().collect(), ..Self::default() };
        let mut open: Option<&str> = None;
        for line in text.lines() {
            if let Some(release) = tells_release(line) {
                console.release.get_or_insert_with(|| release.to_owned());
            } else if let Some(name) = line.strip_prefix(BEGIN) {
                open = Some(name);
                console.sections.insert(name, Vec::new());
            } else if line.strip_prefix(END).is_some_and(|name| Some(name) == open) {
                open = None;
            } else if line == OVER {
                console.complete = true;
            } else if let Some(lines) = open.and_then(|name| console.sections.get_mut(name)) {
                lines.push(line);
            }
        }
        console
    }

    /// A section's text; none if it was never begun.
    pub fn section(&self, name: &str) -> Option<String> {
        self.sections.get(name).map(|lines| lines.join("\n").trim().to_owned())
    }

    /// The lines `key value` of the section `status`, where a key may have been said once.
    pub fn status(&self, key: &str) -> Option<&'a str> {
        let lines = self.sections.get("status")?;
        lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    /// What helps to understand a failure: the end of each log, or of everything if the script didn't come to its end.
    /// How the profiler's object was put together is told at length, and never why the kernel refused it.
    pub fn worth_showing(&self, length: usize) -> Vec<(&'static str, Vec<&'a str>)> {
        if !self.complete {
            return vec![("the console", last(&self.lines, length))];
        }
        ["doctor-log", "log", "trace-log", "complaints"]
            .into_iter()
            .filter_map(|name| {
                let lines = self.sections.get(name)?.iter().copied();
                let lines: Vec<&str> =
                    lines.filter(|line| !line.is_empty() && !line.contains(" DEBUG ")).collect();
                (!lines.is_empty()).then(|| (name, last(&lines, length)))
            })
            .collect()
    }
}

/// The kernel's release, if this line is the first sign of life. The firmware leaves its traces on the same line.
pub fn tells_release(line: &str) -> Option<&str> {
    line.find(BOOTED).map(|at| &line[at + BOOTED.len()..])
}

/// A line without what moves a terminal's cursor.
pub fn clean(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            }
            chars.next();
        } else if c == '\t' || !c.is_control() {
            text.push(c);
        }
    }
    text
}

fn last<'a>(lines: &[&'a str], length: usize) -> Vec<&'a str> {
    lines[lines.len().saturating_sub(length)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Booting from ROM@@booted 6.1.0-56\n@@begin status\ndoctor-exit 0\nbpf-after 12\n\n@@end status\n\
        noise\n@@begin log\na\n2026 DEBUG x\nb\n\n@@end log\n@@begin complaints\n\n@@end complaints\n@@over\nPower down\n";

    #[test]
    fn sections_stand_between_their_markers() {
        let console = Console::read(TEXT);
        assert_eq!(console.release.as_deref(), Some("6.1.0-56"));
        assert!(console.complete);
        assert_eq!(console.section("log").as_deref(), Some("a\n2026 DEBUG x\nb"));
        assert_eq!(console.section("complaints").as_deref(), Some(""));
        assert_eq!(console.section("report"), None);
    }

    #[test]
    fn a_status_is_found_by_its_whole_key() {
        let console = Console::read(TEXT);
        assert_eq!(console.status("bpf-after"), Some("12"));
        assert_eq!(console.status("bpf"), None);
        assert_eq!(Console::read("").status("bpf-after"), None);
    }

    #[test]
    fn the_logs_are_worth_showing_and_the_whole_end_if_it_came_too_early() {
        assert_eq!(Console::read(TEXT).worth_showing(2), [("log", vec!["a", "b"])]);
        let early = "one\n@@begin log\ntwo\nKernel panic\n";
        assert_eq!(Console::read(early).worth_showing(2), [("the console", vec!["two", "Kernel panic"])]);
    }

    #[test]
    fn escape_sequences_and_carriage_returns_are_no_text() {
        assert_eq!(clean("\x1bc\x1b[?7l\x1b[2J@@booted 6.1\r\n"), "@@booted 6.1");
        assert_eq!(clean("a\tb\x07"), "a\tb");
    }
}
