//! Alerts and recording rules: names, labels, queries, what an alert says, its section in the runbook and its tests.

mod coverage;

use std::collections::BTreeSet;

use serde_json::Value;

use super::catalogue::{Catalogue, Names};
use super::grafana::{list, text};
use super::promql::{self, Shown};

pub use coverage::without_section;

/// What every alert's name begins with.
const PREFIX: &str = "Profiler";
/// How urgent an alert may be.
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];
/// What every alert says.
const ANNOTATIONS: [&str; 3] = ["summary", "description", "runbook_url"];

/// Checks the recording rules and makes their results known to the catalogue.
pub fn recording(rules: &Value, catalogue: &mut Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in all(rules) {
        let name = text(&rule["record"]);
        let parts: Vec<&str> = name.split(':').collect();
        if parts.len() != 3 || parts.iter().any(|part| part.is_empty()) {
            problems.push(format!("rule {name:?}: is not named level:metric:operation"));
        }
        if !seen.insert(name) {
            problems.push(format!("rule {name:?}: there are two"));
        }
        let query = text(&rule["expr"]);
        let checked = promql::check(query, catalogue, Shown::OverTime);
        problems.extend(checked.problems.into_iter().map(|one| format!("rule {name:?}: {one}, in {query}")));
        catalogue.add_rule(name, checked.labels);
    }
    problems
}

/// Checks the alerts; the recording rules must be known.
pub fn alerts(rules: &Value, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in all(rules) {
        let name = text(&rule["alert"]);
        let mut found = Vec::new();
        if !seen.insert(name) {
            found.push("there are two".to_owned());
        }
        alert(rule, name, catalogue, &mut found);
        problems.extend(found.into_iter().map(|problem| format!("alert {name:?}: {problem}")));
    }
    problems
}

/// The names of what the rules make.
pub fn named<'a>(rules: &'a Value, kind: &str) -> Vec<&'a str> {
    all(rules).map(|rule| text(&rule[kind])).collect()
}

/// Says which alert isn't tested both ways, and which rule not at all.
pub fn untested(tests: &[String], alerts: &Value, rules: &[&str]) -> Vec<String> {
    let alerts = all(alerts).map(|rule| coverage::Named {
        name: text(&rule["alert"]),
        after: coverage::seconds(text(&rule["for"])).unwrap_or_default(),
    });
    coverage::untested(tests, &alerts.collect::<Vec<_>>(), rules)
}

fn all(rules: &Value) -> impl Iterator<Item = &Value> {
    list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"]))
}

fn alert(rule: &Value, name: &str, catalogue: &Catalogue, found: &mut Vec<String>) {
    let camel = name.chars().all(|c| c.is_ascii_alphanumeric());
    let rest = name.strip_prefix(PREFIX);
    if !camel || !rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())) {
        found.push(format!("is not named {PREFIX}InCamelCase"));
    }
    let severity = text(&rule["labels"]["severity"]);
    if !SEVERITIES.contains(&severity) {
        found.push(format!("its severity {severity:?} is none of {SEVERITIES:?}"));
    }
    let query = text(&rule["expr"]);
    let checked = promql::check(query, catalogue, Shown::OverTime);
    found.extend(checked.problems.into_iter().map(|problem| format!("{problem}, in {query}")));
    let own = rule["labels"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let labels = checked.labels.map(|labels| labels.into_iter().chain(own).collect::<Names>());
    for key in ANNOTATIONS {
        let said = text(&rule["annotations"][key]);
        if said.is_empty() {
            found.push(format!("has no {key}"));
        }
        for label in named_labels(said) {
            if labels.as_ref().is_some_and(|labels| !labels.contains(label)) {
                found.push(format!("its {key} names the label `{label}`, which it doesn't have"));
            }
        }
        for query in asked(said) {
            let checked = promql::check(&query, catalogue, Shown::AtOnce);
            found.extend(
                checked.problems.into_iter().map(|problem| format!("its {key} asks: {problem}, in {query}")),
            );
            for label in answered_labels(said) {
                if checked.labels.as_ref().is_some_and(|labels| !labels.contains(label)) {
                    found.push(format!("its {key} shows `{label}`, which isn't a label of {query}"));
                }
            }
        }
    }
    let section = text(&rule["annotations"]["runbook_url"]).rsplit_once('#').map(|(_, section)| section);
    if section != Some(&*name.to_lowercase()) {
        found.push(format!("its runbook_url doesn't end in #{}", name.to_lowercase()));
    }
}

