//! Good queries pass, and each kind of mistake is found and named.

use super::*;
use crate::dashboards::catalogue::sample;

fn passes(query: &str) {
    assert_eq!(check(query, &sample()), Vec::<String>::new(), "{query}");
}

fn finds(query: &str, part: &str) {
    let problems = check(query, &sample());
    assert!(problems.iter().any(|problem| problem.contains(part)), "{query}: {part} is not in {problems:?}");
}

#[test]
fn queries_of_grafana_and_chronograf_pass() {
    passes(
        r#"SELECT non_negative_derivative(last("calls"), 1s) AS "calls" FROM "p_alloc" WHERE $timeFilter AND "target" =~ /^$target$/ GROUP BY time($__interval), "function", "host" fill(null)"#,
    );
    passes(
        r#"SELECT max("resident_bytes") FROM "leakhunt"."autogen"."p_process" WHERE time > :dashboardTime: AND "target"=':target:' GROUP BY time(:interval:), "target" FILL(null)"#,
    );
    passes(
        r#"SELECT sum("rate") FROM (SELECT non_negative_derivative(last("calls"), 1s) AS "rate" FROM "p_alloc" WHERE $timeFilter GROUP BY time(10s), "target", "function") WHERE $timeFilter GROUP BY time(10s), "target" fill(none)"#,
    );
    passes(
        r#"SELECT last("minor_page_faults") / 2, "target" FROM p_process WHERE time > now() - 1h ORDER BY time DESC LIMIT 1"#,
    );
    passes(
        r#"SELECT last("verdict") FROM "p_alloc" WHERE $timeFilter GROUP BY "target"; SELECT * FROM "p_process" WHERE $timeFilter"#,
    );
    passes(r#"SHOW TAG VALUES FROM "p_alloc" WITH KEY = "target""#);
    passes(
        r#"SHOW TAG VALUES ON "leakhunt" FROM "p_alloc" WITH KEY IN ("target", "host") WHERE "function" = 'malloc'"#,
    );
    passes(
        r#"SELECT (max("resident_bytes") - min("resident_bytes")) / (2 * 3) FROM "p_process" WHERE $timeFilter"#,
    );
    passes(r#"SELECT mean("$field") FROM "$measurement" WHERE $timeFilter"#);
    passes(r#"SELECT top("resident_bytes", "target", 3) FROM "p_process" WHERE $timeFilter"#);
}

#[test]
fn of_several_sources_one_must_have_what_is_asked_for() {
    let both = |last: &str| {
        format!(
            "SELECT sum(a) / sum({last}) FROM (SELECT last(calls) AS a FROM p_alloc WHERE $timeFilter), \
             (SELECT last(resident_bytes) AS b FROM p_process WHERE $timeFilter)"
        )
    };
    passes(&both("b"));
    finds(&both("c"), "has no field `c`");
}

#[test]
fn an_unknown_measurement_is_found() {
    finds(r#"SELECT mean("calls") FROM "p_allocs" WHERE $timeFilter"#, "no measurement `p_allocs`");
    finds("SELECT mean(calls) FROM /^p_allocs/ WHERE $timeFilter", "no measurement like /^p_allocs/");
    passes("SELECT mean(calls) FROM /^p_al/ WHERE $timeFilter");
    passes("SELECT mean(calls) FROM /^p_(a|b)$/ WHERE $timeFilter");
    finds(r#"SHOW TAG VALUES FROM "p_allocs" WITH KEY = "target""#, "no measurement `p_allocs`");
    finds(
        r#"SELECT mean("a") FROM (SELECT last("calls") AS a FROM "nothing" WHERE $timeFilter) WHERE $timeFilter"#,
        "no measurement `nothing`",
    );
}

#[test]
fn an_unknown_field_is_found() {
    finds(r#"SELECT mean("frees") FROM "p_alloc" WHERE $timeFilter"#, "`p_alloc` has no field `frees`");
    finds(r#"SELECT mean("calls") - mean(frees) FROM "p_alloc" WHERE $timeFilter"#, "no field `frees`");
    finds(
        r#"SELECT mean("b") FROM (SELECT last("calls") AS "a" FROM "p_alloc" WHERE $timeFilter)"#,
        "`the subquery` has no field `b`",
    );
}

#[test]
fn an_unknown_tag_is_found_and_a_field_is_none() {
    finds(r#"SELECT mean("calls") FROM "p_alloc" WHERE $timeFilter GROUP BY "site""#, "GROUP BY `site`");
    finds(r#"SELECT last("verdict") FROM "p_alloc" WHERE $timeFilter GROUP BY "calls""#, "GROUP BY `calls`");
    finds(
        r#"SELECT mean("calls") FROM "p_alloc" WHERE $timeFilter AND "site" = 'a'"#,
        "neither tag nor field `site`",
    );
    finds(r#"SHOW TAG VALUES FROM "p_alloc" WITH KEY = "calls""#, "WITH KEY `calls`");
}

#[test]
fn a_tag_that_the_subquery_has_dropped_is_found() {
    finds(
        r#"SELECT sum("rate") FROM (SELECT max("calls") AS "rate" FROM "p_alloc" WHERE $timeFilter GROUP BY time(10s), "target") WHERE $timeFilter GROUP BY "function""#,
        "GROUP BY `function`, which is no tag of `the subquery`",
    );
    let all = r#"SELECT sum("rate") FROM (SELECT max("calls") AS "rate" FROM "p_alloc" WHERE $timeFilter GROUP BY time(10s), *) WHERE $timeFilter GROUP BY "#;
    passes(&format!("{all}\"function\""));
    finds(&format!("{all}\"site\""), "GROUP BY `site`");
}

#[test]
fn a_value_that_there_never_is_is_found() {
    let of = |condition: &str| format!("SELECT last(calls) FROM p_alloc WHERE $timeFilter AND {condition}");
    for good in [
        r#""function" = 'malloc'"#,
        r#""function" != 'free'"#,
        r#""function" <> ''"#,
        r#""function" =~ /^(malloc|free)$/"#,
        r#""function" =~ /alloc/"#,
        r#""function" =~ /^malloc$|^free$/"#,
        r#""function" =~ /^$function$/"#,
        r#""function" = ':function:'"#,
        r#""function" =~ /.*/"#,
        r#""target" = 'anything'"#,
        r#""verdict" = 'leaking'"#,
    ] {
        passes(&of(good));
    }
    for (bad, value) in [
        (r#""function" = 'mallocs'"#, "mallocs"),
        (r#""function" != 'none'"#, "none"),
        (r#""function" =~ /^(malloc|frees)$/"#, "^frees$"),
        (r#""function" !~ /^(allocs|free)$/"#, "^allocs$"),
        (r#""function" =~ /^alloc$/"#, "^alloc$"),
        (r#""function" =~ /^malloc|^loc/"#, "^loc"),
        (r#""verdict" = 'leaks'"#, "leaks"),
    ] {
        finds(&of(bad), &format!("is never {value:?}"));
    }
}

#[test]
fn what_a_subquery_hands_on_has_its_values() {
    let of = |what: &str, condition: &str| {
        format!(
            "SELECT count(a) FROM (SELECT last(calls) AS a, {what} FROM p_alloc WHERE $timeFilter GROUP BY *) WHERE {condition}"
        )
    };
    passes(&of("last(verdict)", "last = 'leaking'"));
    passes(&of("last(verdict) AS said", "said = 'leaking' AND function = 'free'"));
    passes(&of("count(verdict)", "count = 'leaks'"));
    finds(&of("last(verdict)", "last = 'leaks'"), "never \"leaks\"");
    finds(&of("last(verdict) AS said", "said = 'leaks'"), "`said` of `the subquery` is never");
    finds(&of("verdict", "verdict = 'leaks'"), "never \"leaks\"");
    finds(&of("last(verdict)", "function = 'frees'"), "never \"frees\"");
}

#[test]
fn a_field_of_a_family_is_one_of_its_values() {
    let of = |field: &str| format!(r#"SELECT last("{field}") FROM "p_process" WHERE $timeFilter"#);
    passes(&of("le_0.001"));
    for field in ["le_+Inf", "le_0.003", "nonsense_page_faults"] {
        finds(&of(field), &format!("has no field `{field}`"));
    }
}

#[test]
fn a_moment_may_have_a_unit_behind_its_variable() {
    passes("SELECT last(calls) FROM p_alloc WHERE time > ${__to}ms - 2m AND time <= ${__to}ms");
}

#[test]
fn what_returns_nothing_is_found() {
    finds(r#"SELECT "target" FROM "p_alloc" WHERE $timeFilter"#, "no field is selected");
    finds(r#"SELECT count("target") FROM "p_alloc" WHERE $timeFilter"#, "of the tag `target`");
    finds(r#"SELECT mean("verdict") FROM "p_alloc" WHERE $timeFilter"#, "mean of `verdict`, which is a text");
    finds(r#"SELECT mean("calls") FROM "p_alloc" WHERE $timeFilter AND "target" = "shop""#, "single quotes");
}

#[test]
fn what_is_no_query_is_found() {
    finds(r#"SELECT mean("calls") FROM "p_alloc""#, "no limit of time");
    finds(r#"SELECT average("calls") FROM "p_alloc" WHERE $timeFilter"#, "no function `average`");
    finds(r#"SELECT mean("calls" FROM "p_alloc" WHERE $timeFilter"#, "isn't closed");
    finds(r#"SELECT mean("calls) FROM "p_alloc" WHERE $timeFilter"#, "");
    finds(
        r#"SELECT mean("calls") FROM "p_alloc" GROUP BY time(1s) WHERE $timeFilter"#,
        "`WHERE` is not understood here",
    );
    finds("SELECT mean(calls) FROM p_alloc WHERE $timeFilter GROUP BY", "GROUP BY without a tag");
    finds("DROP DATABASE leakhunt", "SELECT is expected where `DROP` stands");
    finds("", "an empty query");
}
