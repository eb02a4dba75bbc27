//! What people read of leaks: the verdict in words, a table of sites, their stacks and what it rests on.

mod words;

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::words::{in_room, living, narrow, prose};
use super::terminal::{Style, bytes, cut, duration, grouped, interval, several};
use crate::{
    history::Told,
    leaks::{Judgement, Picture, SiteReport, Source, TargetReport, Verdict},
    stack::{Frame, Stack},
};

/// Frames of a stack that are shown.
const FRAMES: usize = 12;
/// Functions in the one line that names a stack.
const SHORT: usize = 3;
/// Sites that are shown while it watches.
const TOP_MEANWHILE: usize = 3;

/// Everything, at the end of the watch: per target the verdict, what it rests on, a table of the `top` sites, their stacks.
pub fn render(picture: &Picture, style: Style, top: usize) -> String {
    let mut lines = Vec::new();
    for target in &picture.targets {
        target_lines(&mut lines, target, picture.taken_at, style, top);
        lines.push(String::new());
    }
    if picture.targets.is_empty() {
        lines.push("nothing was watched".to_owned());
    }
    finished(&lines, style)
}

/// The live block, while it watches. `lasting`: how long it will.
pub fn progress(picture: &Picture, lasting: Option<Duration>, style: Style) -> String {
    let mut lines = Vec::new();
    for target in &picture.targets {
        let elapsed = duration(target.watched.as_secs_f64());
        let total =
            lasting.map_or(String::new(), |lasting| format!(" of {}", duration(lasting.as_secs_f64())));
        let samples: u64 = target.sites.iter().map(|site| site.samples.0).sum();
        let mut parts = vec![
            style.bold(&target.target),
            format!("watched {elapsed}{total}"),
            several(samples, "sample"),
            several(target.sites.len() as u64, "site"),
        ];
        if let Some(ended) = &target.ended {
            parts.push(style.warn(&format!("ended: {ended}")));
        }
        lines.push(parts.join(" · "));
        prose(&mut lines, 2, &judgement_in_words(&target.judgement, picture.taken_at, style), style);
        for site in target.sites.iter().take(TOP_MEANWHILE) {
            lines.push(format!("  {}", site_in_a_line(site, style)));
        }
    }
    finished(&lines, style)
}

/// What a history has, in a line.
pub fn kept(told: &Told, style: Style) -> String {
    let Some((first, last)) = told.range else { return "the history is empty".to_owned() };
    let mut text = format!("{}, {} to {}", several(told.moments, "moment"), moment(first), moment(last));
    if told.thinned_moments + told.dropped_sites > 0 {
        let _infallible = write!(
            text,
            "; left out to keep it small: {} moments, small sites {} times",
            grouped(told.thinned_moments as f64),
            grouped(told.dropped_sites as f64)
        );
    }
    style.dim(&text)
}

/// A moment, in UTC: nobody has to guess which zone a log or a colleague means.
pub fn moment(at: SystemTime) -> String {
    // What can't be told has no year of four digits.
    let end = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    if at > end { "?".to_owned() } else { humantime::format_rfc3339_seconds(at).to_string() }
}

/// The time of day alone if it was less than a day ago.
fn since(at: SystemTime, now: SystemTime) -> String {
    let full = moment(at);
    let recent = now.duration_since(at).is_ok_and(|age| age < Duration::from_secs(24 * 3600));
    match full.split_once('T') {
        Some((_, time)) if recent => format!("{} UTC", time.trim_end_matches('Z')),
        _ => full,
    }
}

fn finished(lines: &[String], style: Style) -> String {
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..end].iter().map(|line| format!("{}\n", cut(line, style.width))).collect()
}

