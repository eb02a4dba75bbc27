//! A server that takes little at a time, and one that doesn't take everything.

use crate::{
    DATABASE, MENDED,
    common::{
        LONG, Scratch,
        influxd::Influxd,
        lines::{Book, Series},
        relay::Relay,
    },
    idle, metric, push,
    spooled::Watch,
    until, until_drained,
};

#[test]
fn a_server_that_takes_one_kilobyte_at_a_time_gets_everything_that_fits() {
    let Some(server) = Influxd::with_database("max-body-size = 1024", DATABASE) else { return };
    let relay = Relay::to(server.address());
    // Words that no compression makes small: every point of the first one is larger than that by itself.
    let mut number: u64 = 1;
    let mut tag = |place: usize| {
        let mut text = format!("tag{place}=");
        while text.len() < 190 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.extend(std::char::from_digit((number >> 33) as u32 % 36, 36));
        }
        text
    };
    let tags: Vec<_> = (0..12).map(&mut tag).collect();
    let target = idle();
    let directory = Scratch::name("spool");
    let watch = Watch::over(directory.path());
    let tags: Vec<_> = tags.iter().flat_map(|tag| ["--influx-tag", tag.as_str()]).collect();
    let watching = push(&target, &relay.url(), directory.path(), "200ms", &tags);
    let other_directory = Scratch::name("spool");
    let other_watch = Watch::over(other_directory.path());
    let other = push(&target, &relay.url(), other_directory.path(), "200ms", &[]);
    let mut set_aside = 0.0;
    until(&watching, LONG, "profiler_influx_quarantined_points_total", |points| {
        set_aside = points;
        points > 50.0
    });
    until(&other, LONG, "profiler_influx_points_total", |points| points > 100.0);
    until_drained(&other, MENDED);
    assert_eq!(metric(&other, "profiler_influx_quarantined_points_total"), 0.0);
    assert!(relay.written().iter().any(|one| one.status == Some(413)), "something was too large");
    assert!(watching.finish().status.success() && other.finish().status.success());
    // Everything that was ever spooled is there, or set aside with a reason.
    let text =
        std::fs::read_to_string(directory.path().join("quarantine.lp")).expect("points were set aside");
    let mut aside = Book::default();
    for pair in text.lines().collect::<Vec<_>>().chunks(2) {
        assert!(pair[0].starts_with("# ") && pair[0].contains("413"), "{}", pair[0]);
        aside.read(pair[1]);
    }
    assert!(
        aside.points.len() as f64 >= set_aside,
        "{} points set aside, not {set_aside}",
        aside.points.len()
    );
    let mut there = server.everything(DATABASE);
    let stored = there.points.len();
    there.has_all_of(&other_watch.end().book);
    there.has_all_of(&relay.acknowledged());
    let tagged = |((_, tags), _): &&(Series, i64)| tags.contains_key("tag0");
    assert_eq!(there.points.keys().filter(tagged).count(), 0, "none of them fits");
    there.extend(aside.clone());
    there.has_all_of(&watch.end().book);
    println!("{stored} points stored, {} set aside", aside.points.len());
}

#[test]
fn points_that_the_server_refuses_for_good_are_set_aside_and_stop_no_others() {
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let relay = Relay::to(server.address());
    let watch = Watch::over(directory.path());
    // Somebody has written text there, and the server remembers a field's type (in each week's shard).
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    let line = format!("profiler_target,host=other processes=\"three\" {}", now.as_nanos());
    assert_eq!(server.write(DATABASE, &line), 204);
    let watching = push(&target, &relay.url(), directory.path(), "200ms", &[]);
    until(&watching, LONG, "profiler_influx_quarantined_points_total", |points| points >= 5.0);
    until(&watching, LONG, "profiler_influx_points_total", |points| points >= 50.0);
    until_drained(&watching, MENDED);
    assert_eq!(metric(&watching, "profiler_influx_up"), 1.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    let told = finished.complaints.iter().filter(|line| line.contains("quarantine.lp")).count();
    assert_eq!(told, 1, "told once: {:#?}", finished.complaints);
    let text =
        std::fs::read_to_string(directory.path().join("quarantine.lp")).expect("points were set aside");
    let mut aside = Book::default();
    for pair in text.lines().collect::<Vec<_>>().chunks(2) {
        assert!(pair[0].starts_with("# ") && pair[0].contains("field type conflict"), "{}", pair[0]);
        aside.read(pair[1]);
    }
    assert!(aside.points.keys().all(|((name, _), _)| name == "profiler_target"), "{:?}", aside.points.keys());
    let mut there = server.everything(DATABASE);
    assert!(!there.times("profiler_process").is_empty());
    assert_eq!(there.times("profiler_target").len(), 1, "only what somebody else wrote");
    there.extend(aside);
    there.has_all_of(&watch.end().book);
}
