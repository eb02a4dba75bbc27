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
}

/// A measurement of InfluxDB. A field's name may have a part in braces that stands for several.
#[derive(Clone, Debug, Default)]
pub struct Measurement {
    pub tags: Names,
    /// Type by name: `integer`, `float`, `text`.
    pub fields: BTreeMap<String, String>,
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
            catalogue.add(name, Kind::Gauge, names(SCRAPED));
        }
        catalogue.metrics.insert("ALERTS".to_owned(), Metric { kind: Kind::Gauge, labels: None });
        for family in json["families"].as_array().context("the catalogue has no families")? {
            let name = family["name"].as_str().context("a family without a name")?;
            let labels = family["labels"].as_array().with_context(|| format!("{name} has no labels"))?;
            let own = labels.iter().filter_map(Value::as_str);
            let labels = names(SCRAPED.into_iter().chain(own));
            match family["kind"].as_str() {
                Some("counter") => catalogue.add(name, Kind::Counter, labels),
                Some("histogram") => {
                    let with_bound = labels.iter().map(String::as_str).chain(["le"]);
                    catalogue.add(&format!("{name}_bucket"), Kind::Counter, names(with_bound));
                    catalogue.add(&format!("{name}_sum"), Kind::Counter, labels.clone());
                    catalogue.add(&format!("{name}_count"), Kind::Counter, labels);
                }
                _ => catalogue.add(name, Kind::Gauge, labels),
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
            catalogue.measurements.insert(name.clone(), Measurement { tags, fields });
        }
        Ok(catalogue)
    }

    fn add(&mut self, name: &str, kind: Kind, labels: Names) {
        self.metrics.insert(name.to_owned(), Metric { kind, labels: Some(labels) });
    }

    /// Makes the result of a recording rule known. What it gives is taken for a gauge.
    pub fn add_rule(&mut self, name: &str, labels: Option<Names>) {
        self.metrics.insert(name.to_owned(), Metric { kind: Kind::Gauge, labels });
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

impl Measurement {
    /// The type of a field: `le_0.001` is found as `le_{bound}`.
    pub fn field(&self, name: &str) -> Option<&str> {
        let exact = self.fields.get(name);
        let known =
            exact.or_else(|| self.fields.iter().find(|(known, _)| stands_for(known, name)).map(|(_, k)| k));
        known.map(String::as_str)
    }
}

/// Whether a name with a part in braces stands for this one.
fn stands_for(pattern: &str, name: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('{') else { return false };
    let Some((_, after)) = rest.split_once('}') else { return false };
    name.len() > before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
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
            {"name": "p_calls_total", "kind": "counter", "labels": ["target", "function"]},
            {"name": "p_memory_bytes", "kind": "gauge", "labels": ["target"]},
            {"name": "p_site_bytes", "kind": "gauge", "labels": ["target", "site"]},
            {"name": "p_site_info", "kind": "gauge", "labels": ["target", "site", "function"]},
            {"name": "p_stall_seconds", "kind": "histogram", "labels": ["target", "cause"]}],
          "measurements": {
            "p_alloc": {"tags": ["target", "function"], "fields": {"calls": "integer", "verdict": "text"}},
            "p_process": {"tags": ["target"], "fields": {"resident_bytes": "integer", "{kind}_page_faults": "integer"}}}}"#,
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
        assert!(process.tags.contains("host"));
    }
}
