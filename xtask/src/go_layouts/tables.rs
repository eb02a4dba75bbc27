//! A file of tables: one minor version of Go on one machine (`profiler/src/binary/go/layout.rs` reads it). It is written
//! so that a person can read a difference: a line for each structure and function, everything in a fixed order,
//! whatever was made first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// What a table has, in the order of the file. What holds many things has a line for each.
const PARTS: [(&str, bool); 5] =
    [("sizes", false), ("structs", true), ("class_to_size", false), ("wait_reasons", false), ("code", true)];

/// A version as it is ordered: `1.28rc1` comes before `1.28.0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    minor: u32,
    patch: u32,
    /// `beta`, `rc`, or a release.
    stage: Stage,
    /// As Go says it.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Beta(u32),
    Candidate(u32),
    Release,
}

impl Version {
    /// Reads `1.27.3`, `1.20` and `1.28rc1`.
    fn read(name: &str) -> Result<Self> {
        Self::parse(name).with_context(|| format!("{name:?} is no version of Go as we know them"))
    }

    fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("1.")?;
        let (numbers, stage) = if let Some((numbers, number)) = rest.split_once("beta") {
            (numbers, Stage::Beta(number.parse().ok()?))
        } else if let Some((numbers, number)) = rest.split_once("rc") {
            (numbers, Stage::Candidate(number.parse().ok()?))
        } else {
            (rest, Stage::Release)
        };
        let (minor, patch) = match numbers.split_once('.') {
            Some((minor, patch)) => (minor, patch.parse().ok()?),
            None => (numbers, 0),
        };
        Some(Self { minor: minor.parse().ok()?, patch, stage, name: name.to_owned() })
    }
}

/// The minor version that a version belongs to: `1.27`.
pub fn minor(version: &str) -> Result<String> {
    Ok(format!("1.{}", Version::read(version)?.minor))
}

/// The tables of one file.
pub struct Tables {
    go: String,
    machine: String,
    versions: BTreeMap<Version, Value>,
}

impl Tables {
    /// What is there for the minor version of `version`; nothing if there is no file yet.
    pub fn read(file: &Path, version: &str, machine: &str) -> Result<Self> {
        let mut tables = Self { go: minor(version)?, machine: machine.to_owned(), versions: BTreeMap::new() };
        if file.exists() {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("can't read {}", file.display()))?;
            tables.take(&text).with_context(|| format!("{} is damaged: remove it", file.display()))?;
        }
        Ok(tables)
    }

    fn take(&mut self, text: &str) -> Result<()> {
        let file: Value = serde_json::from_str(text)?;
        ensure!(
            file["go"] == *self.go && file["arch"] == *self.machine,
            "it is for Go {} on {}",
            file["go"],
            file["arch"]
        );
        for (version, variant) in file["versions"].as_object().context("it has no versions")? {
            let variant = variant.as_u64().and_then(|number| usize::try_from(number).ok());
            let table = variant.and_then(|number| file["variants"].get(number));
            self.add(version, table.with_context(|| format!("{version} has no table"))?.clone())?;
        }
        Ok(())
    }

    /// Adds a version's table, in the place of an older one.
    pub fn add(&mut self, version: &str, table: Value) -> Result<()> {
        let version = Version::read(version)?;
        ensure!(format!("1.{}", version.minor) == self.go, "{} is no Go {}", version.name, self.go);
        self.versions.insert(version, table);
        Ok(())
    }

    /// The file. Equal tables are one; they are numbered by the oldest version that has them.
    pub fn text(&self) -> Result<String> {
        let mut variants: Vec<&Value> = Vec::new();
        let mut versions = Vec::new();
        for (version, table) in &self.versions {
            let number = variants.iter().position(|known| *known == table).unwrap_or_else(|| {
                variants.push(table);
                variants.len() - 1
            });
            versions.push(format!("{}: {number}", Value::from(version.name.as_str())));
        }
        let variants = variants.into_iter().map(variant).collect::<Result<Vec<_>>>()?;
        Ok(format!(
            "{{\n \"go\": {},\n \"arch\": {},\n \"versions\": {{{}}},\n \"variants\": [\n{}\n ]\n}}\n",
            Value::from(self.go.as_str()),
            Value::from(self.machine.as_str()),
            versions.join(", "),
            variants.join(",\n")
        ))
    }
}

fn variant(table: &Value) -> Result<String> {
    let table = table.as_object().context("a table is no object")?;
    if let Some(unknown) = table.keys().find(|key| PARTS.iter().all(|(part, _)| part != key)) {
        bail!("a table has {unknown:?}, of which this program doesn't know how to write it");
    }
    let mut parts = Vec::new();
    for (part, lines) in PARTS {
        let value = table.get(part).with_context(|| format!("a table has no {part:?}"))?;
        let value = match value.as_object().filter(|_| lines) {
            Some(many) => format!("{{\n{}\n  }}", on_lines(many)),
            None => spaced(value),
        };
        parts.push(format!("  {}: {value}", Value::from(part)));
    }
    Ok(format!(" {{\n{}\n }}", parts.join(",\n")))
}

