//! OpenMetrics text 1.0.0: what Prometheus asks for first. Written by hand, because the `prometheus` crate doesn't know it.
//!
//! The specification is <https://prometheus.io/docs/specs/om/open_metrics_spec/>. No exemplars, and no `_created`: Prometheus
//! would keep each as a series of its own.

use std::fmt::Write as _;

use super::{
    catalogue::{Family, Kind},
    families::{Families, Filled, Row, Value},
};

/// Units that a name can end in, the longer first. The specification wants base units.
const UNITS: [&str; 4] = ["bytes_per_second", "seconds", "bytes", "ratio"];

/// Writes the families down.
pub fn render(families: &Families) -> String {
    let mut out = String::with_capacity(64 << 10);
    for filled in families.iter() {
        write_family(&mut out, filled);
    }
    out.push_str("# EOF\n");
    out
}

/// A counter that without its suffix would have the name of a gauge: Go's library named them before there was OpenMetrics.
/// As it is, with a type that promises nothing, it clashes with nothing, and servers get the same series as from text.
const TWIN: &str = "go_memstats_alloc_bytes_total";

/// The name in the lines that describe a family, and the type. A counter's samples have `_total` behind that name, an info's
/// `_info`.
fn described(family: &Family) -> (&'static str, &'static str) {
    match family.kind {
        Kind::Counter if family.name.ends_with(TWIN) => (family.name, "unknown"),
        Kind::Counter => (family.name.strip_suffix("_total").unwrap_or(family.name), "counter"),
        Kind::Histogram => (family.name, "histogram"),
        Kind::Summary => (family.name, "summary"),
        Kind::Gauge => match family.name.strip_suffix("_info") {
            Some(name) if is_always_one(family) => (name, "info"),
            _ => (family.name, "gauge"),
        },
    }
}

/// The specification demands 1 of every sample of an info, so a family that counts something stays a gauge, whatever its
/// name is. The catalogue says it to the reader, and so to us.
fn is_always_one(family: &Family) -> bool {
    family.help.ends_with(" Always 1.")
}

fn write_family(out: &mut String, filled: &Filled) {
    let family = filled.family;
    let (name, kind) = described(family);
    // Writing to a string can't fail, here and below.
    let _infallible = writeln!(out, "# TYPE {name} {kind}");
    let unit = UNITS.iter().find(|unit| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_')));
    if let Some(unit) = unit {
        let _infallible = writeln!(out, "# UNIT {name} {unit}");
    }
    let _infallible = write!(out, "# HELP {name} ");
    escape(out, &filled.help);
    out.push('\n');
    for row in &filled.rows {
        write_row(out, family, row);
    }
}

fn write_row(out: &mut String, family: &Family, row: &Row) {
    let labels = labels(family, row);
    let comma = if labels.is_empty() { "" } else { "," };
    let mut sample = |suffix: &str, labels: &str, value: &str| {
        out.extend([family.name, suffix]);
        if !labels.is_empty() {
            out.extend(["{", labels, "}"]);
        }
        out.extend([" ", value, "\n"]);
    };
    let counts = match &row.value {
        Value::Whole(value) => return sample("", &labels, &value.to_string()),
        Value::Signed(value) => return sample("", &labels, &value.to_string()),
        Value::Real(value) => return sample("", &labels, &number(*value)),
        Value::Histogram(counts) => counts,
        Value::Summary(sizes) => {
            for (share, size) in &sizes.quantiles {
                sample("", &format!("{labels}{comma}quantile=\"{}\"", number(*share)), &number(*size));
            }
            sample("_count", &labels, &sizes.count.to_string());
            return sample("_sum", &labels, &number(sizes.sum));
        }
    };
    let bounds = counts.buckets.iter().copied().chain([(f64::INFINITY, counts.count)]);
    for (bound, count) in bounds {
        let bound = number(bound);
        sample("_bucket", &format!("{labels}{comma}le=\"{bound}\""), &count.to_string());
    }
    sample("_count", &labels, &counts.count.to_string());
    sample("_sum", &labels, &number(counts.sum));
}

/// The labels as they stand between braces.
fn labels(family: &Family, row: &Row) -> String {
    let mut out = String::new();
    for (name, value) in family.labels.iter().zip(&row.labels) {
        out.extend([if out.is_empty() { "" } else { "," }, name, "=\""]);
        escape(&mut out, value);
        out.push('"');
    }
    out
}

/// The same three characters in help and in labels.
fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

/// A number in the canonical form, which the specification wants in `le`, and which does for values: as Go's `%g` writes it
/// with the fewest digits that tell it from every other number, and with a `.0` where it would look whole.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests;
