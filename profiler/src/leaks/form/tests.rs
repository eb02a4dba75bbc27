use crate::{leaks::Picture, test_support::picture};

/// The JSON that docs/leaks-json.md is about. `PROFILER_BLESS=1` writes it anew.
const GOLDEN: &str = include_str!("golden.json");

fn small() -> Picture {
    let mut picture = picture::realistic();
    for site in &mut picture.targets[0].sites {
        site.history.truncate(2);
    }
    picture.targets[0].history.truncate(2);
    picture.targets[0].anon_history.truncate(2);
    picture
}

#[test]
fn the_json_is_what_the_document_says() {
    let json = serde_json::to_string_pretty(&small()).unwrap();
    if std::env::var_os("PROFILER_BLESS").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/leaks/form/golden.json");
        std::fs::write(file, format!("{json}\n")).unwrap();
        return;
    }
    assert_eq!(json, GOLDEN.trim_end());
}

#[test]
fn what_is_written_is_read_back() {
    let mut picture = small();
    // Infinity has no name in JSON.
    picture.targets[1].live_bytes.high = 1.0;
    let json = serde_json::to_string(&picture).unwrap();
    assert_eq!(serde_json::from_str::<Picture>(&json).unwrap(), picture);
    let bytes = postcard::to_allocvec(&picture).unwrap();
    assert_eq!(postcard::from_bytes::<Picture>(&bytes).unwrap(), picture);
}

#[test]
fn infinity_is_null_for_people_and_itself_on_disk() {
    let picture = small();
    let json = serde_json::to_value(&picture).unwrap();
    assert!(json["targets"][1]["live_bytes"]["high"].is_null());
    let read: Picture = serde_json::from_value(json).unwrap();
    assert!(read.targets[1].live_bytes.high.is_nan());
    let bytes = postcard::to_allocvec(&picture).unwrap();
    let read: Picture = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(read.targets[1].live_bytes.high, f64::INFINITY);
}

#[test]
fn times_that_no_clock_can_show_are_refused() {
    let mut json = serde_json::to_value(small()).unwrap();
    for wrong in [-1.0, 1e300] {
        json["taken_at"] = wrong.into();
        assert!(serde_json::from_value::<Picture>(json.clone()).is_err(), "{wrong}");
    }
}
