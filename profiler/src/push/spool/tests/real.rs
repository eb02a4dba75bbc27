//! What lies in a directory, and what becomes of it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    super::{Disk as _, Limits, Spool, SpoolError, SpoolFigures, TEMPORARY},
    at, lines,
    simulated::{Fault, Simulated},
};

const WIDE: Limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1000) };

/// A directory of this test, not yet made; gone when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("profiler-spool-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Spool {
        Spool::open(&self.0.join("spool"), WIDE).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("spool").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("spool")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// What zcat shows.
fn zcat(path: &Path) -> Option<String> {
    let shown = Command::new("zcat").arg(path).output().ok()?;
    shown.status.success().then(|| String::from_utf8(shown.stdout).unwrap())
}

#[test]
fn a_batch_is_a_file_that_zcat_shows_and_nobody_else_may_read() {
    let place = Place::new();
    let spool = place.open();
    let id = spool.append(at(1_700_000_000), 3, &lines(0, 3)).unwrap();
    let name = "01700000000000000000-0000000000-3.lp.gz";
    assert_eq!(place.names(), [name, "lock"]);
    assert_eq!(zcat(&place.file(name)).unwrap(), lines(0, 3));
    for (path, mode) in [(place.file(name), 0o600), (place.file(""), 0o700), (place.0.clone(), 0o700)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    assert_eq!(spool.read(id).unwrap().unwrap(), lines(0, 3));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&place.file(name).metadata().unwrap());
    let figures = SpoolFigures { batches: 1, points: 3, bytes: blocks * 512, ..spool.figures() };
    assert_eq!(spool.figures(), figures);
    assert_eq!(figures.oldest, Some(at(1_700_000_000)));
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.figures(), figures, "the same after opening");
    spool.remove(id).unwrap();
    assert_eq!((place.names(), spool.figures()), (vec!["lock".to_owned()], SpoolFigures::default()));
    assert_eq!(spool.read(id).unwrap(), None);
    spool.remove(id).unwrap();
}

