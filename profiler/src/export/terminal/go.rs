//! The lines of a Go program.

use super::{Style, bytes, elapsed, row, several, short};
use crate::{
    runtime::go::figures::Figures,
    snapshot::{GoTrouble, TargetSnapshot},
};

/// What its runtime says: goroutines, heap, pauses; or why that can't be told.
pub(super) fn lines(
    lines: &mut Vec<String>,
    target: &TargetSnapshot,
    before: Option<&TargetSnapshot>,
    style: Style,
) {
    let Some(go) = &target.go else { return };
    let mut versions = go.versions.join(", ");
    let near: Vec<_> =
        go.tables.iter().filter(|(_, exact)| !exact).map(|(table, _)| format!("go{table}")).collect();
    if !near.is_empty() {
        versions.push_str(&format!(" (read as {})", near.join(", ")));
    }
    match &go.figures {
        Some(figures) => {
            let earlier = before.and_then(|before| before.go.as_ref()?.figures.as_ref());
            row(lines, style, "go", &format!("{versions} · {}", heap(figures)));
            row(lines, style, "gc", &collections(figures, earlier, elapsed(target, before)));
        }
        None => row(lines, style, "go", &versions),
    }
    for GoTrouble { what, reason, .. } in &go.trouble {
        row(lines, style, "", &style.warn(&format!("no {}: {reason}", what.replace('_', " "))));
    }
}

fn heap(figures: &Figures) -> String {
    format!(
        "{} · heap {} in use, next gc at {}",
        several(figures.goroutines, "goroutine"),
        bytes(figures.heap_inuse as f64),
        bytes(figures.next_gc as f64),
    )
}

/// Cycles since the program started, and how often and how long just now.
fn collections(figures: &Figures, earlier: Option<&Figures>, seconds: f64) -> String {
    let mut text = several(figures.num_gc.into(), "collection");
    if let Some(earlier) = earlier.filter(|_| seconds > 0.0) {
        let cycles = f64::from(figures.num_gc.saturating_sub(earlier.num_gc)) / seconds;
        let paused = figures.pause_total_ns.saturating_sub(earlier.pause_total_ns) as f64 / 1e9 / seconds;
        text.push_str(&format!(" · {cycles:.1}/s · world stopped {:.3} %", paused * 100.0));
    }
    if !figures.pauses.is_empty() {
        let [_, _, median, _, longest] = figures.pause_quantiles().map(|pause| short(pause as f64 / 1e9));
        text.push_str(&format!(" · pauses {median} median, {longest} longest"));
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::{
        export::terminal::{Style, render},
        test_support::moment::{go_target, snapshot, trouble},
    };

    const PLAIN: Style = Style { colour: false, width: 0 };

    #[test]
    fn a_go_program_has_a_line_of_its_heap_and_one_of_its_collections() {
        let text = render(&snapshot(vec![go_target("shop")]), None, PLAIN);
        for line in [
            "  go        go1.23.9 (read as go1.23.1) · 12 goroutines · heap 2.9 MiB in use, next gc at 4.0 MiB",
            "  gc        5 collections · pauses 300 us median, 500 us longest",
            "            no heap profile: the linker left memory profiling out",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        assert!(text.contains("gc 3 (2 ms)"), "the stalls have them, too\n{text}");
    }

    #[test]
    fn rates_are_those_since_the_earlier_look() {
        let earlier = snapshot(vec![go_target("shop")]);
        let mut now = go_target("shop");
        now.observed += std::time::Duration::from_secs(2);
        let figures = now.go.as_mut().unwrap().figures.as_mut().unwrap();
        figures.num_gc += 3;
        figures.pause_total_ns += 20_000_000;
        let text = render(&snapshot(vec![now]), Some(&earlier), PLAIN);
        assert!(text.contains("8 collections · 1.5/s · world stopped 1.000 % · pauses"), "{text}");
    }

    #[test]
    fn where_nothing_can_be_told_the_reason_is() {
        let mut target = go_target("shop");
        let go = target.go.as_mut().unwrap();
        (go.figures, go.trouble) = (None, vec![trouble("figures", "no table for go1.99")]);
        let text = render(&snapshot(vec![target]), None, PLAIN);
        assert!(text.contains("no figures: no table for go1.99"), "{text}");
        assert!(!text.contains("goroutines"), "{text}");
    }
}
