//! For tests: the layouts of the runtime's structures, by minor version.

use crate::binary::go::{Layout, tables::embedded};

/// The layout of a minor version (`1.27`), and the version that it was made of.
pub fn layout(minor: &str) -> (String, Layout) {
    let tables = embedded().iter().find(|tables| tables.go == minor).unwrap();
    let (version, variant) = tables.versions.last_key_value().unwrap();
    (version.clone(), Layout::of(&tables.variants[*variant]).unwrap())
}

/// Every minor version that there is a table of.
pub fn minors() -> Vec<String> {
    embedded().iter().map(|tables| tables.go.clone()).collect()
}