#[test]
fn what_somebody_else_put_there_is_left_alone_and_never_waited_for() {
    let place = Place::new();
    let (written, name) =
        (place.0.join("elsewhere"), |number: u32| format!("{:020}-{number:010}-2.lp.gz", 5_000_000_000_u64));
    drop(place.open());
    fs::write(&written, "not for us").unwrap();
    fs::write(place.file("notes.txt"), "mine").unwrap();
    fs::create_dir(place.file(&name(1))).unwrap();
    symlink(&written, place.file(&name(2))).unwrap();
    symlink(&written, place.file(TEMPORARY)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.file(&name(3)), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let spool = place.open();
    assert_eq!(spool.figures(), SpoolFigures::default());
    let id = spool.append(at(5), 2, &lines(0, 2)).unwrap();
    assert_eq!(id.sequence, 4, "no name is used twice");
    assert_eq!(fs::read_to_string(&written).unwrap(), "not for us");
    assert_eq!(
        place.names(),
        [name(1), name(2), name(3), name(4), "lock".to_owned(), "notes.txt".to_owned()]
    );
    // They may also come later, under the name of a batch.
    for (id, link) in [(id, true), (spool.append(at(5), 2, &lines(1, 2)).unwrap(), false)] {
        let path = place.file(&name(id.sequence));
        fs::remove_file(&path).unwrap();
        match link {
            true => symlink(&written, &path).unwrap(),
            false => rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .unwrap(),
        }
        assert_eq!(spool.read(id).unwrap(), None);
    }
    assert_eq!((spool.figures().batches, spool.figures().dropped_corrupt), (0, 4));
}

#[test]
fn a_damaged_file_is_set_aside_and_the_newest_of_them_are_kept() {
    let place = Place::new();
    let spool = place.open();
    let ids: Vec<_> = (0..20).map(|number| spool.append(at(5), 2, &lines(number, 2)).unwrap()).collect();
    let good = spool.append(at(5), 2, &lines(20, 2)).unwrap();
    for (number, id) in ids.iter().enumerate() {
        let path = place.file(&format!("{:020}-{:010}-2.lp.gz", id.time_ns, id.sequence));
        let whole = fs::read(&path).unwrap();
        match number % 4 {
            0 => fs::write(&path, "").unwrap(),
            1 => fs::write(&path, &whole[..whole.len() - 1]).unwrap(),
            2 => fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(spool.read(*id).unwrap(), None);
    }
    assert_eq!(spool.read(good).unwrap().unwrap(), lines(20, 2));
    let figures = spool.figures();
    assert_eq!((figures.batches, figures.points, figures.dropped_corrupt), (1, 2, 40));
    let bad = |names: Vec<String>| names.into_iter().filter(|name| name.ends_with("-2.lp.gz.bad")).count();
    assert_eq!(bad(place.names()), 15);
    drop(spool);
    for number in 100..110 {
        fs::write(place.file(&format!("{:020}-{number:010}-2.lp.gz.bad", 5_000_000_000_u64)), "").unwrap();
    }
    let spool = place.open();
    let kept = place.names();
    assert!(kept.iter().any(|name| name.contains("-0000000109-")), "{kept:?}");
    assert_eq!(bad(kept), 16);
    assert_eq!(spool.figures().batches, 1);
}

#[test]
fn the_clock_may_go_back_and_the_order_stays_that_of_appending() {
    let spool = Spool::with_disk(Simulated::default(), WIDE).unwrap();
    let ids = [5000, 9_000_000, 4000, 5000].map(|second| spool.append(at(second), 2, &lines(1, 2)).unwrap());
    assert_eq!(spool.ids(10), ids);
    assert_eq!(spool.ids(2), ids[..2]);
    assert_eq!((spool.oldest(), spool.newest()), (Some(ids[0]), Some(ids[3])));
}

#[test]
fn the_oldest_make_room_for_a_new_one_and_are_counted() {
    let disk = Simulated::default();
    let limits = Limits { bytes: 4 * 512, ..WIDE };
    let spool = Spool::with_disk(disk.clone(), limits).unwrap();
    let ids: Vec<_> = (0..7).map(|number| spool.append(at(5), 2, &lines(number, 2)).unwrap()).collect();
    assert_eq!((spool.ids(10), spool.figures().dropped_full), (ids[3..].to_vec(), 6));
    let noise: String = (0..200).map(|number| lines(number * 7919 + 3, 1)).collect();
    let error = spool.append(at(5), 200, &noise).unwrap_err();
    assert!(matches!(error, SpoolError::TooLarge { limit: 2048, .. }), "{error}");
    assert_eq!(
        (spool.ids(10), disk.state().names().len()),
        (ids[3..].to_vec(), 4),
        "nothing was dropped for it"
    );
    drop(spool);
    let spool = Spool::with_disk(disk, Limits { bytes: 1024, ..WIDE }).unwrap();
    assert_eq!(
        (spool.ids(10), spool.figures().dropped_full),
        (ids[5..].to_vec(), 4),
        "a limit that was lowered"
    );
}

#[test]
fn a_full_disk_is_told_from_an_ill_one() {
    for (errno, no_space) in
        [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false), (libc::EROFS, false)]
    {
        // Every call of an append but the last, which is not needed any more.
        for (offset, call) in ["create", "write", "write"].into_iter().enumerate() {
            let disk = Simulated::default();
            let spool = Spool::with_disk(disk.clone(), WIDE).unwrap();
            let calls = disk.state().calls;
            disk.state().faults.insert(calls + offset, Fault { errno, performed: false });
            let error = spool.append(at(5), 2, &lines(0, 2)).unwrap_err();
            assert_eq!(error.is_no_space(), no_space, "{error}");
            assert!(error.to_string().contains(&format!("can't {call} /simulated/append.tmp: ")), "{error}");
            assert!(disk.state().names().is_empty());
            spool.append(at(5), 2, &lines(0, 2)).unwrap();
            assert_eq!(spool.figures().points, 2);
        }
    }
}

#[test]
fn the_last_number_of_all_is_used_again_with_later_times() {
    let disk = Simulated::default();
    let name = format!("{:020}-{:010}-2.lp.gz", 7_000_000_000_u64, u32::MAX);
    disk.create(&name).unwrap();
    let spool = Spool::with_disk(disk, WIDE).unwrap();
    let ids = [5, 5, 9].map(|second| spool.append(at(second), 2, &lines(1, 2)).unwrap());
    assert_eq!(spool.ids(10)[1..], ids);
    assert_eq!(ids.map(|id| id.time_ns), [7_000_000_001, 7_000_000_002, 9_000_000_000]);
}

#[test]
fn a_second_user_is_told_who_the_first_is_and_what_to_do() {
    let place = Place::new();
    let spool = place.open();
    let error = Spool::open(&place.file(""), WIDE).unwrap_err();
    let (path, pid) = (place.file(""), std::process::id());
    let told =
        format!("the spool {} is used by another profiler (pid {pid}): give --influx-spool ", path.display());
    assert!(error.to_string().starts_with(&told), "{error}");
    fs::remove_file(place.file("lock")).unwrap();
    let error = Spool::open(&place.file(""), WIDE).unwrap_err();
    assert!(matches!(error, SpoolError::Locked { pid: None, .. }), "nothing says who has it: {error}");
    assert!(!place.file("lock").exists());
    drop(spool);
    drop(place.open());
}

#[test]
fn a_lock_that_is_somebody_elses_file_is_not_written_to() {
    let place = Place::new();
    drop(place.open());
    let (written, lock) = (place.0.join("elsewhere"), place.file("lock"));
    fs::write(&written, "12").unwrap();
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&written, &lock).unwrap();
    let error = Spool::open(&place.file(""), WIDE).unwrap_err();
    assert!(error.to_string().contains("another file's name"), "{error}");
    assert_eq!(fs::read_to_string(&written).unwrap(), "12");
    // It is that file's only name now, and what is in it was never ours.
    fs::remove_file(&written).unwrap();
    for (text, ours) in [("my notes", false), ("12345678901234567", false), ("123\n", true), ("\0\0\0", true)]
    {
        fs::write(&lock, text).unwrap();
        drop(place.open());
        let pid = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&lock).unwrap(), if ours { pid.as_str() } else { text });
    }
}

