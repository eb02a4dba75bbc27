//! For tests: the layouts of the runtime's structures, by minor version.

use crate::binary::go::{Layout, layout::Tables};

const TABLES: [&str; 8] = [
    include_str!("../../binary/go/tables/1.19-amd64.json"),
    include_str!("../../binary/go/tables/1.21-amd64.json"),
    include_str!("../../binary/go/tables/1.22-amd64.json"),
    include_str!("../../binary/go/tables/1.23-amd64.json"),
    include_str!("../../binary/go/tables/1.24-amd64.json"),
    include_str!("../../binary/go/tables/1.25-amd64.json"),
    include_str!("../../binary/go/tables/1.26-amd64.json"),
    include_str!("../../binary/go/tables/1.27-amd64.json"),
];

/// The layout of a minor version (`1.27`), and the version that it was made of.
pub fn layout(minor: &str) -> (String, Layout) {
    let all = TABLES.iter().map(|text| serde_json::from_str::<Tables>(text).unwrap());
    let tables = all.into_iter().find(|tables| tables.go == minor).unwrap();
    let (version, variant) = tables.versions.last_key_value().unwrap();
    (version.clone(), Layout::of(&tables.variants[*variant]).unwrap())
}

/// Every minor version that there is a table of.
pub fn minors() -> Vec<String> {
    TABLES.iter().map(|text| serde_json::from_str::<Tables>(text).unwrap().go).collect()
}
