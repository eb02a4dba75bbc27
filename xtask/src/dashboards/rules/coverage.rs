//! What must exist for every alert and rule besides itself: tests, and a section of the runbook.

/// Says which alert isn't tested both ways, to fire and not to fire, and which rule not at all.
///
/// `tests` are the texts of promtool's files. They are read by their lines: an `alertname:` is followed by `exp_alerts:`,
/// which is `[]` where nothing may fire.
pub fn untested(tests: &[String], alerts: &[&str], rules: &[&str]) -> Vec<String> {
    let cases: Vec<(&str, bool)> = tests.iter().flat_map(|text| cases(text)).collect();
    let mut found = Vec::new();
    for alert in alerts {
        for (fires, what) in [(true, "fires"), (false, "doesn't fire")] {
            if !cases.contains(&(*alert, fires)) {
                found.push(format!("alert {alert:?}: no test in which it {what}"));
            }
        }
    }
    for (alert, _) in &cases {
        if !alerts.contains(alert) {
            found.push(format!("a test is about {alert:?}, and there is no such alert"));
        }
    }
    for rule in rules {
        let asks = |text: &String| {
            text.lines().any(|line| {
                line.trim()
                    .trim_start_matches("- ")
                    .strip_prefix("expr: ")
                    .is_some_and(|expr| expr.starts_with(rule))
            })
        };
        if !tests.iter().any(asks) {
            found.push(format!("rule {rule:?}: no test asks for it"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The alerts of a file's cases, and whether each must fire.
fn cases(text: &str) -> Vec<(&str, bool)> {
    let mut cases = Vec::new();
    for case in text.split("alertname:").skip(1) {
        let case = case.trim_start();
        let end = case.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(case.len());
        // Labels of a series may be named so as well.
        let Some((_, expected)) = case.split_once("exp_alerts:") else { continue };
        cases.push((&case[..end], !expected.trim_start().starts_with("[]")));
    }
    cases
}

/// Says which alert has no section in the runbook, and which section has no alert.
pub fn without_section(runbook: &str, alerts: &[&str]) -> Vec<String> {
    let sections: Vec<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(str::trim).collect();
    let missing = alerts.iter().filter(|alert| !sections.contains(alert));
    let mut found: Vec<String> =
        missing.map(|alert| format!("docs/runbook.md: no section {alert:?}")).collect();
    // Other sections may be there, those that look like an alert's may not.
    let left = sections.iter().filter(|section| section.starts_with("Profiler") && !section.contains(' '));
    let left = left.filter(|section| !alerts.contains(section));
    found.extend(left.map(|section| format!("docs/runbook.md: the section {section:?} is about no alert")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_needs_a_test_of_both_kinds_and_a_rule_one() {
        let tests = "
            - { eval_time: 1m, alertname: ProfilerA, exp_alerts: [] }
            - eval_time: 5m
              alertname: ProfilerA
              exp_alerts:
                - exp_labels: { severity: warning }
            - { eval_time: 1m, alertname: ProfilerB, exp_alerts: [] }
            - expr: target:m:rate5m{target=\"a\"}
            - { alertname: ProfilerC, exp_alerts: *again }";
        let found = untested(
            &[tests.to_owned()],
            &["ProfilerA", "ProfilerB"],
            &["target:m:rate5m", "target:n:rate5m"],
        );
        assert_eq!(
            found,
            [
                "a test is about \"ProfilerC\", and there is no such alert",
                "alert \"ProfilerB\": no test in which it fires",
                "rule \"target:n:rate5m\": no test asks for it",
            ]
        );
    }

    #[test]
    fn alerts_and_sections_of_the_runbook_belong_together() {
        let runbook = "# Runbook\n## Before all else\n## ProfilerA\ntext\n## ProfilerOld\n";
        assert_eq!(
            without_section(runbook, &["ProfilerA", "ProfilerB"]),
            [
                "docs/runbook.md: no section \"ProfilerB\"",
                "docs/runbook.md: the section \"ProfilerOld\" is about no alert"
            ]
        );
    }
}
