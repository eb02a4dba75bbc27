//! A disk without room.

use std::{ffi::CString, io::Write as _, os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use crate::{
    DATABASE, MENDED,
    common::{
        LONG, Scratch,
        influxd::{Influxd, quiet_port},
        relay::Relay,
        skip, within,
    },
    ends::{last_word, number_before},
    follow_each_other, idle, metric, push,
    spooled::{Spooled, Watch},
    until, until_drained,
};

/// A small file system, gone when it is dropped.
struct Small(Scratch);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let directory = Scratch::directory("small");
        let (path, options) = (name(directory.path()), CString::new(format!("size={size},mode=0700")));
        let options = options.expect("no zero in it");
        let kind = c"tmpfs".as_ptr();
        // SAFETY: all of them are texts that end in zero and live until the call is over.
        let result = unsafe { libc::mount(kind, path.as_ptr(), kind, 0, options.as_ptr().cast()) };
        if result != 0 {
            skip(&format!("no file system can be mounted: {}", std::io::Error::last_os_error()));
            return None;
        }
        Some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // SAFETY: a text that ends in zero and lives until the call is over.
        unsafe { libc::umount2(name(self.path()).as_ptr(), libc::MNT_DETACH) };
    }
}

fn name(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero in it")
}

#[test]
fn a_full_disk_costs_no_point_while_memory_has_room() {
    let Some(disk) = Small::new("256k") else { return };
    let Some(server) = Influxd::with_database("", DATABASE) else { return };
    let (target, spool) = (idle(), disk.path().join("spool"));
    let mut relay = Relay::to(server.address());
    relay.down();
    let watch = Watch::over(&spool);
    // The disk has room for 60 batches. It is asked again after 5 s: what waits then has to fit.
    let watching = push(&target, &relay.url(), &spool, "250ms", &[]);
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes > 20_000.0);
    assert!(metric(&watching, "profiler_influx_spool_failures_total") >= 1.0);
    let full = Spooled::now(&spool);
    assert!(!full.names.is_empty());
    relay.up();
    until_drained(&watching, MENDED);
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes == 0.0);
    // Now somebody else takes all the room, and gives it back.
    let hog = disk.path().join("hog");
    let mut file = std::fs::File::create(&hog).expect("there is room again");
    while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);
    let failures = metric(&watching, "profiler_influx_spool_failures_total");
    relay.down();
    until(&watching, LONG, "profiler_influx_spool_failures_total", |count| count > failures);
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes > 5_000.0);
    std::fs::remove_file(&hog).expect("it is ours");
    // The disk is asked again, and takes what memory had.
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes == 0.0);
    let kept = Spooled::now(&spool);
    assert!(!kept.names.is_empty(), "the spool works again");
    relay.up();
    until_drained(&watching, MENDED);
    let missed = metric(&watching, "profiler_influx_windows_missed_total");
    let finished = watching.finish();
    assert!(finished.status.success());
    let told = finished.complaints.iter().filter(|line| line.contains("no space left")).count();
    // Once each time. The disk may not have been asked between the two; a file that goes may leave room for one more.
    assert!((1..=4).contains(&told), "{:#?}", finished.complaints);
    let there = server.everything(DATABASE);
    let mut told = watch.end().book;
    told.extend(relay.acknowledged());
    there.has_all_of(&told);
    // Of what was in memory only, the rhythm tells.
    follow_each_other(&there.times("profiler_target"), Duration::from_millis(250), missed);
    println!(
        "{} points, {} of them in the spool when the disk was full",
        there.points.len(),
        full.book.points.len()
    );
    assert!(within(LONG, || Spooled::now(&spool).names.is_empty()));
}

#[test]
fn what_neither_disk_nor_server_took_is_said_to_be_lost() {
    let Some(disk) = Small::new("128k") else { return };
    let (target, spool) = (idle(), disk.path().join("spool"));
    let url = format!("http://127.0.0.1:{}", quiet_port());
    let watching = push(&target, &url, &spool, "100ms", &[]);
    until(&watching, LONG, "profiler_influx_memory_bytes", |bytes| bytes > 20_000.0);
    let finished = watching.finish();
    assert!(finished.status.success());
    let word = last_word(&finished);
    let waiting = Spooled::now(&spool).book.points.len() as u64;
    assert_eq!(number_before(word, " wait in"), waiting, "{word}");
    assert!(number_before(word, " are lost: the spool's disk") > 5, "{word}");
}
