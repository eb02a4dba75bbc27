//! The summary that people read: a few lines per target, with rates against an earlier snapshot.

mod go;

use std::fmt::Write as _;

use profiler_common::mapping::MappingKind;
use profiler_common::sched::ThreadState;

use crate::{
    binary::Layer,
    export::causes,
    leaks::Estimate,
    push::figures::PushFigures,
    snapshot::{AllocState, Snapshot, TargetSnapshot},
};

/// How the text may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Use colour and bold.
    pub colour: bool,
    /// Cut lines at this many characters; 0 for never.
    pub width: usize,
}

impl Style {
    pub(crate) fn dim(self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn warn(self, text: &str) -> String {
        if self.colour { format!("\x1b[33m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn alarm(self, text: &str) -> String {
        if self.colour { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Renders a snapshot. `earlier` is what rates are taken against; without it they are means since attach.
pub fn render(now: &Snapshot, earlier: Option<&Snapshot>, style: Style) -> String {
    let mut lines = Vec::new();
    for target in &now.targets {
        let before =
            earlier.and_then(|earlier| earlier.targets.iter().find(|before| before.name == target.name));
        target_lines(&mut lines, target, before, style);
        lines.push(String::new());
    }
    if let Some(push) = &now.push {
        push_lines(&mut lines, push, style);
    }
    for (reason, count) in now.not_observed.iter().filter(|(_, count)| *count > 0) {
        let text = format!("  not observed: {} processes ({reason})", grouped(*count as f64));
        lines.push(style.warn(&text));
    }
    for (reason, count) in now.losses.iter().filter(|(_, count)| *count > 0) {
        lines.push(style.warn(&format!("  lost: {reason} {}", grouped(*count as f64))));
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let mut text = String::new();
    for line in lines {
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{}", cut(&line, style.width));
    }
    text
}

fn target_lines(
    lines: &mut Vec<String>,
    target: &TargetSnapshot,
    before: Option<&TargetSnapshot>,
    style: Style,
) {
    let state = if target.up() { String::new() } else { format!(" · {}", style.warn("ended")) };
    let who = match target.processes.as_slice() {
        [one] if target.processes_seen == 1 => {
            format!("pid {} · {}", one.info.pid, one.info.exe.as_deref().unwrap_or(&one.info.comm))
        }
        several => {
            let running = several.iter().filter(|process| process.up).count();
            format!("{} processes, {} so far", grouped(running as f64), grouped(target.processes_seen as f64))
        }
    };
    let observed = duration(target.observed.as_secs_f64());
    lines.push(format!("{} · {who} · observed {observed}{state}", style.bold(&target.name)));
    allocation_lines(lines, target, before, style);
    memory_line(lines, target, style);
    mapping_line(lines, target, style);
    go::lines(lines, target, before, style);
    thread_lines(lines, target, before, style);
    stall_line(lines, target, style);
}

/// What became of the points.
fn push_lines(lines: &mut Vec<String>, push: &PushFigures, style: Style) {
    let stored = format!("{} points stored", grouped(push.stored as f64));
    let waiting = match push.backlog_points {
        0 => String::new(),
        points => format!(
            " · {} wait ({}, oldest {})",
            grouped(points as f64),
            bytes(push.backlog_bytes as f64),
            duration(push.backlog_age.as_secs_f64())
        ),
    };
    let text = format!("{stored}{waiting}");
    // Right after the start nothing has been sent yet.
    let fine = push.up || push.last_success.is_none() && push.trouble.is_none() && push.retries == 0;
    row(lines, style, "influx", &if fine { text } else { style.warn(&format!("{text} · not reached")) });
    if let Some(trouble) = &push.trouble {
        row(lines, style, "", &style.warn(trouble));
    }
    let lost: u64 = push.dropped.named().iter().map(|(_, count)| count).sum();
    if lost > 0 {
        row(lines, style, "", &style.alarm(&format!("{} points were given up", grouped(lost as f64))));
    }
    lines.push(String::new());
}

fn row(lines: &mut Vec<String>, style: Style, label: &str, text: &str) {
    lines.push(format!("  {} {text}", style.dim(&format!("{label:<9}"))));
}

fn allocation_lines(
    lines: &mut Vec<String>,
    target: &TargetSnapshot,
    before: Option<&TargetSnapshot>,
    style: Style,
) {
    let states = target.alloc_states();
    if states.iter().all(|(state, _)| **state == AllocState::Off) {
        return;
    }
    let some = |count: usize| {
        if count == target.processes.len() { String::new() } else { format!("{count} processes: ") }
    };
    for (state, count) in states {
        match state {
            AllocState::NotCounting(reason) => {
                row(lines, style, "calls", &style.warn(&format!("{}not counted: {reason}", some(count))));
            }
            AllocState::Partly(reason) => {
                row(lines, style, "partly", &style.warn(&format!("{}{reason}", some(count))));
            }
            AllocState::Counting | AllocState::Off => {}
        }
    }
    if target.alloc.functions.is_empty() {
        return;
    }
    let total = target.alloc.total();
    let earlier = before.map(|before| before.alloc.total()).unwrap_or_default();
    let seconds = elapsed(target, before);
    let rate =
        |now: u64, then: u64| if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 };
    row(
        lines,
        style,
        "calls",
        &format!(
            "{:>14} allocations/s {:>14} frees/s   {:>12}/s requested",
            grouped(rate(total.allocated(), earlier.allocated())),
            grouped(rate(total.freed(), earlier.freed())),
            bytes(rate(total.bytes, earlier.bytes)),
        ),
    );
    row(
        lines,
        style,
        "total",
        &format!(
            "{:>14} allocations   {:>14} frees     {:>12} requested   live objects {}",
            grouped(total.allocated() as f64),
            grouped(total.freed() as f64),
            bytes(total.bytes as f64),
            style.bold(&signed(target.alloc.live_objects())),
        ),
    );
    for layer in target.alloc.layers() {
        layer_lines(lines, target, layer, style);
    }
    if target.alloc.gap.as_secs_f64() >= 0.0005 {
        let gap = duration(target.alloc.gap.as_secs_f64());
        row(
            lines,
            style,
            "gap",
            &format!("{gap} ran uncounted after fork, execve or dlopen, all processes together"),
        );
    }
}

/// The functions of one allocator, or of an interpreter's layer, the busiest first.
fn layer_lines(lines: &mut Vec<String>, target: &TargetSnapshot, layer: Layer, style: Style) {
    let mut functions: Vec<_> = target.alloc.functions.iter().filter(|one| one.layer == layer).collect();
    functions.sort_by_key(|one| std::cmp::Reverse(one.hits));
    let mut used: Vec<_> = functions
        .iter()
        .map(|one| {
            (one.function, if one.function.allocates() { one.counts.allocated() } else { one.counts.freed() })
        })
        .filter(|(_, calls)| *calls > 0)
        .map(|(function, calls)| format!("{} {}", function.name(), grouped(calls as f64)))
        .collect();
    if used.is_empty() {
        return;
    }
    if matches!(layer, Layer::Python(_))
        && let Some(live) = target.alloc.live.iter().find(|one| one.layer == layer)
    {
        used.push(format!("live objects {}", style.bold(&signed(live.objects))));
    }
    row(lines, style, layer.name(), &used.join(" · "));
}

fn memory_line(lines: &mut Vec<String>, target: &TargetSnapshot, style: Style) {
    let Some(usage) = &target.usage else { return };
    let mut text = format!(
        "resident {} · anonymous {}",
        bytes(usage.resident_memory_bytes as f64),
        bytes(usage.anonymous_memory_bytes as f64)
    );
    if let Some(memory) = target.detail.as_ref().and_then(|(detail, _)| detail.memory) {
        // Writing to a string can't fail.
        let _infallible = write!(text, " · unique {}", bytes(memory.unique_bytes as f64));
    }
    if usage.swap_bytes > 0 {
        let _infallible = write!(text, " · swapped {}", bytes(usage.swap_bytes as f64));
    }
    row(lines, style, "memory", &text);
}

fn mapping_line(lines: &mut Vec<String>, target: &TargetSnapshot, style: Style) {
    let Some(counts) = &target.mappings else { return };
    let used: Vec<_> = MappingKind::ALL
        .into_iter()
        .map(|kind| (kind, counts[kind as usize]))
        .filter(|(_, counts)| counts.calls > 0)
        .map(|(kind, counts)| {
            format!("{} {} ({})", kind.name(), grouped(counts.calls as f64), bytes(counts.bytes as f64))
        })
        .collect();
    let text = if used.is_empty() { "none so far".to_owned() } else { used.join(" · ") };
    row(lines, style, "mappings", &text);
}

fn thread_lines(
    lines: &mut Vec<String>,
    target: &TargetSnapshot,
    before: Option<&TargetSnapshot>,
    style: Style,
) {
    let Some(kept) = &target.ledger else { return };
    let earlier = before.and_then(|before| before.ledger);
    let spent = |state: ThreadState| {
        kept.ledger.seconds(state) - earlier.map_or(0.0, |earlier| earlier.ledger.seconds(state))
    };
    let sum: f64 = ThreadState::ALL.into_iter().map(spent).sum();
    let shares: Vec<_> = ThreadState::ALL
        .into_iter()
        .map(|state| {
            let share = if sum > 0.0 { spent(state) / sum * 100.0 } else { 0.0 };
            (state, share)
        })
        .filter(|(state, share)| *share >= 0.05 || *state == ThreadState::Running)
        .map(|(state, share)| format!("{} {share:.1} %", state.name()))
        .collect();
    row(lines, style, "threads", &format!("{} · {}", kept.ledger.living, shares.join(" · ")));
}

fn stall_line(lines: &mut Vec<String>, target: &TargetSnapshot, style: Style) {
    let causes = causes::of(target);
    if causes.is_empty() {
        return;
    }
    let stalls: Vec<_> = causes
        .into_iter()
        .filter(|(_, counts)| counts.count() > 0)
        .map(|(cause, counts)| {
            format!("{cause} {} ({})", grouped(counts.count() as f64), duration(counts.total_ns as f64 / 1e9))
        })
        .collect();
    let text = if stalls.is_empty() { "none so far".to_owned() } else { stalls.join(" · ") };
    row(lines, style, "stalls", &text);
}

/// Seconds between two snapshots of a target, or since attach.
fn elapsed(target: &TargetSnapshot, before: Option<&TargetSnapshot>) -> f64 {
    let before = before.map_or(0.0, |before| before.observed.as_secs_f64());
    target.observed.as_secs_f64() - before
}

/// A whole number with its thousands grouped.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0.0 && digits != "0" {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 site`, `2 sites`.
pub fn several(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count as f64), if count == 1 { "" } else { "s" })
}

fn signed(value: i64) -> String {
    if value > 0 { format!("+{}", grouped(value as f64)) } else { grouped(value as f64) }
}

/// Bytes with a binary unit.
pub fn bytes(value: f64) -> String {
    let (unit, size) = unit_of(value);
    let value = value / size;
    if size == 1.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// An estimate of bytes with its interval, all in one unit: `10.2 KiB/s (9.4 - 11.1)`.
pub fn interval(estimate: Estimate, per: &str) -> String {
    let (unit, size) = unit_of(estimate.value.abs().max(estimate.low.abs()).max(estimate.high.abs()));
    let Estimate { value, low, high } = estimate;
    let [value, low, high] = [value, low, high].map(|part| match part / size {
        // Rates below a byte a second are leaks, too, over weeks.
        part if size == 1.0 && part != 0.0 && part.abs() < 10.0 => format!("{part:.2}"),
        part if size == 1.0 => format!("{part:.0}"),
        part => format!("{part:.1}"),
    });
    format!("{value} {unit}{per} ({low} - {high})")
}

/// The binary unit in which a number of bytes reads well, and how many bytes that is.
fn unit_of(value: f64) -> (&'static str, f64) {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = 1.0;
    for unit in &UNITS[..UNITS.len() - 1] {
        if value.abs() / size < 1024.0 {
            return (unit, size);
        }
        size *= 1024.0;
    }
    (UNITS[UNITS.len() - 1], size)
}

/// Seconds, readable.
pub fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else if seconds < 3600.0 {
        format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor())
    } else {
        format!("{:.0} h {:02.0} min", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor())
    }
}

/// Seconds below a second, readable.
fn short(seconds: f64) -> String {
    if seconds < 0.001 { format!("{:.0} us", seconds * 1e6) } else { duration(seconds) }
}

/// Cuts a line at `width` visible characters; codes that set the look take no place.
pub(super) fn cut(line: &str, width: usize) -> String {
    if width == 0 {
        return line.to_owned();
    }
    let mut text = String::with_capacity(line.len());
    let mut shown = 0;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            text.push(character);
            for code in characters.by_ref() {
                text.push(code);
                if code == 'm' {
                    break;
                }
            }
        } else if shown < width {
            text.push(character);
            shown += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(-1_000.0), "-1,000");
        assert_eq!(grouped(-0.2), "0");
        assert_eq!(signed(5), "+5");
        assert_eq!(signed(0), "0");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        let estimate = |value, low, high| Estimate { value, low, high };
        assert_eq!(interval(estimate(10_445.0, 9626.0, 11_366.0), "/s"), "10.2 KiB/s (9.4 - 11.1)");
        assert_eq!(interval(estimate(0.25, 0.0, 0.5), "/s"), "0.25 B/s (0 - 0.50)");
        assert_eq!(interval(estimate(0.0, 0.0, 2048.0), ""), "0.0 KiB (0.0 - 2.0)");
        assert_eq!(duration(0.031), "31 ms");
        assert_eq!(duration(61.0), "1 min 01 s");
        assert_eq!(duration(7325.0), "2 h 02 min");
    }

    #[test]
    fn cutting_counts_visible_characters_only() {
        assert_eq!(cut("\x1b[1mabcdef\x1b[0m", 3), "\x1b[1mabc\x1b[0m");
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("abc", 0), "abc");
    }
}
