use super::super::layout::Layout;
use super::super::moduledata::TEXT;
use super::super::references::{FUNCTIONS, GLOBALS};
use super::super::tables::{Version, choose, embedded};

fn version(minor: u32, patch: u32, plain: bool) -> Result<Version, String> {
    Ok(Version { minor, patch, plain })
}

#[test]
fn versions_are_taken_apart_whatever_vendors_and_experiments_add() {
    for (text, minor, patch, plain) in [
        ("go1.22.1", 22, 1, true),
        ("go1.20", 20, 0, true),
        ("go1.25.5 X:greenteagc", 25, 5, false),
        ("go1.26.0-X:nodwarf5", 26, 0, false),
        ("go1.24rc1", 24, 0, false),
        ("go1.18beta2", 18, 0, false),
        ("go1.22.5-custom", 22, 5, false),
        ("go1.19.8 (Debian 1.19.8-2)", 19, 8, false),
        ("go1.23.4+auto", 23, 4, false),
    ] {
        assert_eq!(Version::parse(text), version(minor, patch, plain), "{text}");
    }
    let refused = Version::parse("devel go1.24-abc Mon Jan 1").unwrap_err();
    assert!(refused.contains("is no release of Go"), "{refused}");
    for text in ["", "go", "go1", "go1.", "go2.1", "1.22.1", "go1.x", "go1.22x", "go1.99999999999"] {
        assert!(Version::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_version_has_its_own_table_or_that_of_the_nearest_patch() {
    let table =
        |version: &str| choose(embedded(), "amd64", version).map(|chosen| (chosen.version, chosen.exact));
    assert_eq!(table("go1.24.3"), Ok(("1.24.3", true)));
    assert_eq!(table("go1.24.3 X:something"), Ok(("1.24.3", false)));
    assert_eq!(table("go1.24.4"), Ok(("1.24.3", false)));
    assert_eq!(table("go1.24.10"), Ok(("1.24.11", false)));
    // As near to both.
    assert_eq!(table("go1.24.7"), Ok(("1.24.11", false)));
    assert_eq!(table("go1.24rc1"), Ok(("1.24.3", false)));
}

#[test]
fn of_a_version_without_tables_it_is_said_how_to_make_them() {
    for (version, wanted) in [("go1.20.12", "1.20.12"), ("go1.99", "1.99.0"), ("go1.18.1", "1.18.1")] {
        let refused = choose(embedded(), "amd64", version).unwrap_err();
        assert!(refused.contains(version), "{refused}");
        assert!(refused.contains(&format!("cargo xtask go-layouts {wanted}")), "{refused}");
    }
    assert!(choose(embedded(), "riscv64", "go1.24.3").unwrap_err().contains("riscv64"));
}

/// All tables in the source, also those for the machine that this isn't built for.
#[test]
fn every_table_can_be_read_and_has_what_is_needed_of_it() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let tables: super::super::layout::Tables =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        files += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!("{}-{}.json", tables.go, tables.arch));
        for (version, &variant) in &tables.versions {
            assert!(
                version == &tables.go || version.starts_with(&format!("{}.", tables.go)),
                "{name} {version}"
            );
            let table = &tables.variants[variant];
            let layout = Layout::of(table).unwrap_or_else(|error| panic!("{name} {version}: {error}"));
            assert_eq!(layout.module_data.text, TEXT, "{name} {version}");
            assert!(layout.module_data.noptrdata.is_some(), "{name} {version}");
            // Where the globals are has votes for each that must be found.
            for global in GLOBALS.iter().take(7).chain(&["runtime.gomaxprocs"]) {
                let refers = |(_, name, _): &&(String, Option<String>, i64)| name.as_deref() == Some(*global);
                let votes = table.code.values().flatten().filter(refers).count();
                assert!(votes > 0, "{name} {version}: {global}");
            }
            assert!(table.code.len() > 20, "{name} {version}");
            assert!(
                table.code.keys().all(
                    |function| FUNCTIONS.contains(&function.as_str()) || function.starts_with("runtime.")
                )
            );
        }
    }
    assert!(files > 0 && !embedded().is_empty());
}
