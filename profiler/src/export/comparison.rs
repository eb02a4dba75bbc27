//! Two moments of a history side by side, for people and as JSON.

use serde_json::{Value, json};

use super::{
    leaks::{in_a_line, moment, stack_lines},
    terminal::{Style, bytes, cut, grouped, interval},
};
use crate::{
    history::{Change, Comparison, Identity, Row, TargetComparison},
    leaks::{Estimate, Verdict},
};

/// For people: per target what has changed, the `top` sites that have changed most, and their stacks.
pub fn render(comparison: &Comparison, style: Style, top: usize) -> String {
    let by = match comparison.by {
        Identity::Site => "by place",
        Identity::Name => "by the names of functions",
    };
    let mut lines =
        vec![format!("{} -> {} · sites matched {by}", moment(comparison.before), moment(comparison.after))];
    for target in &comparison.targets {
        lines.push(String::new());
        target_lines(&mut lines, target, style, top);
    }
    lines.iter().map(|line| format!("{}\n", cut(line, style.width))).collect()
}

fn target_lines(lines: &mut Vec<String>, target: &TargetComparison, style: Style, top: usize) {
    let run = if target.same_run { "one watch" } else { "two watches" };
    lines.push(format!("{} · {run} · {}", style.bold(&target.target), verdicts(target.verdicts)));
    lines.push(format!("  live      {}", change(&target.live)));
    if let (Some(before), Some(after)) = target.anon_bytes {
        lines.push(format!("  anonymous {} -> {}", bytes(before as f64), bytes(after as f64)));
    }
    let note = if target.same_run {
        "intervals hold both estimates' errors, as if they were independent; within one watch they are narrower"
    } else {
        "the watches began at different moments: compare what they say of themselves, not how much has come since"
    };
    lines.push(style.dim(&format!("  {note}")));
    // The largest changes, whichever way.
    let mut order: Vec<&Row> = target.rows.iter().collect();
    order.sort_by(|one, other| other.live.difference.value.abs().total_cmp(&one.live.difference.value.abs()));
    let shown: Vec<&Row> = order.iter().take(top).copied().collect();
    for row in &shown {
        lines.push(String::new());
        let sure = if row.live.is_sure() { "" } else { " · may be chance" };
        lines.push(format!("  {}  {}  {}{sure}", style.bold(&row.id), state(row), verdicts(row.verdicts)));
        lines.push(format!("    {}", change(&row.live)));
        if row.sites.0 > 1 || row.sites.1 > 1 {
            lines.push(
                style
                    .dim(&format!("    {} sites before, {} after, of these names", row.sites.0, row.sites.1)),
            );
        }
        stack_lines(lines, &row.stack, style);
    }
    if target.rows.len() > shown.len() {
        let more = grouped((target.rows.len() - shown.len()) as f64);
        lines.push(style.dim(&format!("  and {more} sites more (--top N)")));
    }
}

fn state(row: &Row) -> &'static str {
    match (row.live.before, row.live.after) {
        (None, _) => "new",
        (_, None) => "gone, or too small to be listed",
        _ => "both",
    }
}

fn change(change: &Change) -> String {
    let one = |estimate: Option<Estimate>| estimate.map_or_else(|| "-".to_owned(), |one| bytes(one.value));
    format!(
        "{} -> {}   difference {}",
        one(change.before),
        one(change.after),
        interval(change.difference, "")
    )
}

fn verdicts((before, after): (Option<Verdict>, Option<Verdict>)) -> String {
    let name = |verdict: Option<Verdict>| verdict.map_or("-", Verdict::name);
    if before == after { name(after).to_owned() } else { format!("{} -> {}", name(before), name(after)) }
}

/// As JSON, everything in it.
///
/// # Errors
///
/// If a figure can't be written.
pub fn json(comparison: &Comparison) -> serde_json::Result<String> {
    let targets: Vec<Value> = comparison.targets.iter().map(target_json).collect();
    let document = json!({
        "before": moment(comparison.before),
        "after": moment(comparison.after),
        "matched_by": match comparison.by { Identity::Site => "site", Identity::Name => "name" },
        "targets": targets,
    });
    Ok(format!("{}\n", serde_json::to_string(&document)?))
}

fn target_json(target: &TargetComparison) -> Value {
    let rows: Vec<Value> = target
        .rows
        .iter()
        .map(|row| {
            let mut value = change_json(&row.live, row.verdicts);
            value["site"] = json!(row.id);
            value["sites_before"] = json!(row.sites.0);
            value["sites_after"] = json!(row.sites.1);
            value["call_site"] = json!(in_a_line(&row.stack));
            value["functions"] =
                json!(row.stack.frames.iter().flat_map(|frame| frame.names()).collect::<Vec<_>>());
            value
        })
        .collect();
    let mut value = change_json(&target.live, target.verdicts);
    value["target"] = json!(target.target);
    value["same_watch"] = json!(target.same_run);
    value["anonymous_bytes"] = json!({ "before": target.anon_bytes.0, "after": target.anon_bytes.1 });
    value["sites"] = json!(rows);
    value
}

fn change_json(change: &Change, verdicts: (Option<Verdict>, Option<Verdict>)) -> Value {
    json!({
        "live_bytes": { "before": change.before, "after": change.after, "difference": change.difference },
        "sure": change.is_sure(),
        "verdict": { "before": verdicts.0, "after": verdicts.1 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{
        compare,
        samples::{at, leaking_server, site, stack},
    };

    fn two_moments() -> Comparison {
        let before = leaking_server(0);
        let mut after = leaking_server(3600);
        after.targets[0].sites[0].live_bytes = crate::history::samples::about(60e6);
        after.targets[0].sites.remove(1);
        after.targets[0].sites.push(site(
            "cccccccccccc",
            stack("aa", 9, &["new_one"]),
            Verdict::Growing,
            30e6,
        ));
        compare(&before, &after, Identity::Site)
    }

    #[test]
    fn people_read_what_grew_what_is_new_and_what_is_gone() {
        let text = render(&two_moments(), Style { colour: false, width: 0 }, 3);
        assert!(
            text.starts_with("2026-11-22T14:00:00Z -> 2026-11-22T15:00:00Z · sites matched by place\n"),
            "{text}"
        );
        for part in [
            "  a1b2c3d4e5f6  both  leaking\n    6.0 MiB -> 57.2 MiB   difference 51.2 MiB (",
            "  cccccccccccc  new  - -> growing\n    - -> 28.6 MiB",
            "  0123456789ab  gone, or too small to be listed  growing -> -\n",
            "and 1 sites more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn programs_read_everything() {
        let document: Value = serde_json::from_str(&json(&two_moments()).unwrap()).unwrap();
        assert_eq!(document["after"], moment(at(3600)));
        let sites = document["targets"][0]["sites"].as_array().unwrap();
        assert_eq!(sites.len(), 4);
        assert_eq!(sites[0]["site"], "a1b2c3d4e5f6");
        assert_eq!(sites[0]["verdict"]["after"], "leaking");
        assert_eq!(sites[0]["sure"], true);
        assert!(sites[0]["live_bytes"]["difference"]["low"].as_f64() > Some(40e6));
        assert!(sites[1]["live_bytes"]["before"].is_null());
    }
}