fn target_lines(lines: &mut Vec<String>, target: &TargetReport, now: SystemTime, style: Style, top: usize) {
    let who = match target.pids.as_slice() {
        [pid] => format!("pid {pid}"),
        pids => format!("{} processes", grouped(pids.len() as f64)),
    };
    let watched = duration(target.watched.as_secs_f64());
    let ended = target
        .ended
        .as_ref()
        .map_or(String::new(), |how| format!(" · {}", style.warn(&format!("ended: {how}"))));
    lines.push(format!("{} · {who} · watched {watched}{ended}", style.bold(&target.target)));
    prose(lines, 2, &verdict_in_words(target, now, style), style);
    if !target.judgement.reason.is_empty() && target.judgement.verdict != Verdict::Unjudged {
        prose(lines, 2, &target.judgement.reason, style);
    }
    rest_lines(lines, target, style);
    if target.sites.is_empty() {
        return;
    }
    lines.push(String::new());
    let shown = &target.sites[..target.sites.len().min(top)];
    table(lines, shown, style);
    if target.sites.len() > shown.len() {
        let more = target.sites.len() - shown.len();
        lines.push(style.dim(&format!("  and {} more (--top N)", several(more as u64, "site"))));
    }
    for site in shown {
        lines.push(String::new());
        site_lines(lines, site, style);
    }
}

/// What the verdict rests on, and what to doubt.
fn rest_lines(lines: &mut Vec<String>, target: &TargetReport, style: Style) {
    let row = |lines: &mut Vec<String>, label: &str, text: &str| {
        let from = lines.len();
        prose(lines, 12, text, style);
        if let Some(first) = lines.get_mut(from) {
            *first = format!("  {} {}", style.dim(&format!("{label:<9}")), first.trim_start());
        }
    };
    let sampled = match &target.source {
        Ok(source) => format!("{}, one sample per {}", source.name(), bytes(target.sample_bytes as f64)),
        Err(reason) => style.warn(&format!("nothing is sampled: {reason}")),
    };
    row(lines, "source", &sampled);
    let own = target.before.allocator_bytes;
    let own =
        own.map_or(String::new(), |own| format!(", of which the allocator had {} in use", bytes(own as f64)));
    let before = bytes(target.before.anon_bytes as f64);
    let of_runtime = target.source == Ok(Source::Runtime);
    let known = if of_runtime { "" } else { "; nothing is known of these" };
    row(lines, "before", &format!("{before} were there when the watch began{own}{known}"));
    let growth = target.anon_bytes as f64 - target.before.anon_bytes as f64;
    let changed = match growth {
        0.0 => "as at the beginning".to_owned(),
        growth if growth < 0.0 => format!("{} less than at the beginning", bytes(-growth)),
        growth => format!("{} more than at the beginning", bytes(growth)),
    };
    let explained = target.explained.map_or_else(String::new, |share| {
        let percent = |part: f64| part * 100.0;
        format!(
            "; the sites explain {:.0} % ({:.0} - {:.0}) of it",
            percent(share.value),
            percent(share.low),
            percent(share.high)
        )
    });
    if target.source.is_ok() {
        let since =
            if of_runtime { "of what the program ever allocated" } else { "of what was allocated since" };
        row(lines, "live", &format!("{} {since}", living(target.live_bytes)));
    }
    row(lines, "memory", &format!("anonymous: {}, {changed}{explained}", bytes(target.anon_bytes as f64)));
    if target.other.0 > 0 {
        let (samples, live) = target.other;
        let text = format!("{} of small sites together ({} samples)", living(live), grouped(samples as f64));
        row(lines, "other", &text);
    }
    let lost: Vec<_> = target.losses.iter().filter(|(_, count)| *count > 0).collect();
    if !lost.is_empty() {
        let told: Vec<_> =
            lost.iter().map(|(reason, count)| format!("{reason} {}", grouped(*count as f64))).collect();
        row(lines, "lost", &style.warn(&told.join(" · ")));
    }
}

/// `leaking: 10.2 KiB/s (9.4 - 11.1), sure to 99.9 %, since 14:03:12 UTC · parse_header (http.c:214) <- handle <- main`.
fn verdict_in_words(target: &TargetReport, now: SystemTime, style: Style) -> String {
    let mut text = judgement_in_words(&target.judgement, now, style);
    let culprit = target.sites.iter().find(|site| site.judgement.verdict == target.judgement.verdict);
    if let Some(site) =
        culprit.filter(|_| matches!(target.judgement.verdict, Verdict::Leaking | Verdict::Growing))
    {
        let _infallible = write!(text, " · {}", in_a_line(&site.stack));
    }
    text
}

