//! What a history keeps, whatever happens to it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    samples::{at, leaking_server, site, stack, target},
    *,
};
use crate::leaks::{Estimate, Verdict};

/// A directory that is gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("profiler-history-{name}-{}", std::process::id()));
        let _old = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("hunt.db")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

const LIMITS: Limits = Limits { bytes: 64 << 20 };

fn refused(result: Result<History, HistoryError>) -> String {
    let Err(error) = result else { panic!("it must be refused") };
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Many sites, different in every picture to the last digit.
fn large(seconds: u64, sites: u64, turn: u64) -> Picture {
    let sites = (0..sites).map(|number| {
        let number = number + turn * sites;
        let names: Vec<String> = (0..12).map(|depth| format!("function_{number}_{depth}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let live = 1e6 / (1.0 + number as f64) * (1.0 + seconds as f64).ln().mul_add(0.1, 1.0);
        site(&format!("{number:012x}"), stack("bb", number * 64, &names), Verdict::Steady, live)
    });
    Picture { taken_at: at(seconds), targets: vec![target("large", sites.collect())] }
}

#[test]
fn what_was_appended_is_there_after_a_restart_with_its_stacks() {
    let place = Place::new("restart");
    let pictures: Vec<_> = (0..5).map(|i| leaking_server(i * 10)).collect();
    let history = History::open(&place.file(), LIMITS).unwrap();
    pictures.iter().for_each(|picture| history.append(picture).unwrap());
    drop(history);
    for history in [History::open(&place.file(), LIMITS).unwrap(), History::read(&place.file()).unwrap()] {
        assert_eq!(history.moments(..).unwrap(), (0..5).map(|i| at(i * 10)).collect::<Vec<_>>());
        assert_eq!(history.moments(at(10)..at(30)).unwrap(), [at(10), at(20)]);
        let found = history.picture_at(at(23)).unwrap().unwrap();
        let (found, expected) = (&found.targets[0], &pictures[2].targets[0]);
        assert_eq!(
            (found.since, found.watched, found.before),
            (expected.since, expected.watched, expected.before)
        );
        for (found, expected) in found.sites.iter().zip(&expected.sites) {
            assert_eq!((&found.id, &found.stack), (&expected.id, &expected.stack));
            assert_eq!(found.judgement.reason, expected.judgement.reason);
            assert!((found.live_bytes.high / expected.live_bytes.high - 1.0).abs() < 1e-6);
        }
        assert_eq!(found.sites.len(), 3);
    }
}

#[test]
fn the_nearest_moment_is_found_on_either_side_and_an_empty_history_has_none() {
    let place = Place::new("nearest");
    let history = History::open(&place.file(), LIMITS).unwrap();
    assert_eq!(history.picture_at(at(0)).unwrap(), None);
    for seconds in [10, 20, 40] {
        history.append(&leaking_server(seconds)).unwrap();
    }
    for (asked, expected) in [(0, 10), (14, 10), (16, 20), (29, 20), (31, 40), (9999, 40)] {
        assert_eq!(history.picture_at(at(asked)).unwrap().unwrap().taken_at, at(expected), "{asked}");
    }
}

#[test]
fn a_file_belongs_to_one_writer_and_is_readable_meanwhile() {
    let place = Place::new("lock");
    let history = History::open(&place.file(), LIMITS).unwrap();
    history.append(&leaking_server(0)).unwrap();
    let refused = refused(History::open(&place.file(), LIMITS));
    assert!(refused.contains("another profiler") && refused.contains("hunt.db"), "{refused}");
    let read = History::read(&place.file()).unwrap();
    assert_eq!(read.moments(..).unwrap(), [at(0)]);
    assert!(matches!(read.append(&leaking_server(1)), Err(HistoryError::ReadOnly { .. })));
    history.append(&leaking_server(10)).unwrap();
    assert_eq!(fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_no_history_is_refused_and_left_as_it_is() {
    let place = Place::new("foreign");
    let path = place.file();
    for bytes in [&b"precious"[..], &[0; 100_000], &[b'x'; 100_000], b"redb\x1a\x0a\xa9\x0d\x0a and no more"]
    {
        fs::write(&path, bytes).unwrap();
        assert!(refused(History::open(&path, LIMITS)).contains("hunt.db"));
        refused(History::read(&path));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // A database of somebody else.
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    let transaction = other.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(other);
    let before = fs::read(&path).unwrap();
    assert!(refused(History::open(&path, LIMITS)).contains("another program"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn links_directories_and_pipes_are_refused() {
    let place = Place::new("links");
    let (precious, link) = (place.0.join("precious"), place.0.join("link"));
    drop(History::open(&precious, LIMITS).unwrap());
    symlink(&precious, &link).unwrap();
    assert!(refused(History::open(&link, LIMITS)).contains("no regular file"));
    assert!(refused(History::open(&place.0, LIMITS)).contains("no regular file"));
    let pipe = place.0.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert!(refused(History::open(&pipe, LIMITS)).contains("no regular file"));
    assert!(refused(History::read(&pipe)).contains("no regular file"));
}

#[test]
fn a_changed_byte_is_found_or_harmless_and_never_written_over() {
    let place = Place::new("damage");
    let history = History::open(&place.file(), LIMITS).unwrap();
    (0..30).for_each(|i| history.append(&large(i * 10, 20, i)).unwrap());
    let expected = history.picture_at(at(100)).unwrap().unwrap();
    drop(history);
    let whole = fs::read(place.file()).unwrap();
    let damaged = place.0.join("damaged.db");
    let (mut found, mut seed) = (0, 1_u64);
    // Panics that are caught would fill the screen.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let results: Vec<_> = (0..60)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = whole.clone();
            if seed.is_multiple_of(5) {
                bytes.truncate((seed >> 33) as usize % whole.len());
            } else {
                let place = (seed >> 33) as usize % whole.len();
                (place..whole.len().min(place + 512)).for_each(|place| bytes[place] ^= 0x55);
            }
            fs::write(&damaged, &bytes).unwrap();
            (History::read(&damaged).map(|history| history.picture_at(at(100))), bytes)
        })
        .collect();
    std::panic::set_hook(hook);
    for (result, bytes) in results {
        match result {
            Err(error) => {
                assert!(error.to_string().contains("damaged.db"), "{error}");
                found += 1;
            }
            // Those bytes meant nothing.
            Ok(picture) => assert_eq!(picture.unwrap().unwrap(), expected),
        }
        drop(bytes);
    }
    assert!(found > 20, "{found}");
    let mut bytes = whole;
    bytes.truncate(20_000);
    fs::write(&damaged, &bytes).unwrap();
    assert!(refused(History::open(&damaged, LIMITS)).contains("damaged"));
    assert_eq!(fs::read(&damaged).unwrap(), bytes);
}

#[test]
fn weeks_are_kept_in_steps_that_grow_with_age() {
    let place = Place::new("weeks");
    let history = History::open(&place.file(), LIMITS).unwrap();
    // Twelve days, an append in 20 s at their ends and one in 10 min between.
    let day = 86_400;
    let early = (0..180).map(|i| i * 20);
    let between = (6..12 * 144).map(|i| i * 600);
    let late = (0..360).map(|i| 12 * day + i * 20);
    for seconds in early.chain(between).chain(late) {
        history.append(&leaking_server(seconds)).unwrap();
    }
    let now = at(12 * day + 7180);
    let hour = Duration::from_secs(3600);
    let kept = |from, to| history.moments(from..to).unwrap().len();
    assert!((178..=180).contains(&kept(now - hour, now)), "all of the last hour");
    assert!((59..=62).contains(&kept(now - 2 * hour, now - hour)), "then one a minute");
    assert!((142..=146).contains(&kept(now - 48 * hour, now - 24 * hour)), "then one in ten minutes");
    assert!((47..=49).contains(&kept(at(day), at(3 * day))), "then one an hour");
    let told = history.told().unwrap();
    assert_eq!(told.range, Some((at(0), now)));
    assert_eq!(told.moments + told.thinned_moments, 180 + 12 * 144 - 6 + 360);
}

#[test]
fn the_last_picture_of_a_target_outlives_its_neighbours() {
    let place = Place::new("last");
    let history = History::open(&place.file(), LIMITS).unwrap();
    for seconds in (0..3 * 3600).step_by(20) {
        let mut picture = leaking_server(seconds);
        if seconds >= 1220 {
            picture.targets[0].ended = Some("killed for memory".to_owned());
        }
        history.append(&picture).unwrap();
    }
    let moments = history.moments(at(1200)..at(1260)).unwrap();
    assert_eq!(moments, [at(1200), at(1220)]);
}

#[test]
fn a_full_history_drops_the_smallest_sites_first_and_stays_within_its_size() {
    let place = Place::new("full");
    let limits = Limits { bytes: 4 << 20 };
    let history = History::open(&place.file(), limits).unwrap();
    let mut largest = 0;
    // Other sites every time: stacks are what fills it.
    for i in 0..400 {
        history.append(&large(i * 60, 60, i / 10)).unwrap();
        largest = largest.max(fs::metadata(place.file()).unwrap().len());
    }
    eprintln!("largest {largest}, {:?}, used {:?}", history.told(), history.used());
    assert!(largest <= limits.bytes, "{largest}");
    let told = history.told().unwrap();
    assert!(told.dropped_sites > 1000 && told.moments > 50, "{told:?}");
    // The newest is whole, an old one has its largest sites and counts the rest as other.
    let newest = history.picture_at(at(400 * 60)).unwrap().unwrap();
    assert_eq!(newest.targets[0].sites.len(), 60);
    let old = history.picture_at(at(4 * 3600)).unwrap().unwrap();
    let sites = &old.targets[0].sites;
    assert!(!sites.is_empty() && sites.len() < 60 && old.targets[0].other.0 > 0, "{}", sites.len());
    let whole = large(240 * 60, 60, 24);
    assert_eq!(sites[0].id, whole.targets[0].sites[0].id, "the largest stay");
    assert!(sites.iter().all(|site| !site.stack.frames.is_empty()), "with their stacks");
    drop(history);
    History::open(&place.file(), limits).unwrap();
}

#[test]
fn nothing_that_was_committed_is_lost_by_kill_9() {
    let place = Place::new("kill");
    let program = std::env::current_exe().unwrap();
    for round in 0..4 {
        let mut child = Command::new(&program)
            .args(["--exact", "history::tests::writes_until_it_is_killed", "--nocapture"])
            .env("PROFILER_TEST_HISTORY", place.file())
            .env("PROFILER_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut committed = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while committed.len() < 25 + round as usize * 7 {
            let line = lines.next().unwrap().unwrap();
            if let Some(seconds) = line.strip_prefix("committed ") {
                committed.push(at(seconds.parse().unwrap()));
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it was killed.
        committed.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| Some(at(line.strip_prefix("committed ")?.parse().ok()?))),
        );
        for history in [History::read(&place.file()).unwrap(), History::open(&place.file(), LIMITS).unwrap()]
        {
            let kept = history.moments(..).unwrap();
            assert!(committed.iter().all(|moment| kept.contains(moment)), "round {round}");
            let picture = history.picture_at(*committed.last().unwrap()).unwrap().unwrap();
            assert!(picture.targets[0].sites.iter().all(|site| !site.stack.frames.is_empty()));
        }
    }
}

#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("PROFILER_TEST_HISTORY") else { return };
    let round: u64 = std::env::var("PROFILER_TEST_ROUND").unwrap().parse().unwrap();
    let history = History::open(path.as_ref(), LIMITS).unwrap();
    for i in 0..600 {
        // All within an hour, so that nothing is thinned out.
        let seconds = round * 600 + i;
        history.append(&large(seconds, 40, i)).unwrap();
        println!("committed {seconds}");
    }
}

#[test]
fn the_bytes_on_disk_mean_the_same_to_every_build() {
    // If this fails, old files can't be read any more: raise store::FORMAT, and only then change the number here.
    let (record, _) = Record::of(&leaking_server(0));
    let mut plain = postcard::to_stdvec(&record).unwrap();
    plain.extend(postcard::to_stdvec(&*stack("aa", 1, &["one", "two"])).unwrap());
    let hash = plain.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    assert_eq!((store::FORMAT, plain.len(), hash), (2, 1047, 6_129_390_405_081_033_743));
}

#[test]
fn a_difference_of_independent_estimates_has_the_interval_of_both() {
    let estimate = |value, low, high| Estimate { value, low, high };
    let mut before = leaking_server(0);
    let mut after = leaking_server(600);
    before.targets[0].sites[0].live_bytes = estimate(100.0, 70.0, 140.0);
    after.targets[0].sites[0].live_bytes = estimate(300.0, 260.0, 330.0);
    let comparison = compare(&before, &after, Identity::Site);
    let row = &comparison.targets[0].rows[0];
    assert_eq!(&*row.id, "a1b2c3d4e5f6");
    // 3-4-5 triangles: below 40 and 40, above 30 and 30.
    let expected = estimate(200.0, 200.0 - 3200_f64.sqrt(), 200.0 + 1800_f64.sqrt());
    assert!((row.live.difference.low - expected.low).abs() < 1e-9);
    assert!((row.live.difference.high - expected.high).abs() < 1e-9);
    assert!(row.live.is_sure() && comparison.targets[0].same_run);
    assert!(comparison.targets[0].rows[1..].iter().all(|row| !row.live.is_sure()));
}

#[test]
fn sites_of_two_builds_are_matched_by_name_and_new_and_gone_ones_are_told() {
    let before = leaking_server(0);
    let mut after = leaking_server(600);
    let report = &mut after.targets[0];
    report.since = at(500);
    report.sites = vec![
        // The same functions at other places, in two inlined copies.
        site(
            "111111111111",
            stack("cc", 0x900, &["parse_header", "handle", "main"]),
            Verdict::Steady,
            1000.0,
        ),
        site(
            "222222222222",
            stack("cc", 0x950, &["parse_header", "handle", "main"]),
            Verdict::Growing,
            3000.0,
        ),
        site("333333333333", stack("cc", 0x980, &["brand_new", "main"]), Verdict::Growing, 9e6),
    ];
    let by_name = compare(&before, &after, Identity::Name);
    let rows = &by_name.targets[0].rows;
    assert!(!by_name.targets[0].same_run);
    let ids: Vec<_> = rows.iter().map(|row| (&*row.id, row.sites)).collect();
    let gone = [("ba9876543210", (1, 0)), ("0123456789ab", (1, 0))];
    assert_eq!(ids, [("333333333333", (0, 1)), gone[0], gone[1], ("111111111111", (1, 2))]);
    let parsed = &rows[3];
    assert_eq!(parsed.verdicts, (Some(Verdict::Leaking), Some(Verdict::Growing)));
    assert!((parsed.live.after.unwrap().value - 4000.0).abs() < 1e-9);
    assert!(rows[0].live.before.is_none() && rows[0].live.is_sure());
    // Two MiB that are gone may be the 3.7 samples that nobody has seen: at 512 KiB a sample, that is 1.8 MiB.
    assert!(!rows[1].live.is_sure() && rows[1].live.after.is_none());
    let by_site = compare(&before, &after, Identity::Site);
    assert_eq!(by_site.targets[0].rows.len(), 6);
}
