//! What a query may ask for: the profiler's own catalogue, what Prometheus adds, and our recording rules.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{build, command, workspace};

/// Labels that every scraped series has.
const SCRAPED: [&str; 2] = ["job", "instance"];

/// Series that Prometheus makes for every target it scrapes.
const OF_PROMETHEUS: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

/// Names of labels, of tags.
pub type Names = BTreeSet<String>;

/// All values, by the name of what can have these only.
pub type Values = BTreeMap<String, Names>;

/// What a series is, as far as a query must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows: its rate is of interest.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A series by its full name (`_bucket` and the like included).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    pub kind: Kind,
    /// All labels that it can have; none if that isn't known (`ALERTS`).
    pub labels: Option<Names>,
    /// Values of those labels that can have few only.
    pub values: Values,
}

/// A measurement of InfluxDB. A field's name may have a part in braces that stands for several.
#[derive(Clone, Debug, Default)]
pub struct Measurement {
    pub tags: Names,
    /// Type by name: `integer`, `float`, `text`.
    pub fields: BTreeMap<String, String>,
    /// Values of tags and texts that can have few only, and of what is in braces, by the field's whole name.
    pub values: Values,
}

/// Everything that can be asked for.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    metrics: BTreeMap<String, Metric>,
    measurements: BTreeMap<String, Measurement>,
}

impl Catalogue {
    /// Asks the profiler of this checkout, which is built for that.
    pub fn of_profiler() -> Result<Self> {
        let mut cargo = workspace::cargo();
        cargo.args(["run", "-q", "-p", "profiler", "--", "metrics", "--json"]);
        Self::read(&command::output(&mut cargo, build::WAY_OUT)?)
    }

    /// Reads what `profiler metrics --json` writes.
    pub fn read(json: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(json).context("`profiler metrics --json` can't be read")?;
        let mut catalogue = Self::default();
        for name in OF_PROMETHEUS {
            catalogue.add(name, Kind::Gauge, names(SCRAPED), &Values::new());
        }
        catalogue.metrics.insert("ALERTS".to_owned(), Metric::of_rule(None));
        for family in json["families"].as_array().context("the catalogue has no families")? {
            let name = family["name"].as_str().context("a family without a name")?;
            let labels = family["labels"].as_array().with_context(|| format!("{name} has no labels"))?;
            let own = labels.iter().filter_map(Value::as_str);
            let labels = names(SCRAPED.into_iter().chain(own));
            let few = values(&family["values"]);
            match family["kind"].as_str() {
                Some("counter") => catalogue.add(name, Kind::Counter, labels, &few),
                Some("histogram") => {
                    let with_bound = labels.iter().map(String::as_str).chain(["le"]);
                    catalogue.add(&format!("{name}_bucket"), Kind::Counter, names(with_bound), &few);
                    catalogue.add(&format!("{name}_sum"), Kind::Counter, labels.clone(), &few);
                    catalogue.add(&format!("{name}_count"), Kind::Counter, labels, &few);
                }
                Some("summary") => {
                    let with_share = labels.iter().map(String::as_str).chain(["quantile"]);
                    catalogue.add(name, Kind::Gauge, names(with_share), &few);
                    catalogue.add(&format!("{name}_sum"), Kind::Counter, labels.clone(), &few);
                    catalogue.add(&format!("{name}_count"), Kind::Counter, labels, &few);
                }
                _ => catalogue.add(name, Kind::Gauge, labels, &few),
            }
        }
        let measurements = json["measurements"].as_object().context("the catalogue has no measurements")?;
        for (name, one) in measurements {
            let tags = one["tags"].as_array().with_context(|| format!("{name} has no tags"))?;
            // Every point tells from which machine it is.
            let tags = names(tags.iter().filter_map(Value::as_str).chain(["host"]));
            let fields = one["fields"].as_object().with_context(|| format!("{name} has no fields"))?;
            let typed = |(field, kind): (&String, &Value)| Some((field.clone(), kind.as_str()?.to_owned()));
            let fields = fields.iter().filter_map(typed).collect();
            let values = values(&one["values"]);
            catalogue.measurements.insert(name.clone(), Measurement { tags, fields, values });
        }
        Ok(catalogue)
    }

    fn add(&mut self, name: &str, kind: Kind, labels: Names, values: &Values) {
        let metric = Metric { kind, labels: Some(labels), values: values.clone() };
        self.metrics.insert(name.to_owned(), metric);
    }

    /// Makes the result of a recording rule known. What it gives is taken for a gauge.
    pub fn add_rule(&mut self, name: &str, labels: Option<Names>) {
        self.metrics.insert(name.to_owned(), Metric::of_rule(labels));
    }