fn judgement_in_words(judgement: &Judgement, now: SystemTime, style: Style) -> String {
    if judgement.verdict == Verdict::Unjudged {
        let missing = if judgement.reason.is_empty() { "too little is known" } else { &judgement.reason };
        return format!("{}: {missing}", style.bold("can't say yet"));
    }
    let mut parts = Vec::new();
    if let Some(rate) = judgement.rate.filter(|_| judgement.verdict != Verdict::Steady) {
        parts.push(interval(rate, "/s"));
    }
    parts.push(format!("sure to {}", sure(judgement.confidence)));
    if let Some(at) = judgement.since {
        parts.push(format!("since {}", since(at, now)));
    }
    format!("{}: {}", word(judgement.verdict, style), parts.join(", "))
}

/// A confidence in per cent; never rounded to certainty.
fn sure(confidence: f64) -> String {
    let percent = (confidence * 1000.0).floor() / 10.0;
    if percent > 99.9 { "more than 99.9 %".to_owned() } else { format!("{percent:.1} %") }
}

fn word(verdict: Verdict, style: Style) -> String {
    match verdict {
        Verdict::Leaking => style.alarm(verdict.name()),
        Verdict::Growing => style.warn(verdict.name()),
        Verdict::Steady => style.bold(verdict.name()),
        Verdict::Unjudged => style.dim("can't say"),
    }
}

/// The word, filled up to a column: codes that set the look take no place.
fn column(verdict: Verdict, style: Style) -> String {
    let plain = Style { colour: false, width: 0 };
    let fill = 9_usize.saturating_sub(word(verdict, plain).len());
    format!("{}{:fill$}", word(verdict, style), "")
}

/// A runtime doesn't tell how old blocks are.
pub(super) fn age(age: Duration) -> String {
    if age.is_zero() { "-".to_owned() } else { duration(age.as_secs_f64()) }
}

fn table(lines: &mut Vec<String>, sites: &[SiteReport], style: Style) {
    let rows: Vec<[String; 4]> = sites
        .iter()
        .map(|site| {
            [
                site.judgement.rate.map_or_else(|| "-".to_owned(), |rate| in_room(rate, "/s", style)),
                if narrow(style) { bytes(site.live_bytes.value) } else { living(site.live_bytes) },
                age(site.ages.median),
                in_a_line(&site.stack),
            ]
        })
        .collect();
    let heads = ["rate", "live", "age"];
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(heads[column].len())
    };
    let widths = [width(0), width(1), width(2)];
    let line = |cells: [&str; 3]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _infallible = write!(text, "{cell:>width$}  ");
        }
        text
    };
    lines.push(style.dim(&format!("  {:<14}{:<11}{}{}", "site", "verdict", line(heads), "call site")));
    for (site, [rate, live, age, stack]) in sites.iter().zip(&rows) {
        let verdict = column(site.judgement.verdict, style);
        lines.push(format!("  {:<14}{verdict}  {}{stack}", site.id, line([rate, live, age])));
    }
}

fn site_in_a_line(site: &SiteReport, style: Style) -> String {
    let rate = site.judgement.rate.map_or(String::new(), |rate| format!(" · {}", in_room(rate, "/s", style)));
    let verdict = column(site.judgement.verdict, style);
    let live = if narrow(style) { bytes(site.live_bytes.value) } else { living(site.live_bytes) };
    format!("{verdict} live {live}{rate} · {}", in_a_line(&site.stack))
}

