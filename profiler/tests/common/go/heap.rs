//! The profile of the heap that a Go program writes of itself as text (`pprof.Lookup("heap").WriteTo(w, 1)`).

use std::collections::BTreeMap;

use super::{Tally, dump::Frame};

/// What one line of it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub live: u64,
    pub live_bytes: u64,
    pub allocated: u64,
    pub allocated_bytes: u64,
    pub stack: Vec<u64>,
}

/// The whole.
#[derive(Clone, Debug, Default)]
pub struct Text {
    pub rate: u64,
    pub lines: Vec<Line>,
    /// By a line's stack: what is at its addresses, inlined functions too, without the runtime's own.
    pub frames: BTreeMap<Vec<u64>, Vec<Frame>>,
}

/// Reads it.
pub fn parse(text: &str) -> Text {
    let mut read = Text::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("heap profile: ") {
            // Twice the rate, for tools of old.
            read.rate =
                rest.rsplit_once("heap/").and_then(|(_, rate)| rate.parse::<u64>().ok()).unwrap_or(0) / 2;
        } else if let Some(frame) = line.strip_prefix("#\t0x") {
            // Columns are aligned by as many tabs as it takes.
            let mut parts = frame.split('\t').map(str::trim).filter(|part| !part.is_empty()).skip(1);
            let (Some(name), Some(place)) = (parts.next(), parts.next()) else { continue };
            let name = name.rsplit_once("+0x").map_or(name, |(name, _)| name).to_owned();
            let stack = read.lines.last().map(|line| line.stack.clone()).unwrap_or_default();
            read.frames.entry(stack).or_default().push(Frame { name, place: place.to_owned() });
        } else if let Some(line) = record(line) {
            read.frames.remove(&line.stack);
            read.lines.push(line);
        }
    }
    for frames in read.frames.values_mut() {
        frames.retain(|frame| !of_the_runtime(&frame.name));
    }
    read
}

/// `1: 64 [2: 128] @ 0x4a 0x5b`.
fn record(line: &str) -> Option<Line> {
    let (numbers, stack) = line.split_once(" @")?;
    let mut numbers = numbers.split([':', '[', ']', ' ']).filter(|part| !part.is_empty()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (live, live_bytes, allocated, allocated_bytes) = (next()?, next()?, next()?, next()?);
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let stack = stack.split_whitespace().map(address).collect::<Option<_>>()?;
    Some(Line { live, live_bytes, allocated, allocated_bytes, stack })
}

/// Whether a function is one that the text shows or not depending on where it stands.
pub fn of_the_runtime(name: &str) -> bool {
    name.starts_with("runtime.") || name.starts_with("internal/runtime/")
}

/// Holds records against the lines; `frames` names addresses of a stack, innermost first.
pub fn compare(rate: u64, ours: &[Line], theirs: &Text, frames: impl Fn(&[u64]) -> Vec<Frame>) -> Tally {
    let mut tally = Tally::default();
    tally.compare("rate", &rate, &theirs.rate);
    let counted = |lines: &[Line]| {
        let mut by_line: BTreeMap<Line, usize> = BTreeMap::new();
        for line in lines.iter().filter(|line| line.allocated > 0) {
            *by_line.entry(line.clone()).or_default() += 1;
        }
        by_line
    };
    let (ours, told) = (counted(ours), counted(&theirs.lines));
    for (line, count) in &told {
        tally.compare(&format!("{line:x?}"), ours.get(line).unwrap_or(&0), count);
    }
    for line in ours.keys().filter(|line| !told.contains_key(line)) {
        tally.fail(format!("the program has no such record: {line:x?}"));
    }
    for (stack, told) in &theirs.frames {
        let mut ours = frames(stack);
        ours.retain(|frame| !of_the_runtime(&frame.name));
        tally.compare(&format!("names of {stack:x?}"), &ours, told);
    }
    tally
}

#[test]
fn a_profile_is_read_as_it_is_written() {
    let text = "heap profile: 3: 100 [5: 300] @ heap/1048576\n\
        1: 64 [2: 128] @ 0x4a 0x5b\n#\t0x49\tmain.work+0x27\t\t/a/w.go:12\n#\t0x5a\truntime.main+0x1\t/r/p.go:3\n\n\
        0: 0 [3: 96] @ 0x7c\n#\t0x7b\tmain.f+0x1\t/a/w.go:2\n\n# runtime.MemStats\n# Alloc = 5\n";
    let read = parse(text);
    assert_eq!((read.rate, read.lines.len()), (524_288, 2));
    let first = Line { live: 1, live_bytes: 64, allocated: 2, allocated_bytes: 128, stack: vec![0x4a, 0x5b] };
    assert_eq!(read.lines[0], first);
    let frame = Frame { name: "main.work".to_owned(), place: "/a/w.go:12".to_owned() };
    assert_eq!(read.frames[&vec![0x4a, 0x5b]], [frame]);
}
