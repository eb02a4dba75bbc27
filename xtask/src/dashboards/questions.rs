//! Every query of a dashboard, as it stands in the file, and what is put in place of its variables.

use serde_json::Value;

/// Who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    PromQl,
    InfluxQl,
}

/// What kind of answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Values over time.
    Range,
    /// Values now: rows of a table.
    Now,
    /// Values of a variable.
    Variable,
}

/// A query of a dashboard.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where it stands: a panel's title, or what else asks.
    pub place: String,
    pub language: Language,
    pub shape: Shape,
    /// How its series are called.
    pub name: String,
    text: String,
}

/// What variables stand for.
#[derive(Clone, Debug)]
pub struct Variables {
    /// A regular expression in Grafana, a name in Chronograf.
    pub target: String,
    pub host: String,
    /// The range in seconds since the epoch.
    pub from: f64,
    pub to: f64,
    /// Seconds between two values.
    pub step: u32,
}

impl Question {
    /// The query as it can be asked.
    pub fn filled(&self, variables: &Variables) -> String {
        let (from, to) = (variables.from as u64, variables.to.ceil() as u64);
        // A rate needs four scrapes, of which there is one a second here.
        let rate = format!("{}s", variables.step.max(4));
        // Points of InfluxDB come when they come: over a short step their rates jitter.
        let step = format!("{}s", variables.step.max(5));
        let pairs = [
            ("${__to}", format!("{to}000")),
            ("$timeFilter", format!("time >= {from}s AND time < {to}s")),
            ("$__rate_interval", rate),
            ("$__interval", step.clone()),
            ("$__range", format!("{}s", to - from)),
            ("$job", ".*".to_owned()),
            ("$instance", ".*".to_owned()),
            ("$target", variables.target.clone()),
            ("$host", ".*".to_owned()),
            (":dashboardTime:", format!("{from}s")),
            (":upperDashboardTime:", format!("{to}s")),
            (":interval:", step),
            (":target:", format!("'{}'", variables.target)),
            (":host:", format!("'{}'", variables.host)),
        ];
        pairs.iter().fold(self.text.clone(), |text, (name, value)| text.replace(name, value))
    }
}

/// The queries of a panel of Grafana.
pub fn of_panel(panel: &Value) -> Vec<Question> {
    let place = text(panel, "title");
    items(panel, "targets").iter().filter_map(|target| of_target(target, &place)).collect()
}

fn of_target(target: &Value, place: &str) -> Option<Question> {
    let now = target["instant"] == true || target["resultFormat"] == "table";
    let shape = if now { Shape::Now } else { Shape::Range };
    let (language, query, name) = match (target["expr"].as_str(), target["query"].as_str()) {
        (Some(expr), _) => (Language::PromQl, expr, text(target, "legendFormat")),
        (None, Some(query)) => (Language::InfluxQl, query, text(target, "alias")),
        (None, None) => return None,
    };
    Some(Question { place: place.to_owned(), language, shape, name, text: query.to_owned() })
}

/// What a dashboard of Grafana marks in all its panels: queries and their colours.
pub fn annotations(dashboard: &Value) -> Vec<(Question, String)> {
    let own = items(&dashboard["annotations"], "list").iter().filter(|one| one.get("builtIn").is_none());
    own.filter_map(|one| {
        let mut question = of_target(one, &format!("annotation {}", text(one, "name")))?;
        if question.language == Language::InfluxQl {
            question.shape = Shape::Now;
        }
        Some((question, text(one, "iconColor")))
    })
    .collect()
}

/// What fills the variables of a dashboard of Grafana or Chronograf.
pub fn variables(dashboard: &Value) -> Vec<Question> {
    let mut found = Vec::new();
    for one in items(&dashboard["templating"], "list").iter().filter(|one| one["type"] == "query") {
        let (language, query) = match (&one["query"]["query"], &one["query"]) {
            (Value::String(query), _) => (Language::PromQl, query.clone()),
            (_, Value::String(query)) => (Language::InfluxQl, query.clone()),
            _ => continue,
        };
        found.push((text(one, "name"), language, query));
    }
    for one in items(&dashboard["dashboard"], "templates") {
        let query = &one["query"];
        let filled = text(query, "influxql")
            .replace(":database:", &format!("\"{}\"", text(query, "db")))
            .replace(":measurement:", &format!("\"{}\"", text(query, "measurement")))
            .replace(":tagKey:", &format!("\"{}\"", text(query, "tagKey")));
        found.push((text(one, "label"), Language::InfluxQl, filled));
    }
    let question = |(name, language, text)| Question {
        place: format!("variable {name}"),
        language,
        shape: Shape::Variable,
        name: String::new(),
        text,
    };
    found.into_iter().map(question).collect()
}

/// The queries of a dashboard of Chronograf.
pub fn of_chronograf(dashboard: &Value) -> Vec<Question> {
    let of_cell = |cell: &Value| {
        let place = text(cell, "name");
        let each = items(cell, "queries").iter().map(|query| Question {
            place: place.clone(),
            language: Language::InfluxQl,
            shape: Shape::Range,
            name: String::new(),
            text: text(query, "query"),
        });
        each.collect::<Vec<_>>()
    };
    items(&dashboard["dashboard"], "cells").iter().flat_map(of_cell).collect()
}

/// Elements of a list in an object; none if there is no such list.
pub fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text in an object; empty if there is none.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_are_filled_in_as_grafana_and_chronograf_do() {
        let variables =
            Variables { target: "shop".into(), host: "h".into(), from: 100.5, to: 160.0, step: 2 };
        let panel = json!({"title": "P", "targets": [
            {"expr": "rate(x{target=~\"$target\"}[$__rate_interval])", "legendFormat": "{{a}}"},
            {"query": "SELECT a FROM b WHERE $timeFilter GROUP BY time($__interval)", "resultFormat": "table"},
            {"query": "SELECT a FROM b WHERE time > ${__to}ms - 2m"},
        ]});
        let questions = of_panel(&panel);
        assert_eq!(questions[0].filled(&variables), "rate(x{target=~\"shop\"}[4s])");
        assert_eq!((questions[0].language, questions[0].shape), (Language::PromQl, Shape::Range));
        let filled = "SELECT a FROM b WHERE time >= 100s AND time < 160s GROUP BY time(5s)";
        assert_eq!(questions[1].filled(&variables), filled);
        assert_eq!((questions[1].language, questions[1].shape), (Language::InfluxQl, Shape::Now));
        assert_eq!(questions[2].filled(&variables), "SELECT a FROM b WHERE time > 160000ms - 2m");
        let cell = json!({"dashboard": {"cells": [{"name": "C", "queries": [
            {"query": "WHERE time > :dashboardTime: AND \"target\" = :target: GROUP BY time(:interval:)"}]}]}});
        let filled = "WHERE time > 100s AND \"target\" = 'shop' GROUP BY time(5s)";
        assert_eq!(of_chronograf(&cell)[0].filled(&variables), filled);
    }
}
