//! The rules for Grafana's dashboards: what an importer can't mend (fixed uids, no data source of ours), what a reader
//! needs (titles, descriptions, units), and queries that ask for what exists.

mod tiles;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::catalogue::Catalogue;
use super::promql::Shown;
use super::{influxql, promql};

pub use tiles::{Tile, overlaps};

/// Variables that Grafana has by itself; all others of its own begin with two underscores.
const BUILT_IN: [&str; 4] = ["timeFilter", "interval", "timezone", "dashboard"];
/// Panels that show figures along an axis or alone, so that these need a unit.
const WITH_UNIT: [&str; 8] =
    ["timeseries", "stat", "gauge", "bargauge", "heatmap", "barchart", "piechart", "table"];
/// Panels that show the last value, where a total may be wanted.
const AT_ONCE: [&str; 5] = ["stat", "gauge", "bargauge", "piechart", "table"];
/// Units of plain counts. Something rare (restarts, deaths) reads well as a total over time; everything that has another
/// unit is plainly wrong without its rate.
const OF_COUNTS: [&str; 2] = ["short", "none"];
/// What an alias in InfluxQL may name besides tags (`$tag_x`).
const OF_ALIASES: [&str; 3] = ["col", "m", "measurement"];
/// Grafana takes no longer ones.
const MAX_UID: usize = 40;
/// The grid is so wide.
const COLUMNS: u64 = 24;

