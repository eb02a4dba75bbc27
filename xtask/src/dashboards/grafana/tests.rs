//! A good dashboard passes, and each mistake in it is found and named.

use serde_json::json;

use super::*;
use crate::dashboards::catalogue::sample;

fn good() -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    json!({"a.json": {
        "uid": "p-a", "title": "A", "schemaVersion": 41,
        "__inputs": [{"name": "DS_PROMETHEUS", "pluginId": "prometheus"}],
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {"value": "${DS_PROMETHEUS}"}},
            {"name": "target", "type": "query", "datasource": source, "query": {"query": "label_values(p_memory_bytes{job=\"p\"}, target)"}}]},
        "annotations": {"list": [
            {"builtIn": 1, "name": "Grafana's"},
            {"name": "Many", "datasource": source, "expr": "p_memory_bytes > 5", "titleFormat": "{{target}}"}]},
        "panels": [
            {"id": 1, "type": "row", "title": "Row", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
            {"id": 2, "type": "timeseries", "title": "Calls", "description": "How many", "datasource": source,
             "gridPos": {"x": 0, "y": 1, "w": 12, "h": 8}, "fieldConfig": {"defaults": {"unit": "ops"}},
             "targets": [{"refId": "A", "datasource": source, "legendFormat": "{{function}}",
                          "expr": "sum by (function) (rate(p_calls_total{target=~\"$target\"}[$__rate_interval]))"}]},
            {"id": 3, "type": "stat", "title": "All calls", "description": "How many", "datasource": source,
             "gridPos": {"x": 12, "y": 1, "w": 12, "h": 8}, "fieldConfig": {"defaults": {"unit": "short"}},
             "targets": [{"refId": "A", "datasource": source, "expr": "sum(p_calls_total)"}]}]}})
}

/// Changes one thing and says what is found then.
fn problems(pointer: &str, value: Value) -> Vec<String> {
    let mut bad = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = bad.pointer_mut(&format!("/a.json{parent}")).unwrap();
    match parent {
        Value::Array(all) => all[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    check(&bad, &sample())
}

fn finds(pointer: &str, value: Value, part: &str) {
    let problems = problems(pointer, value);
    assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:?}");
}

#[test]
fn a_good_dashboard_passes() {
    assert_eq!(check(&good(), &sample()), Vec::<String>::new());
}

#[test]
fn what_an_importer_can_not_mend_is_found() {
    finds("/uid", json!(""), "no fixed uid");
    finds("/uid", json!("x".repeat(41)), "longer than 40");
    finds("/id", json!(7), "has an id");
    finds("/schemaVersion", json!(null), "no schemaVersion");
    finds("/panels/1/datasource", json!("Prometheus"), "is no variable that chooses one");
    finds("/panels/1/datasource/uid", json!("PBFA97CFB590B2093"), "is no variable that chooses one");
    finds("/panels/1/targets/0/datasource/uid", json!("$target"), "is no variable that chooses one");
    finds("/panels/1/datasource/type", json!("influxdb"), "is a prometheus");
    let mut two = good();
    two["b.json"] = two["a.json"].clone();
    let problems = check(&two, &sample());
    assert!(problems.iter().any(|problem| problem.contains("has the uid of a.json")), "{problems:?}");
}

#[test]
fn panels_without_what_a_reader_needs_are_found() {
    finds("/panels/1/description", json!(""), "panel \"Calls\": no description");
    finds("/panels/1/title", json!(""), "without a title");
    finds("/panels/1/fieldConfig/defaults", json!({}), "no unit");
    finds("/panels/1/targets", json!([]), "asks for nothing");
    finds("/panels", json!([]), "no panels");
}

#[test]
fn panels_that_are_in_each_others_way_are_found() {
    finds("/panels/2/id", json!(2), "its id 2 is another panel's");
    finds("/panels/2/gridPos/x", json!(11), "overlap");
    finds("/panels/2/gridPos/w", json!(13), "not within the grid");
    finds("/panels/2/gridPos", json!(null), "not within the grid");
}

#[test]
fn variables_must_exist_and_be_of_use() {
    finds("/panels/1/title", json!("Calls of ${who}"), "there is no variable `who`");
    finds(
        "/panels/1/targets/0/expr",
        json!("sum(p_memory_bytes{target=\"$targets\"})"),
        "there is no variable `targets`",
    );
    finds(
        "/panels/1/targets/0/expr",
        json!("sum by (function) (rate(p_calls_total[5m]))"),
        "`target` is of no use",
    );
    finds("/templating/list/1/query/query", json!("label_values(p_memory_bytes, site)"), "no label `site`");
    finds("/templating/list/1/query/query", json!("label_values(p_memory, target)"), "no series `p_memory`");
    finds("/templating/list/1/query/query", json!("label_values(nothing)"), "no label `nothing`");
    finds("/templating/list/1/query/query", json!("all_values(target)"), "is not understood");
}

#[test]
fn queries_and_what_is_shown_of_them_are_checked() {
    finds(
        "/panels/1/targets/0/expr",
        json!("rate(p_call_total[5m])"),
        "panel \"Calls\": there is no series `p_call_total`",
    );
    finds("/panels/1/targets/0/expr", json!("p_calls_total"), "without rate");
    finds("/panels/1/targets/0/alias", json!("$tag_site"), "no variable `tag_site`");
    assert_eq!(problems("/panels/1/targets/0/alias", json!("$tag_function $col")), Vec::<String>::new());
    finds("/panels/1/targets/0/legendFormat", json!("{{site}}"), "names `site`");
    finds("/annotations/list/1/expr", json!("p_memory > 5"), "annotation Many: there is no series");
    finds("/annotations/list/1/titleFormat", json!("{{function}}"), "names `function`");
    finds("/panels/2/links", json!([{"url": "/d/p-b?var-target=a"}]), "goes to \"p-b\"");
    assert_eq!(problems("/panels/2/links", json!([{"url": "/d/p-a?var-target=a"}])), Vec::<String>::new());
}

#[test]
fn queries_of_influxdb_are_checked() {
    let text = good().to_string().replace("\"prometheus\"", "\"influxdb\"");
    let mut dashboard: Value = serde_json::from_str(&text).unwrap();
    let one = &mut dashboard["a.json"];
    one["templating"]["list"][1]["query"] = json!("SHOW TAG VALUES FROM \"p_alloc\" WITH KEY = \"target\"");
    one["annotations"] = json!({});
    one["panels"][1]["targets"][0]["query"] = json!(
        "SELECT mean(\"calls\") FROM \"p_alloc\" WHERE $timeFilter AND \"target\" =~ /^$target$/ GROUP BY time($__interval)"
    );
    one["panels"][2]["targets"][0]["query"] =
        json!("SELECT mean(\"nothing\") FROM \"p_alloc\" WHERE $timeFilter");
    let problems = check(&dashboard, &sample());
    assert!(problems.len() == 1 && problems[0].contains("has no field `nothing`"), "{problems:?}");
}
