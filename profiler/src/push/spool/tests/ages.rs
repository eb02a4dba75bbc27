//! How old batches are taken for, whatever is done to the clock.

use std::time::Duration;

use super::{
    super::{BatchId, Limits, Spool},
    at, lines, log_of,
    simulated::Simulated,
};

const LIMITS: Limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1000) };
/// When the clock is right.
const TODAY: u64 = 1_790_000_000;

fn open(disk: &Simulated) -> Spool<Simulated> {
    Spool::with_disk(disk.clone(), LIMITS).unwrap()
}

fn append(spool: &Spool<Simulated>, second: u64) -> BatchId {
    spool.append(at(second), 2, &lines(1, 2)).unwrap()
}

/// Lets this time pass.
fn pass(disk: &Simulated, seconds: u64) {
    disk.state().uptime += Duration::from_secs(seconds);
}

#[test]
fn a_batch_expires_when_the_time_has_passed_and_not_when_the_clock_says_so() {
    let disk = Simulated::default();
    let spool = open(&disk);
    // No clock at first, then a right one, one from the future, one that was set back.
    let ids = [5, TODAY, TODAY + 900_000_000, TODAY - 5000].map(|second| {
        let id = append(&spool, second);
        pass(&disk, 10);
        id
    });
    spool.expire();
    assert_eq!(spool.ids(10), ids);
    pass(&disk, 960);
    spool.expire();
    assert_eq!(spool.ids(10), ids, "as old as the limit is not older");
    for number in 1..=4 {
        pass(&disk, if number == 1 { 1 } else { 10 });
        spool.expire();
        assert_eq!(spool.ids(10), ids[number..]);
    }
    assert_eq!(spool.figures().dropped_expired, 8);
}

#[test]
fn what_is_found_keeps_the_age_that_its_name_tells_and_no_time_counts_in_which_nobody_was_here() {
    let disk = Simulated::default();
    let spool = open(&disk);
    let ids = [TODAY, TODAY + 400, TODAY + 900].map(|second| append(&spool, second));
    drop(spool);
    pass(&disk, 5_000_000);
    let spool = open(&disk);
    spool.expire();
    assert_eq!(spool.ids(10), ids, "900, 500 and 0 seconds old");
    pass(&disk, 101);
    spool.expire();
    assert_eq!(spool.ids(10), ids[1..]);
    pass(&disk, 400);
    spool.expire();
    assert_eq!(spool.ids(10), ids[2..]);
    pass(&disk, 500);
    spool.expire();
    assert_eq!(spool.ids(10), []);
}

#[test]
fn what_was_spooled_before_the_clock_was_set_is_there_after_any_opening() {
    let disk = Simulated::default();
    let spool = open(&disk);
    let mut ids = [5, 15, TODAY, TODAY + 600].map(|second| append(&spool, second)).to_vec();
    drop(spool);
    for _ in 0..3 {
        let spool = open(&disk);
        spool.expire();
        assert_eq!(spool.ids(10), ids);
    }
    let spool = open(&disk);
    pass(&disk, 391);
    spool.expire();
    // As old as the first after the clock was set, and ten seconds more.
    assert_eq!(spool.ids(10), ids.split_off(1));
}

#[test]
fn what_is_left_of_an_old_batch_makes_no_other_one_older() {
    let disk = Simulated::default();
    let spool = open(&disk);
    let ids = [TODAY, TODAY + 900, TODAY + 100].map(|second| append(&spool, second));
    drop(spool);
    let spool = open(&disk);
    pass(&disk, 150);
    spool.expire();
    assert_eq!(spool.ids(10), ids[1..], "1050, 150 and 950 seconds old");
    pass(&disk, 51);
    spool.expire();
    assert_eq!(spool.ids(10), ids[1..2]);
}

#[test]
fn every_loss_is_told_with_its_number_and_place_and_no_more_than_once_an_hour() {
    let disk = Simulated::default();
    let full = Limits { bytes: 512, ..LIMITS };
    let log = log_of(|| {
        let spool = Spool::with_disk(disk.clone(), full).unwrap();
        // The first two make room for the third.
        for _ in 0..3 {
            append(&spool, TODAY);
        }
        pass(&disk, 3599);
        spool.expire();
        append(&spool, TODAY);
        pass(&disk, 1);
        append(&spool, TODAY);
        let last = append(&spool, TODAY);
        let name = disk.state().names().into_keys().next().unwrap();
        disk.state().damage(&name, |bytes| bytes.fill(0));
        assert_eq!(spool.read(last).unwrap(), None);
    });
    let told: Vec<_> = log.lines().filter_map(|line| Some(line.split_once("ERROR")?.1)).collect();
    let parts = [
        " 2 points are lost, the oldest first",
        " 2 points in the spool",
        " 4 points are lost",
        "are damaged",
    ];
    assert_eq!(told.len(), parts.len(), "{log}");
    for (line, part) in told.iter().zip(parts) {
        assert!(line.contains(part) && line.contains("/simulated"), "{part}: {log}");
    }
}
