//! Good queries pass, and each kind of mistake is found and named.

use super::*;
use crate::dashboards::catalogue::sample;

fn problems(query: &str) -> Vec<String> {
    check(query, &sample(), Shown::OverTime).problems
}

fn labels(query: &str) -> Names {
    let checked = check(query, &sample(), Shown::OverTime);
    assert!(checked.problems.is_empty(), "{query}: {:?}", checked.problems);
    checked.labels.unwrap()
}

fn finds(query: &str, part: &str) {
    let problems = problems(query);
    assert!(problems.iter().any(|problem| problem.contains(part)), "{query}: {part} is not in {problems:?}");
}

#[test]
fn good_queries_pass_and_their_labels_are_known() {
    assert_eq!(
        labels(r#"sum by (target) (rate(p_calls_total{job="p", target=~"$target"}[$__rate_interval]))"#),
        names(["target"])
    );
    assert_eq!(labels("p_memory_bytes"), names(["instance", "job", "target"]));
    assert_eq!(labels("sum(p_memory_bytes)"), Names::new());
    assert_eq!(
        labels("histogram_quantile(0.99, sum by (target, le) (rate(p_stall_seconds_bucket[5m])))"),
        names(["target"])
    );
    assert_eq!(
        labels("p_site_bytes * on (job, instance, target, site) group_left (function) p_site_info"),
        names(["function", "instance", "job", "site", "target"])
    );
    assert_eq!(labels("sum without (function) (p_site_info)"), labels("p_site_bytes"));
    assert_eq!(
        labels(r#"label_replace(p_memory_bytes, "what", "$1", "target", "(.*)")"#),
        names(["instance", "job", "target", "what"])
    );
    assert_eq!(labels(r#"absent(up{job="p"})"#), names(["job"]));
    assert_eq!(labels("p_memory_bytes / 1024 > 2"), names(["instance", "job", "target"]));
    assert_eq!(labels("time() - 5"), Names::new());
    assert!(problems(r#"ALERTS{alertname="X", whatever="y"}"#).is_empty());
}

#[test]
fn an_unknown_series_is_found_and_what_may_be_meant_is_named() {
    finds("rate(p_calls[5m])", "no series `p_calls` (`p_calls_total`?)");
    finds("p_stall_seconds", "no series `p_stall_seconds`");
    finds(r#"{__name__="p_nothing"}"#, "no series `p_nothing`");
    finds(r#"{target="a"}"#, "without the name of a series");
    finds("sum(p_memory_bytes) + sum(p_nothing)", "no series `p_nothing`");
}

#[test]
fn an_unknown_label_is_found_wherever_it_stands() {
    finds(r#"p_memory_bytes{function="f"}"#, "`p_memory_bytes` has no label `function`");
    finds(r#"rate(p_calls_total{site="f"}[5m])"#, "has no label `site`");
    finds("sum by (site) (p_memory_bytes)", "by or without `site`");
    finds("sum without (site) (p_memory_bytes)", "by or without `site`");
    finds(
        "p_site_bytes * on (job, instance, site) group_left (function) p_memory_bytes",
        "on `site`, which its right side",
    );
    finds("p_site_bytes * on (target) group_left (object) p_site_info", "takes `object`");
    finds(r#"label_replace(p_memory_bytes, "a", "$1", "nothing", "(.*)")"#, "reads `nothing`");
}

#[test]
fn a_value_that_a_label_never_has_is_found() {
    for good in [
        r#"{cause="futex"}"#,
        r#"{cause!="disk"}"#,
        r#"{cause!=""}"#,
        r#"{cause=~"futex|disk"}"#,
        r#"{cause!~"(futex|disk)"}"#,
        r#"{cause=~"fu.*"}"#,
        r#"{cause=~"futex|"}"#,
        r#"{cause=~".*"}"#,
        r#"{cause="$cause", target="any"}"#,
        r#"{cause=~"${cause:regex}|disk"}"#,
        r#"{le="+Inf"}"#,
        r#"{le=~"0\\.001|0\\.002"}"#,
    ] {
        assert_eq!(problems(&format!("rate(p_stall_seconds_bucket{good}[5m])")), Vec::<String>::new());
    }
    for (bad, value) in [
        (r#"{cause="mutex"}"#, "mutex"),
        (r#"{cause=""}"#, ""),
        (r#"{cause!="mutex"}"#, "mutex"),
        (r#"{cause=~"futex|mutex"}"#, "mutex"),
        (r#"{cause!~"mutex|disk"}"#, "mutex"),
        (r#"{cause=~"m.*"}"#, "m.*"),
        (r#"{le="0.003"}"#, "0.003"),
        (r#"{le=~"0\\.003"}"#, "0\\.003"),
    ] {
        finds(&format!("rate(p_stall_seconds_bucket{bad}[5m])"), &format!("is never {value:?}"));
    }
    finds(r#"rate(p_calls_total{function="mallocs"}[5m])"#, "`function` of `p_calls_total` is never");
}

#[test]
fn a_label_that_an_inner_aggregation_drops_is_found() {
    finds("max by (function) (sum by (target) (rate(p_calls_total[5m])))", "by or without `function`");
    finds("histogram_quantile(0.9, sum by (target) (rate(p_stall_seconds_bucket[5m])))", "without `le`");
}

#[test]
fn sides_that_can_never_match_are_found() {
    finds("p_site_bytes / p_memory_bytes", "never match");
    finds("p_memory_bytes and sum(p_memory_bytes)", "never match");
    assert!(problems("p_site_bytes / ignoring (function) p_site_info").is_empty());
    assert!(problems("p_site_bytes or p_memory_bytes").is_empty());
}

#[test]
fn a_counter_needs_its_rate_and_nothing_else_has_one() {
    finds("p_calls_total > 5", "the counter `p_calls_total` without rate");
    finds("sum by (target) (p_stall_seconds_count)", "without rate");
    finds("deriv(p_calls_total[5m])", "`deriv` of the counter");
    finds("rate(p_memory_bytes[5m])", "which is no counter");
    finds("max_over_time(rate(p_memory_bytes[5m])[1h:])", "which is no counter");
    assert!(problems("absent(p_calls_total)").is_empty());
    assert!(problems("rate(p_calls_total[5m]) and p_calls_total > 0").is_empty());
    finds("p_calls_total and rate(p_calls_total[5m]) > 0", "without rate");
    assert!(problems("resets(p_calls_total[1h])").is_empty());
    assert!(check("sum(p_calls_total)", &sample(), Shown::AtOnce).problems.is_empty());
}

#[test]
fn what_does_not_parse_is_found() {
    for query in ["sum by (target (p_memory_bytes)", "rate(p_calls_total)", "p_memory_bytes[5m", ""] {
        finds(query, "doesn't parse");
    }
}

#[test]
fn a_recording_rule_is_known_with_the_labels_that_its_query_gives() {
    let mut catalogue = sample();
    catalogue.add_rule("target:p_calls:rate5m", Some(labels("sum by (target) (rate(p_calls_total[5m]))")));
    assert!(check("target:p_calls:rate5m > 1", &catalogue, Shown::OverTime).problems.is_empty());
    let bad = check(r#"target:p_calls:rate5m{function="f"}"#, &catalogue, Shown::OverTime);
    assert_eq!(bad.problems, ["`target:p_calls:rate5m` has no label `function`"]);
}