/// The labels that a template names as `$labels.x`.
fn named_labels(template: &str) -> impl Iterator<Item = &str> {
    words_behind(template, "$labels.")
}

/// The labels that a template shows of a query's answer, `.Labels.x`.
fn answered_labels(template: &str) -> impl Iterator<Item = &str> {
    words_behind(template, " .Labels.")
}

fn words_behind<'a>(template: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    template.split(mark).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// The queries that a template asks, with a text where `printf` puts a value.
fn asked(template: &str) -> Vec<String> {
    let formats = template.split("printf \"").skip(1).filter_map(|rest| rest.split_once('"'));
    formats.map(|(format, _)| format.replace("%q", "\"x\"")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dashboards::catalogue::sample;

    fn good() -> Value {
        json!({"groups": [{"rules": [{
            "alert": "ProfilerTooMuch", "expr": "p_memory_bytes{job=\"p\"} > 5", "labels": {"severity": "warning"},
            "annotations": {
                "summary": "{{ $labels.target }} has too much ({{ $labels.severity }}).",
                "description": "Of it: {{ with printf \"topk(1, p_site_info{target=%q})\" $labels.target | query }}{{ with first . }}{{ .Labels.function }}{{ end }}{{ end }}",
                "runbook_url": "docs/runbook.md#profilertoomuch"}}]}]})
    }

    fn finds(pointer: &str, value: Value, part: &str) {
        let mut bad = good();
        *bad.pointer_mut(&format!("/groups/0/rules/0{pointer}")).unwrap() = value;
        let problems = alerts(&bad, &sample());
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:?}");
    }

    #[test]
    fn a_good_alert_passes_and_each_mistake_is_found() {
        assert_eq!(alerts(&good(), &sample()), Vec::<String>::new());
        finds("/alert", json!("TooMuch"), "is not named ProfilerInCamelCase");
        finds("/alert", json!("Profiler_too_much"), "is not named ProfilerInCamelCase");
        finds("/labels/severity", json!("page"), "is none of");
        finds("/expr", json!("p_memory > 5"), "no series `p_memory`");
        finds("/annotations/description", json!(""), "has no description");
        finds("/annotations/summary", json!("{{ $labels.site }}"), "names the label `site`");
        finds(
            "/annotations/summary",
            json!("{{ printf \"p_nothing{target=%q}\" 1 | query }}"),
            "no series `p_nothing`",
        );
        finds(
            "/annotations/description",
            json!("{{ with printf \"p_site_info\" | query }}{{ .Labels.object }}"),
            "shows `object`",
        );
        finds("/annotations/runbook_url", json!("docs/runbook.md#else"), "doesn't end in #profilertoomuch");
    }

    #[test]
    fn an_alert_may_name_only_labels_that_its_query_leaves() {
        finds("/expr", json!("sum by (job) (p_memory_bytes) > 5"), "names the label `target`");
    }

    #[test]
    fn a_recording_rule_is_named_by_level_metric_and_operation() {
        let rule = |name: &str| json!({"groups": [{"rules": [{"record": name, "expr": "sum by (target) (rate(p_calls_total[5m]))"}]}]});
        let mut catalogue = sample();
        assert!(recording(&rule("target:p_calls:rate5m"), &mut catalogue).is_empty());
        assert!(catalogue.metric("target:p_calls:rate5m").is_some());
        assert_eq!(recording(&rule("p_calls_rate5m"), &mut catalogue).len(), 1);
        assert_eq!(recording(&rule("target:p_calls:"), &mut catalogue).len(), 1);
    }
}
