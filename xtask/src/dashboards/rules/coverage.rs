//! What must exist for every alert and rule besides itself: tests, and a section of the runbook.

/// An alert, and how long its condition must hold before it fires, in seconds.
pub struct Named<'a> {
    pub name: &'a str,
    pub after: u64,
}

/// Says which alert isn't tested both ways, to fire and not to fire, and which rule not at all.
///
/// `tests` are the texts of promtool's files. They are read by their lines: an `eval_time:` is followed by an `alertname:`
/// and `exp_alerts:`, which is `[]` where nothing may fire. That says something only once there has been time enough for
/// the alert to fire: before, none can.
pub fn untested(tests: &[String], alerts: &[Named<'_>], rules: &[&str]) -> Vec<String> {
    let cases: Vec<Case<'_>> = tests.iter().flat_map(|text| cases(text)).collect();
    let mut found = Vec::new();
    for Named { name, after } in alerts {
        let about = || cases.iter().filter(|case| case.alert == *name);
        if !about().any(|case| case.fires) {
            found.push(format!("alert {name:?}: no test in which it fires"));
        }
        if !about().any(|case| !case.fires && case.at >= *after) {
            found.push(format!(
                "alert {name:?}: no test in which it doesn't fire, {after} seconds from the beginning or later"
            ));
        }
    }
    for case in &cases {
        if !alerts.iter().any(|alert| alert.name == case.alert) {
            found.push(format!("a test is about {:?}, and there is no such alert", case.alert));
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

/// What a test expects of an alert.
struct Case<'a> {
    alert: &'a str,
    /// Seconds from the beginning.
    at: u64,
    fires: bool,
}

/// The cases of a file that are about alerts.
fn cases(text: &str) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for case in text.split("eval_time:").skip(1) {
        // Queries are asked at a time as well.
        let Some((time, case)) = case.split_once("alertname:") else { continue };
        let case = case.trim_start();
        let end = case.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(case.len());
        let Some((_, expected)) = case.split_once("exp_alerts:") else { continue };
        let time = time.trim_start();
        let length = time.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(time.len());
        // A time that can't be read is promtool's to complain of.
        let at = seconds(&time[..length]).unwrap_or_default();
        cases.push(Case { alert: &case[..end], at, fires: !expected.trim_start().starts_with("[]") });
    }
    cases
}

/// Seconds of one of Prometheus' durations, such as `1h30m`.
pub fn seconds(duration: &str) -> Option<u64> {
    let units = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let (mut rest, mut sum) = (duration, 0_u64);
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, length) = units.iter().find(|(unit, _)| behind.starts_with(unit))?;
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(*length)?)?;
        rest = &behind[unit.len()..];
    }
    Some(sum)
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
              eval_time: 1m
            - { eval_time: 1m, alertname: ProfilerC, exp_alerts: *again }
            - { eval_time: 4m, alertname: ProfilerD, exp_alerts: [] }
            - { eval_time: 9m, alertname: ProfilerD, exp_alerts: *again }";
        let alerts = [("ProfilerA", 60), ("ProfilerB", 0), ("ProfilerD", 300)];
        let found = untested(
            &[tests.to_owned()],
            &alerts.map(|(name, after)| Named { name, after }),
            &["target:m:rate5m", "target:n:rate5m"],
        );
        assert_eq!(
            found,
            [
                "a test is about \"ProfilerC\", and there is no such alert",
                "alert \"ProfilerB\": no test in which it fires",
                "alert \"ProfilerD\": no test in which it doesn't fire, 300 seconds from the beginning or later",
                "rule \"target:n:rate5m\": no test asks for it",
            ]
        );
    }

    #[test]
    fn durations_are_read_as_prometheus_writes_them() {
        assert_eq!(seconds("90m"), Some(5400));
        assert_eq!(seconds("1d2h3m4s"), Some(93_784));
        assert_eq!(seconds("5"), None);
        assert_eq!(seconds("m"), None);
        assert_eq!(seconds("99999999999999999999w"), None);
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
