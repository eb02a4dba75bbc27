//! Where the catalogue's families go in InfluxDB: measurements, fields and tags.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ALL, Family, values};
use crate::export::points;

/// The part of a summary's fields that is a share.
const QUANTILE: &str = "{quantile}";

/// The fields of a histogram's buckets.
const BOUNDS: &str = "le_{bound}";

/// Where a family goes in InfluxDB. Labels become tags, but for those that are said to become something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Influx {
    /// The measurement; empty: it isn't pushed.
    pub measurement: &'static str,
    /// The field; a label in braces is replaced by its value and is no tag then. Empty: the value isn't pushed.
    pub field: &'static str,
    /// What the field holds.
    pub holds: Holds,
    /// Labels that become text fields.
    pub words: &'static [&'static str],
    /// Labels that become tags of every point of the measurement which has the same other tags.
    pub tags: &'static [&'static str],
}

/// What a field holds: always the same, for InfluxDB never forgets the type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A count.
    Integer,
    /// Anything else.
    Float,
    /// The value of the label that has the field's name, of the row whose value is 1.
    Chosen,
    /// The sum, and a field `le_BOUND` for each bucket.
    Histogram,
    /// The sum, and for each quantile a field that has its share in the place of `_total`.
    Summary,
    /// Nothing.
    Nothing,
}

impl Influx {
    /// It isn't pushed.
    pub const NOWHERE: Self = Self::new("", "", Holds::Nothing);

    const fn new(measurement: &'static str, field: &'static str, holds: Holds) -> Self {
        Self { measurement, field, holds, words: &[], tags: &[] }
    }

    pub(super) const fn with(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    /// The labels that are part of the field's name.
    pub fn is_in_field(&self, label: &str) -> bool {
        self.field.split(['{', '}']).skip(1).step_by(2).any(|part| part == label)
    }

    /// Whether a label becomes a tag of this family's own points.
    pub fn is_tag(&self, label: &str) -> bool {
        let chosen = self.holds == Holds::Chosen && self.field == label;
        let elsewhere = self.words.contains(&label) || self.tags.contains(&label) || self.is_in_field(label);
        !chosen && !elsewhere
    }
}

pub(super) const fn integer(measurement: &'static str, field: &'static str) -> Influx {
    Influx::new(measurement, field, Holds::Integer)
}

pub(super) const fn float(measurement: &'static str, field: &'static str) -> Influx {
    Influx::new(measurement, field, Holds::Float)
}

pub(super) const fn chosen(measurement: &'static str, label: &'static str) -> Influx {
    Influx::new(measurement, label, Holds::Chosen)
}

pub(super) const fn histogram(measurement: &'static str, field: &'static str) -> Influx {
    Influx::new(measurement, field, Holds::Histogram)
}

pub(super) const fn summary(measurement: &'static str, field: &'static str) -> Influx {
    Influx::new(measurement, field, Holds::Summary)
}

pub(super) const fn words(measurement: &'static str, labels: &'static [&'static str]) -> Influx {
    Influx::new(measurement, "", Holds::Nothing).with(labels)
}

pub(super) const fn tags(measurement: &'static str, labels: &'static [&'static str]) -> Influx {
    Influx { tags: labels, ..Influx::new(measurement, "", Holds::Nothing) }
}

/// A measurement: what can be asked of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// Its tags, without those that every point has (`host`, and what --influx-tag says).
    pub tags: Vec<&'static str>,
    /// Its fields and what they hold: integer, float or text. A label in braces stands for its values.
    pub fields: BTreeMap<String, &'static str>,
    /// All values of tags and text fields that can have few only, and of what stands in braces, by the tag's or field's name.
    pub values: BTreeMap<String, Vec<String>>,
}

/// Every measurement by its name.
pub fn measurements() -> BTreeMap<&'static str, Measurement> {
    let mut all: BTreeMap<&'static str, Measurement> = BTreeMap::new();
    for family in ALL.iter().filter(|family| !family.influx.measurement.is_empty()) {
        let one = all.entry(family.influx.measurement).or_default();
        let own = family.labels.iter().copied();
        for tag in own.filter(|label| family.influx.is_tag(label) || family.influx.tags.contains(label)) {
            if !one.tags.contains(&tag) {
                one.tags.push(tag);
            }
        }
        one.fields.extend(fields(family));
        one.values.extend(values_of_fields(family));
    }
    for (name, one) in &mut all {
        let tags = one.tags.iter().filter_map(|tag| Some(((*tag).to_owned(), values_of_tag(name, tag)?)));
        one.values.extend(tags);
    }
    let events = all.entry(points::VERDICTS).or_default();
    events.tags = vec!["target", "site", "function"];
    for (field, holds) in points::VERDICT_FIELDS {
        events.fields.insert(field.to_owned(), holds);
    }
    for field in points::VERDICT_WORDS {
        events.values.insert(field.to_owned(), values::verdicts());
    }
    all
}

fn fields(family: &Family) -> Vec<(String, &'static str)> {
    let influx = &family.influx;
    let mut fields: Vec<_> = influx.words.iter().map(|word| ((*word).to_owned(), "text")).collect();
    let field = influx.field.to_owned();
    match influx.holds {
        Holds::Integer => fields.push((field, "integer")),
        Holds::Float => fields.push((field, "float")),
        Holds::Chosen => fields.push((field, "text")),
        Holds::Histogram => fields.extend([(field, "float"), (BOUNDS.to_owned(), "integer")]),
        Holds::Summary => {
            let quantile = points::quantile_field(&field, QUANTILE);
            fields.extend([(field, "float"), (quantile, "float")]);
        }
        Holds::Nothing => {}
    }
    fields
}

/// Values of what is in braces in a field's name, and of a chosen word.
fn values_of_fields(family: &Family) -> Vec<(String, Vec<String>)> {
    let influx = &family.influx;
    let of = |label: &str| values::of_label(family, label);
    match influx.holds {
        Holds::Chosen => of(influx.field).map(|all| (influx.field.to_owned(), all)).into_iter().collect(),
        // What is longer than the highest bound is only in the count of all.
        Holds::Histogram => vec![(BOUNDS.to_owned(), values::bounds(family))],
        Holds::Summary => vec![(points::quantile_field(influx.field, QUANTILE), values::quantiles())],
        _ => {
            let inside = family.labels.iter().find(|label| influx.is_in_field(label));
            let all = inside.and_then(|label| of(label));
            all.map(|all| (influx.field.to_owned(), all)).into_iter().collect()
        }
    }
}

/// Values of a tag; none if a family of the measurement can have any.
fn values_of_tag(measurement: &str, tag: &str) -> Option<Vec<String>> {
    let has = |family: &&Family| {
        family.influx.measurement == measurement && family.labels.contains(&tag) && family.influx.is_tag(tag)
    };
    let mut all = Vec::new();
    for family in ALL.iter().filter(has) {
        let more = values::of_label(family, tag)?;
        all.extend(more.into_iter().filter(|value| !all.contains(value)).collect::<Vec<_>>());
    }
    (!all.is_empty()).then_some(all)
}

/// All measurements as a Markdown table.
pub fn markdown() -> String {
    let mut text = String::from("| Measurement | Tags | Fields |\n|---|---|---|\n");
    for (name, one) in measurements() {
        let tags: Vec<_> = one.tags.iter().map(|tag| format!("`{tag}`")).collect();
        let fields: Vec<_> = one.fields.iter().map(|(field, holds)| format!("`{field}` ({holds})")).collect();
        text.push_str(&format!("| `{name}` | {} | {} |\n", tags.join(" "), fields.join(", ")));
    }
    text
}
