//! The rules for Chronograf's dashboards, as far as its files have the same things as Grafana's.

use std::collections::BTreeSet;

use serde_json::Value;

use super::catalogue::Catalogue;
use super::grafana::{Tile, list, overlaps, text};
use super::influxql;

/// Variables that Chronograf has by itself.
const BUILT_IN: [&str; 3] = ["dashboardTime", "upperDashboardTime", "interval"];
/// The grid is so wide.
const COLUMNS: u64 = 12;

/// Everything wrong with the dashboards, each with the place where it is.
pub fn check(dashboards: &Value, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, file) in dashboards.as_object().into_iter().flatten() {
        let found = dashboard(&file["dashboard"], catalogue);
        problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    problems
}

fn dashboard(dashboard: &Value, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let mut declared = BTreeSet::new();
    if text(&dashboard["name"]).is_empty() {
        problems.push("no name".to_owned());
    }
    for template in list(&dashboard["templates"]) {
        let name = text(&template["tempVar"]).trim_matches(':');
        declared.insert(name.to_owned());
        let (measurement, tag) =
            (text(&template["query"]["measurement"]), text(&template["query"]["tagKey"]));
        if template["type"] == "tagValues" {
            match catalogue.measurement(measurement) {
                None => problems.push(format!("variable {name}: there is no measurement `{measurement}`")),
                Some(one) if !one.tags.contains(tag) => {
                    problems.push(format!("variable {name}: `{measurement}` has no tag `{tag}`"));
                }
                Some(_) => {}
            }
        }
    }
    let cells = list(&dashboard["cells"]);
    if cells.is_empty() {
        problems.push("no cells".to_owned());
    }
    let (mut ids, mut tiles, mut used) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for cell in cells {
        let name = text(&cell["name"]);
        let place = format!("cell {name:?}");
        if name.is_empty() || text(&cell["note"]).is_empty() {
            problems.push(format!("{place}: no name or no note"));
        }
        if !ids.insert(text(&cell["i"])) {
            problems.push(format!("{place}: its id {} is another cell's", cell["i"]));
        }
        match Tile::read(cell, name) {
            Some(tile) if tile.fits(COLUMNS) => tiles.push(tile),
            _ => problems.push(format!("{place}: is not within the grid's {COLUMNS} columns")),
        }
        let queries = list(&cell["queries"]);
        if queries.is_empty() {
            problems.push(format!("{place}: asks for nothing"));
        }
        for query in queries.iter().map(|query| text(&query["query"])) {
            used.extend(influxql::variables(query));
            let found = influxql::check(query, catalogue);
            problems.extend(found.into_iter().map(|problem| format!("{place}: {problem}, in {query}")));
        }
    }
    problems.extend(overlaps(&tiles));
    for name in &used {
        if !declared.contains(name) && !BUILT_IN.contains(&name.as_str()) {
            problems.push(format!("there is no variable `{name}`"));
        }
    }
    problems.extend(declared.difference(&used).map(|name| format!("the variable `{name}` is of no use")));
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dashboards::catalogue::sample;

    fn good() -> Value {
        json!({"a.json": {"dashboard": {
            "name": "A",
            "templates": [{"tempVar": ":target:", "type": "tagValues", "query": {"measurement": "p_alloc", "tagKey": "target"}}],
            "cells": [
                {"i": "1", "name": "Calls", "note": "How many", "x": 0, "y": 0, "w": 6, "h": 4, "queries": [{
                    "query": "SELECT mean(\"calls\") FROM \"db\"..\"p_alloc\" WHERE time > :dashboardTime: AND \"target\" = :target: GROUP BY time(:interval:)"}]},
                {"i": "2", "name": "Memory", "note": "How much", "x": 6, "y": 0, "w": 6, "h": 4, "queries": [{
                    "query": "SELECT last(\"resident_bytes\") FROM \"db\"..\"p_process\" WHERE time > :dashboardTime:"}]}]}}})
    }

    fn finds(pointer: &str, value: Value, part: &str) {
        let mut bad = good();
        *bad.pointer_mut(&format!("/a.json/dashboard{pointer}")).unwrap() = value;
        let problems = check(&bad, &sample());
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:?}");
    }

    #[test]
    fn a_good_dashboard_passes_and_each_mistake_is_found() {
        assert_eq!(check(&good(), &sample()), Vec::<String>::new());
        finds("/cells/1/x", json!(5), "overlap");
        finds("/cells/1/w", json!(7), "not within the grid");
        finds("/cells/1/i", json!("1"), "another cell's");
        finds("/cells/1/note", json!(""), "no note");
        finds("/cells/1/queries", json!([]), "asks for nothing");
        finds(
            "/cells/1/queries/0/query",
            json!("SELECT last(\"x\") FROM \"p_process\" WHERE time > :dashboardTime:"),
            "no field `x`",
        );
        finds(
            "/cells/1/queries/0/query",
            json!("SELECT last(\"resident_bytes\") FROM \"p_process\" WHERE time > :when:"),
            "no variable `when`",
        );
        finds("/templates/0/query/tagKey", json!("site"), "no tag `site`");
        finds("/templates/0/query/measurement", json!("nothing"), "no measurement `nothing`");
        finds(
            "/cells/0/queries/0/query",
            json!("SELECT mean(\"calls\") FROM \"p_alloc\" WHERE time > :dashboardTime:"),
            "`target` is of no use",
        );
    }
}