/// A site's stack, a line per function, and why it is judged so.
fn site_lines(lines: &mut Vec<String>, site: &SiteReport, style: Style) {
    let reason = if site.judgement.reason.is_empty() { "" } else { &*site.judgement.reason };
    prose(
        lines,
        2,
        &format!("{}  {}  {reason}", style.bold(&site.id), word(site.judgement.verdict, style)),
        style,
    );
    if narrow(style) {
        let rate =
            site.judgement.rate.map_or(String::new(), |rate| format!(" · grows {}", interval(rate, "/s")));
        prose(lines, 4, &format!("live {}{rate}", living(site.live_bytes)), style);
    }
    stack_lines(lines, &site.stack, style);
}

/// A line per function, inlined ones marked, innermost first.
pub fn stack_lines(lines: &mut Vec<String>, stack: &Stack, style: Style) {
    for frame in stack.frames.iter().take(FRAMES) {
        let names = places(frame);
        let inlined = names.len().saturating_sub(1);
        for (number, name) in names.iter().enumerate() {
            let mark = if number < inlined { style.dim(" inlined") } else { String::new() };
            lines.push(format!("      {name}{mark}"));
        }
    }
    if stack.frames.len() > FRAMES {
        lines.push(style.dim(&format!("      and {} frames more", stack.frames.len() - FRAMES)));
    }
    let end = match stack.end {
        crate::stack::End::Complete => return,
        crate::stack::End::Cut => "the copied part of the stack ends here",
        crate::stack::End::TooDeep => "it goes deeper",
        crate::stack::End::Lost => "nothing tells how it goes on",
        crate::stack::End::Failed => "it could not be unwound",
        crate::stack::End::LeftOut => "no stack: too many samples at once",
    };
    lines.push(style.dim(&format!("      ({end})")));
}