/// Everything wrong with the dashboards, each with the place where it is.
pub fn check(dashboards: &Value, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let mut uids: BTreeMap<&str, &str> = BTreeMap::new();
    let mut titles: BTreeMap<&str, &str> = BTreeMap::new();
    let all: Vec<(&String, &Value)> = dashboards.as_object().into_iter().flatten().collect();
    for (name, dashboard) in &all {
        for (kind, seen) in [("uid", &mut uids), ("title", &mut titles)] {
            let value = dashboard[kind].as_str().unwrap_or_default();
            if value.is_empty() {
                problems.push(format!("{name}: no fixed {kind}"));
            } else if let Some(other) = seen.insert(value, name) {
                problems.push(format!("{name}: has the {kind} of {other}, {value:?}"));
            }
        }
    }
    for (name, dashboard) in all {
        let mut one = One { catalogue, variables: BTreeMap::new(), problems: Vec::new() };
        one.dashboard(dashboard);
        one.links(dashboard, &uids);
        problems.extend(one.problems.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    problems
}

struct One<'a> {
    catalogue: &'a Catalogue,
    /// Declared variables, with the kind of data source for those that choose one.
    variables: BTreeMap<String, Option<String>>,
    problems: Vec<String>,
}

impl One<'_> {
    fn say(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn dashboard(&mut self, dashboard: &Value) {
        if !dashboard["id"].is_null() {
            self.say("has an id, which is the importing server's to give".to_owned());
        }
        if dashboard["uid"].as_str().is_some_and(|uid| uid.len() > MAX_UID) {
            self.say(format!("the uid is longer than {MAX_UID} characters"));
        }
        if dashboard["schemaVersion"].as_u64().is_none() {
            self.say("no schemaVersion".to_owned());
        }
        for input in list(&dashboard["__inputs"]) {
            let name = text(&input["name"]).to_owned();
            self.variables.insert(name, Some(text(&input["pluginId"]).to_owned()));
        }
        let inputs = self.variables.len();
        for variable in list(&dashboard["templating"]["list"]) {
            let of = (variable["type"] == "datasource").then(|| text(&variable["query"]).to_owned());
            if self.variables.insert(text(&variable["name"]).to_owned(), of).is_some() {
                self.say(format!("there are two variables {}", variable["name"]));
            }
        }
        self.used_variables(dashboard, inputs);
        for variable in list(&dashboard["templating"]["list"]).iter().filter(|one| one["type"] == "query") {
            let place = format!("variable {}", text(&variable["name"]));
            let kind = self.datasource(&variable["datasource"], &place);
            let query = variable["query"].as_str().unwrap_or_else(|| text(&variable["query"]["query"]));
            match kind.as_deref() {
                Some("prometheus") => self.values(query, &place),
                _ => self.influxql(query, &place),
            }
        }
        for annotation in list(&dashboard["annotations"]["list"]).iter().filter(|one| one["builtIn"] != 1) {
            let place = format!("annotation {}", text(&annotation["name"]));
            let kind = self.datasource(&annotation["datasource"], &place);
            match kind.as_deref() {
                Some("prometheus") => {
                    self.promql(
                        text(&annotation["expr"]),
                        Shown::OverTime,
                        &["titleFormat", "textFormat"].map(|key| text(&annotation[key])),
                        &place,
                    );
                }
                _ => self.influxql(text(&annotation["query"]), &place),
            }
        }
        self.panels(dashboard);
    }

    fn panels(&mut self, dashboard: &Value) {
        let mut tiles = Vec::new();
        let mut ids = BTreeSet::new();
        let outer = list(&dashboard["panels"]);
        if outer.is_empty() {
            self.say("no panels".to_owned());
        }
        // A folded row keeps its panels within itself.
        let all = outer.iter().flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
        for panel in all {
            let title = text(&panel["title"]);
            let place = format!("panel {title:?}");
            match panel["id"].as_u64().filter(|id| *id > 0) {
                Some(id) if !ids.insert(id) => self.say(format!("{place}: its id {id} is another panel's")),
                Some(_) => {}
                None => self.say(format!("{place}: no id")),
            }
            match Tile::read(&panel["gridPos"], title) {
                Some(tile) if tile.fits(COLUMNS) => tiles.push(tile),
                _ => self.say(format!("{place}: is not within the grid's {COLUMNS} columns")),
            }
            if title.is_empty() {
                self.say("a panel without a title".to_owned());
            }
            if panel["type"] != "row" {
                self.panel(panel, &place);
            }
        }
        self.problems.extend(overlaps(&tiles));
    }

    fn panel(&mut self, panel: &Value, place: &str) {
        let kind = text(&panel["type"]);
        if text(&panel["description"]).is_empty() {
            self.say(format!("{place}: no description"));
        }
        if kind == "text" {
            return;
        }
        if WITH_UNIT.contains(&kind) && !has_unit(panel) {
            self.say(format!("{place}: no unit"));
        }
        self.datasource(&panel["datasource"], place);
        let targets = list(&panel["targets"]);
        if targets.is_empty() {
            self.say(format!("{place}: asks for nothing"));
        }
        let mut refs = BTreeSet::new();
        for target in targets {
            if !refs.insert(text(&target["refId"])) {
                self.say(format!("{place}: two queries {}", target["refId"]));
            }
            let source = self.datasource(&target["datasource"], place);
            if source.as_deref() == Some("prometheus") {
                let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
                let at_once =
                    AT_ONCE.contains(&kind) || OF_COUNTS.contains(&unit) || target["instant"] == true;
                let shown = if at_once { Shown::AtOnce } else { Shown::OverTime };
                self.promql(text(&target["expr"]), shown, &[text(&target["legendFormat"])], place);
            } else {
                self.influxql(text(&target["query"]), place);
            }
        }
    }

    /// The kind of a data source, which must be a variable or Grafana's own.
    fn datasource(&mut self, source: &Value, place: &str) -> Option<String> {
        let kind = source["type"].as_str();
        let uid = text(&source["uid"]);
        if uid.starts_with("-- ") {
            return kind.map(str::to_owned);
        }
        let name = uid.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).or(uid.strip_prefix('$'));
        match name.and_then(|name| self.variables.get(name)) {
            Some(Some(of)) if kind == Some(of) => {}
            Some(Some(of)) => {
                self.say(format!("{place}: its data source is a {of}, and is said to be {kind:?}"));
            }
            _ => self.say(format!("{place}: the data source {uid:?} is no variable that chooses one")),
        }
        kind.map(str::to_owned)
    }

    fn promql(&mut self, query: &str, shown: Shown, formats: &[&str], place: &str) {
        let checked = promql::check(query, self.catalogue, shown);
        for problem in checked.problems {
            self.say(format!("{place}: {problem}, in {query}"));
        }
        for name in formats.iter().flat_map(|format| braced(format)) {
            if checked.labels.as_ref().is_some_and(|labels| !labels.contains(name)) {
                self.say(format!("{place}: a legend or title names `{name}`, which is no label of {query}"));
            }
        }
    }

    fn influxql(&mut self, query: &str, place: &str) {
        for problem in influxql::check(query, self.catalogue) {
            self.say(format!("{place}: {problem}, in {query}"));
        }
    }

    /// `label_values(label)`, `label_values(selector, label)`, `query_result(query)`.
    fn values(&mut self, query: &str, place: &str) {
        let inside = |name: &str| query.trim().strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        if let Some(inside) = inside("query_result") {
            self.promql(inside, Shown::AtOnce, &[], place);
        } else if let Some(inside) = inside("label_values") {
            let (selector, label) = match inside.rsplit_once(',') {
                Some((selector, label)) => (Some(selector), label.trim()),
                None => (None, inside.trim()),
            };
            let labels = selector.and_then(|selector| {
                let checked = promql::check(selector, self.catalogue, Shown::AtOnce);
                for problem in checked.problems {
                    self.say(format!("{place}: {problem}, in {query}"));
                }
                checked.labels
            });
            let known =
                labels.map_or_else(|| self.catalogue.has_label(label), |labels| labels.contains(label));
            if !known {
                self.say(format!("{place}: there is no label `{label}`, in {query}"));
            }
        } else {
            self.say(format!("{place}: {query:?} is not understood"));
        }
    }

    /// Every variable that a text names must be declared, and every one that is declared be of use.
    fn used_variables(&mut self, dashboard: &Value, inputs: usize) {
        let mut used = BTreeSet::new();
        texts(dashboard, &mut |text| used.extend(promql::used(text)));
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                used.extend(influxql::variables(text(&target["query"])));
            }
        }
        for name in &used {
            let of_alias = OF_ALIASES.contains(&name.as_str())
                || name.strip_prefix("tag_").is_some_and(|tag| self.catalogue.has_tag(tag));
            let own = name.starts_with("__") || BUILT_IN.contains(&name.as_str()) || of_alias;
            if !own && !self.variables.contains_key(name) {
                self.say(format!("there is no variable `{name}`"));
            }
        }
        let unused: Vec<String> =
            self.variables.keys().filter(|name| !used.contains(*name)).cloned().collect();
        for name in unused {
            let what = if inputs > 0 && name.starts_with("DS_") { "input" } else { "variable" };
            self.say(format!("the {what} `{name}` is of no use"));
        }
    }

    /// Links to other dashboards, by their uid.
    fn links(&mut self, dashboard: &Value, uids: &BTreeMap<&str, &str>) {
        let mut dead = BTreeSet::new();
        texts(dashboard, &mut |text| {
            if let Some(rest) = text.strip_prefix("/d/") {
                let uid = rest.split(['/', '?']).next().unwrap_or_default();
                if !uids.contains_key(uid) {
                    dead.insert(uid.to_owned());
                }
            }
        });
        for uid in dead {
            self.say(format!("a link goes to {uid:?}, and there is no such dashboard"));
        }
    }
}

/// Whether the figures have a unit: all of them, those of some column, those of the axis; or have names instead.
fn has_unit(panel: &Value) -> bool {
    let defaults = &panel["fieldConfig"]["defaults"];
    let of_columns = list(&panel["fieldConfig"]["overrides"])
        .iter()
        .flat_map(|one| list(&one["properties"]))
        .any(|property| property["id"] == "unit");
    let named = !list(&defaults["mappings"]).is_empty();
    let set = |value: &Value| value.as_str().is_some_and(|unit| !unit.is_empty());
    set(&defaults["unit"]) || set(&panel["options"]["yAxis"]["unit"]) || of_columns || named
}

/// The names in `{{double braces}}`.
fn braced(format: &str) -> impl Iterator<Item = &str> {
    format.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim())
}

/// Every text in a value, wherever it is.
fn texts(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(all) => all.iter().for_each(|one| texts(one, see)),
        Value::Object(all) => all.values().for_each(|one| texts(one, see)),
        _ => {}
    }
}

/// The elements of a list, none of what is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text, empty if it is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