#[test]
fn a_file_beside_the_batches_is_written_behind_its_end_and_is_none_of_somebody_else() {
    let place = Place::new();
    let spool = place.open();
    let write =
        |text: &str| spool.open_for_append("notes").and_then(|mut file| file.write_all(text.as_bytes()));
    let (mut one, mut other) =
        (spool.open_for_append("notes").unwrap(), spool.open_for_append("notes").unwrap());
    one.write_all(b"one ").unwrap();
    other.write_all(b"other ").unwrap();
    write("third").unwrap();
    assert_eq!(fs::read_to_string(place.file("notes")).unwrap(), "one other third");
    assert_eq!(place.file("notes").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::hard_link(place.file("notes"), place.file("again")).unwrap();
    write("x").unwrap_err();
    fs::remove_file(place.file("notes")).unwrap();
    symlink(place.file("again"), place.file("notes")).unwrap();
    write("x").unwrap_err();
    fs::remove_file(place.file("notes")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.file("notes"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    write("x").unwrap_err();
    assert_eq!(fs::read_to_string(place.file("again")).unwrap(), "one other third");
}

#[test]
fn no_directory_is_followed_to_elsewhere_and_no_file_taken_for_one() {
    let place = Place::new();
    drop(place.open());
    symlink(place.file(""), place.0.join("link")).unwrap();
    fs::write(place.0.join("file"), "").unwrap();
    for name in ["link", "file"] {
        let error = Spool::open(&place.0.join(name), WIDE).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    fs::remove_file(place.file("lock")).unwrap();
    symlink(place.0.join("file"), place.file("lock")).unwrap();
    assert!(matches!(Spool::open(&place.file(""), WIDE), Err(SpoolError::Io { .. })));
}

#[test]
fn two_threads_share_it_and_every_point_is_accounted_for() {
    let place = Place::new();
    let spool = Arc::new(Spool::open(&place.file(""), Limits { bytes: 64 << 10, ..WIDE }).unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let sender = {
        let (spool, done) = (Arc::clone(&spool), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut sent = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                match spool.oldest() {
                    Some(id) => {
                        let dropped = spool.read(id).unwrap().is_none();
                        spool.remove(id).unwrap();
                        sent += u64::from(!dropped) * u64::from(id.points);
                    }
                    None if last => return sent,
                    None => std::thread::yield_now(),
                }
            }
        })
    };
    let mut appended = 0;
    for number in 0..300 {
        let points = 1 + number % 5;
        let batch = spool.append(SystemTime::now(), points, &lines(number as usize, points)).unwrap();
        appended += u64::from(batch.points);
    }
    done.store(true, Ordering::Release);
    let sent = sender.join().unwrap();
    let figures = spool.figures();
    assert_eq!((figures.batches, figures.points, figures.bytes), (0, 0, 0));
    // What is dropped while it is being sent counts as both.
    assert!(sent + figures.dropped_full >= appended, "{sent} {figures:?} of {appended}");
    assert_eq!((figures.dropped_corrupt, place.names()), (0, vec!["lock".to_owned()]));
}