/// `function (file:line)` for every function of a frame.
fn places(frame: &Frame) -> Vec<String> {
    if frame.functions.is_empty() {
        return frame.names();
    }
    let place = |function: &crate::stack::Function| match &function.file {
        Some(file) if function.line > 0 => format!("{} ({}:{})", function.name, base(file), function.line),
        Some(file) => format!("{} ({})", function.name, base(file)),
        None => function.name.to_string(),
    };
    frame.functions.iter().map(place).collect()
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

/// The innermost functions of a stack: `parse_header (http.c:214) <- handle <- main`.
pub fn in_a_line(stack: &Stack) -> String {
    let Some(first) = stack.frames.first() else { return "(no stack)".to_owned() };
    let mut names: Vec<String> = stack.frames.iter().take(SHORT + 1).flat_map(Frame::names).collect();
    if let (Some(name), Some(place)) = (names.first_mut(), places(first).into_iter().next()) {
        *name = place;
    }
    let more = names.len() > SHORT;
    names.truncate(SHORT);
    if more {
        names.push("...".to_owned());
    }
    names.join(" <- ")
}

#[cfg(test)]
mod tests {
    use super::{words::codes, *};
    use crate::{
        history::samples::{at, leaking_server, site, stack, target},
        leaks::Estimate,
        stack::{End, Function},
    };

    const PLAIN: Style = Style { colour: false, width: 0 };

    #[test]
    fn the_verdict_is_told_in_words_at_the_top() {
        let text = render(&leaking_server(600), PLAIN, 10);
        let second = text.lines().nth(1).unwrap();
        let expected = "  leaking: 10.2 KiB/s (9.2 - 11.2), sure to 99.9 %, since 14:03:12 UTC · \
                        parse_header (parse_header.c:214) <- handle <- main";
        assert_eq!(second, expected);
        assert!(text.contains("30.0 MiB were there when the watch began"), "{text}");
        assert!(text.contains("the sites explain 97 % (91 - 103)"), "{text}");
        assert!(!text.contains("lost") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn the_table_has_a_row_for_each_site_shown_and_tells_of_the_rest() {
        let text = render(&leaking_server(600), PLAIN, 2);
        let rows: Vec<_> =
            text.lines().filter(|line| line.contains("KiB/s (") && line.starts_with("  a1b2")).collect();
        assert_eq!(rows.len(), 1, "{text}");
        assert!(
            rows[0].contains("leaking")
                && rows[0].contains("6.0 MiB (5.4 - 6.6)")
                && rows[0].contains("4 min 10 s")
        );
        assert!(text.contains("and 1 site more") && !text.contains("read_config"), "{text}");
        assert!(text.contains("\n      handle (handle.c:214)\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_said_yet_says_what_is_missing_and_what_was_lost_is_told() {
        let mut picture = leaking_server(600);
        let report = &mut picture.targets[0];
        report.judgement =
            Judgement { reason: "two minutes more are needed".to_owned(), ..Judgement::default() };
        report.losses[0].1 = 7;
        report.ended = Some("killed for memory".to_owned());
        report.source = Err("its allocator is unknown".to_owned());
        let text = render(&picture, PLAIN, 10);
        assert!(text.contains("can't say yet: two minutes more are needed\n"), "{text}");
        for part in
            ["ring_full 7", "ended: killed for memory", "nothing is sampled: its allocator is unknown"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("live_full"), "{text}");
    }

    #[test]
    fn inlined_functions_are_marked_and_the_end_of_a_stack_is_told() {
        let mut stack = (*stack("aa", 1, &["outer", "main"])).clone();
        let inner = Function { name: "inner".into(), file: None, line: 0 };
        stack.frames[0].functions.insert(0, inner);
        stack.frames[1].functions.clear();
        stack.end = End::Cut;
        let mut lines = Vec::new();
        stack_lines(&mut lines, &stack, PLAIN);
        let expected = [
            "inner inlined",
            "outer (outer.c:214)",
            "server+0x2",
            "(the copied part of the stack ends here)",
        ];
        assert_eq!(lines.iter().map(|line| line.trim()).collect::<Vec<_>>(), expected);
        assert_eq!(in_a_line(&stack), "inner <- outer <- server+0x2");
    }

    #[test]
    fn while_it_watches_the_time_the_samples_and_three_sites_are_shown() {
        let names = ["a", "b", "c", "d"];
        let sites = names.iter().map(|name| site(name, stack("aa", 1, &[name]), Verdict::Steady, 5000.0));
        let picture = Picture { taken_at: at(90), targets: vec![target("server", sites.collect())] };
        let text = progress(&picture, Some(Duration::from_secs(1200)), PLAIN);
        assert!(
            text.starts_with("server · watched 10 min 00 s of 20 min 00 s · 960 samples · 4 sites\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn in_a_narrow_terminal_prose_goes_on_below_and_the_table_has_no_intervals() {
        let narrow = Style { colour: true, width: 60 };
        let text = render(&leaking_server(600), narrow, 10);
        let visible = |line: &str| line.chars().count() - codes(line);
        assert!(text.lines().all(|line| visible(line) <= 60), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("made up: 6266880 bytes live here"), "{text}");
        assert!(flat.contains("the sites explain 97 % (91 - 103) of it"), "{text}");
        let row = text.lines().find(|line| line.starts_with("  a1b2c3d4e5f6")).unwrap();
        assert!(row.contains("10.2 KiB/s") && !row.contains("(9.2"), "{row}");
    }

    #[test]
    fn what_was_never_drawn_is_told_by_its_most() {
        let estimate = |value, high| Estimate { value, low: 0.0, high };
        assert_eq!(living(estimate(0.0, 1_887_437.0)), "less than 1.8 MiB");
        assert_eq!(living(estimate(0.0, 0.0)), "0 B");
        assert_eq!(living(estimate(0.0, f64::INFINITY)), "unknown");
    }

    #[test]
    fn certainty_is_never_claimed() {
        assert_eq!(
            [sure(1.0), sure(0.9999), sure(0.9996), sure(0.95)],
            ["more than 99.9 %", "99.9 %", "99.9 %", "95.0 %"]
        );
    }

    #[test]
    fn times_of_other_days_have_their_date() {
        assert_eq!(since(at(192), at(600)), "14:03:12 UTC");
        assert_eq!(since(at(0), at(100_000)), "2026-11-22T14:00:00Z");
    }
}