    /// A series by its name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.get(name)
    }

    /// All names of series.
    pub fn metrics(&self) -> impl Iterator<Item = &str> {
        self.metrics.keys().map(String::as_str)
    }

    /// Whether any series has this label.
    pub fn has_label(&self, label: &str) -> bool {
        self.metrics.values().any(|metric| metric.labels.as_ref().is_some_and(|all| all.contains(label)))
    }

    /// A measurement by its name.
    pub fn measurement(&self, name: &str) -> Option<&Measurement> {
        self.measurements.get(name)
    }

    /// Whether any measurement has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.measurements.values().any(|measurement| measurement.tags.contains(tag))
    }

    /// All names of measurements.
    pub fn measurements(&self) -> impl Iterator<Item = &str> {
        self.measurements.keys().map(String::as_str)
    }
}

impl Metric {
    fn of_rule(labels: Option<Names>) -> Self {
        Self { kind: Kind::Gauge, labels, values: Values::new() }
    }
}

impl Measurement {
    /// The type of a field: `le_0.001` is found as `le_{bound}`, if 0.001 is a bound.
    pub fn field(&self, name: &str) -> Option<&str> {
        let pattern = || self.fields.iter().find(|(pattern, _)| self.stands_for(pattern, name));
        self.fields.get(name).or_else(|| pattern().map(|(_, kind)| kind)).map(String::as_str)
    }

    /// Whether a name with a part in braces stands for this one. One whose values aren't known stands for none.
    fn stands_for(&self, pattern: &str, name: &str) -> bool {
        let Some((before, rest)) = pattern.split_once('{') else { return false };
        let Some((_, after)) = rest.split_once('}') else { return false };
        let part = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        part.is_some_and(|part| self.values.get(pattern).is_some_and(|known| known.contains(part)))
    }
}

/// The values of each name.
fn values(json: &Value) -> Values {
    let few = |(name, all): (&String, &Value)| {
        let all = all.as_array().into_iter().flatten().filter_map(Value::as_str);
        (name.clone(), names(all))
    };
    json.as_object().into_iter().flatten().map(few).collect()
}

/// A set of names.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
    names.into_iter().map(str::to_owned).collect()
}

/// A small catalogue for tests, in the shape of the real one.
#[cfg(test)]
pub fn sample() -> Catalogue {
    Catalogue::read(
        r#"{"families": [
            {"name": "p_calls_total", "kind": "counter", "labels": ["target", "function"],
             "values": {"function": ["malloc", "calloc", "free"]}},
            {"name": "p_memory_bytes", "kind": "gauge", "labels": ["target"]},
            {"name": "p_site_bytes", "kind": "gauge", "labels": ["target", "site"]},
            {"name": "p_site_info", "kind": "gauge", "labels": ["target", "site", "function"]},
            {"name": "p_stall_seconds", "kind": "histogram", "labels": ["target", "cause"],
             "values": {"cause": ["futex", "disk"], "le": ["0.001", "0.002", "+Inf"]}}],
          "measurements": {
            "p_alloc": {"tags": ["target", "function"], "fields": {"calls": "integer", "verdict": "text"},
                        "values": {"function": ["malloc", "calloc", "free"], "verdict": ["leaking", "steady"]}},
            "p_process": {"tags": ["target"], "fields": {"resident_bytes": "integer", "{kind}_page_faults": "integer",
                                                         "le_{bound}": "integer", "left_out_{reason}": "integer"},
                          "values": {"{kind}_page_faults": ["minor", "major"], "le_{bound}": ["0.001", "0.002"]}}}}"#,
    )
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_known_by_its_three_series_and_not_by_its_own_name() {
        let catalogue = sample();
        assert!(catalogue.metric("p_stall_seconds").is_none());
        let labels = |name: &str| catalogue.metric(name).unwrap().labels.clone().unwrap();
        assert_eq!(labels("p_stall_seconds_bucket"), names(["cause", "instance", "job", "le", "target"]));
        assert_eq!(labels("p_stall_seconds_sum"), names(["cause", "instance", "job", "target"]));
    }

    #[test]
    fn a_field_with_a_part_in_braces_stands_for_its_values() {
        let catalogue = sample();
        let process = catalogue.measurement("p_process").unwrap();
        assert_eq!(process.field("minor_page_faults"), Some("integer"));
        assert_eq!(process.field("_page_faults"), None, "the part in braces is never empty");
        assert_eq!(process.field("page_faults"), None);
        assert_eq!(process.field("le_0.002"), Some("integer"));
        for nonsense in ["nonsense_page_faults", "minor_page_faults_", "le_+Inf", "le_0.003", "le_"] {
            assert_eq!(process.field(nonsense), None, "{nonsense}");
        }
        assert_eq!(process.field("left_out_cut"), None, "what it stands for isn't known");
        assert!(process.tags.contains("host"));
    }
}