fn on_lines(many: &Map<String, Value>) -> String {
    let lines =
        many.iter().map(|(key, value)| format!("   {}: {}", Value::from(key.as_str()), spaced(value)));
    lines.collect::<Vec<_>>().join(",\n")
}

/// JSON on one line, with a space behind each comma and colon.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", joined(items.iter().map(spaced))),
        Value::Object(items) => {
            let items =
                items.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), spaced(value)));
            format!("{{{}}}", joined(items))
        }
        plain => plain.to_string(),
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (at, item) in items.enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        // Writing to a string doesn't fail.
        let _ = write!(text, "{comma}{item}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn table(size: u32) -> Value {
        json!({
            "sizes": {"runtime.g": size, "runtime.m": 8},
            "structs": {"runtime.m": {"p": [0, 8]}, "runtime.g": {"stack.lo": [0, 8], "goid": [8, 8]}},
            "class_to_size": [0, 8],
            "wait_reasons": ["", "IO \"wait\""],
            "code": {"runtime.b": [["mov/8", null, 0]], "runtime.a": [["lea/8", "runtime.sched", 32]]},
        })
    }

    fn tables(versions: &[(&str, u32)]) -> String {
        let mut tables =
            Tables { go: "1.24".to_owned(), machine: "arm64".to_owned(), versions: BTreeMap::new() };
        for (version, size) in versions {
            tables.add(version, table(*size)).unwrap();
        }
        tables.text().unwrap()
    }

    #[test]
    fn a_file_has_a_line_for_each_structure_and_function() {
        let wanted = r#"{
 "go": "1.24",
 "arch": "arm64",
 "versions": {"1.24.3": 0},
 "variants": [
 {
  "sizes": {"runtime.g": 7, "runtime.m": 8},
  "structs": {
   "runtime.g": {"goid": [8, 8], "stack.lo": [0, 8]},
   "runtime.m": {"p": [0, 8]}
  },
  "class_to_size": [0, 8],
  "wait_reasons": ["", "IO \"wait\""],
  "code": {
   "runtime.a": [["lea/8", "runtime.sched", 32]],
   "runtime.b": [["mov/8", null, 0]]
  }
 }
 ]
}
"#;
        assert_eq!(tables(&[("1.24.3", 7)]), wanted);
    }

    #[test]
    fn versions_that_do_not_differ_share_a_table_whatever_was_made_first() {
        let text = tables(&[("1.24.11", 2), ("1.24.3", 1), ("1.24.9", 2), ("1.24rc1", 1), ("1.24.0", 1)]);
        let versions = r#""versions": {"1.24rc1": 0, "1.24.0": 0, "1.24.3": 0, "1.24.9": 1, "1.24.11": 1},"#;
        assert!(text.contains(versions), "{text}");
        assert_eq!(text.matches("\"sizes\"").count(), 2);
        assert_eq!(
            text,
            tables(&[("1.24.0", 1), ("1.24.3", 1), ("1.24rc1", 1), ("1.24.9", 2), ("1.24.11", 2)])
        );
    }

    #[test]
    fn a_version_that_is_made_again_replaces_its_table_and_an_unused_one_goes() {
        let mut read =
            Tables { go: "1.24".to_owned(), machine: "arm64".to_owned(), versions: BTreeMap::new() };
        read.take(&tables(&[("1.24.3", 1), ("1.24.11", 2)])).unwrap();
        assert_eq!(read.text().unwrap(), tables(&[("1.24.3", 1), ("1.24.11", 2)]));
        read.add("1.24.3", table(2)).unwrap();
        assert_eq!(read.text().unwrap(), tables(&[("1.24.3", 2), ("1.24.11", 2)]));
    }

    #[test]
    fn a_file_of_another_version_or_machine_is_refused() {
        let text = tables(&[("1.24.3", 1)]);
        for (go, machine) in [("1.25", "arm64"), ("1.24", "amd64")] {
            let mut other =
                Tables { go: go.to_owned(), machine: machine.to_owned(), versions: BTreeMap::new() };
            assert!(other.take(&text).is_err());
        }
        let mut same =
            Tables { go: "1.24".to_owned(), machine: "arm64".to_owned(), versions: BTreeMap::new() };
        assert!(same.take(&text.replace("\"1.24.3\": 0", "\"1.24.3\": 1")).is_err(), "no such variant");
        assert!(same.add("1.25.0", table(1)).is_err());
    }

    #[test]
    fn versions_are_ordered_as_go_counts_them() {
        let names =
            ["1.9", "1.20beta1", "1.20rc1", "1.20rc12", "1.20", "1.20.2", "1.20.10", "1.27.3", "1.28rc1"];
        let versions: Vec<Version> = names.iter().map(|name| Version::read(name).unwrap()).collect();
        assert!(versions.is_sorted(), "{versions:?}");
        assert_eq!(minor("1.28rc1").unwrap(), "1.28");
        for wrong in ["", "1", "2.1", "1.x", "1.20.", "1.20.3-fips", "devel", "1.20rc", "1.20.3.1"] {
            assert!(Version::read(wrong).is_err(), "{wrong}");
        }
    }
}
