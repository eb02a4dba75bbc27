//! The worker survives what targets can make, or dies of it alone: whoever asks it goes on.

#[path = "common/captured.rs"]
mod captured;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use captured::{Captured, build, capture, descriptor, directory, fresh, limits, must, space};
use profiler::{
    stack::End,
    worker::{FileKey, Limits, PerfMapError, RawUnwound, Space, Worker, open_perf_map},
};

/// A program with a known stack, and a worker that knows its files.
struct Known {
    worker: Worker,
    captured: Captured,
    space: Space,
    program: PathBuf,
    key: FileKey,
}

fn known(limits: Limits) -> Option<Known> {
    let program = build("gcc", "chain.c", &["-O2", "-g", "-fomit-frame-pointer", "-pthread"])?;
    let captured = capture(&program, &[], true, 16 * 1024);
    let mut worker = Worker::new(limits);
    let (space, names) = space(&mut worker, &captured.maps, &|_| None);
    let key = *names.iter().find(|(_, path)| **path == program).unwrap().0;
    Some(Known { worker, captured, space, program, key })
}

impl Known {
    fn unwind(&mut self) -> RawUnwound {
        self.worker.unwind(&self.space, &self.captured.registers, true, &self.captured.stack)
    }

    fn is_well(&mut self) -> bool {
        self.unwind().end == End::Complete
    }

    /// The names of the innermost frame.
    fn innermost(&mut self) -> Vec<String> {
        let frame = self.unwind().frames[0];
        let functions = self.worker.symbolise(self.key, &[frame.offset]).remove(0);
        functions.iter().map(|function| function.name.to_string()).collect()
    }

    fn signal(&self, signal: i32) {
        let id = self.worker.process_id().expect("it runs");
        // SAFETY: our own child, which wasn't reaped.
        assert_eq!(unsafe { libc::kill(id.cast_signed(), signal) }, 0);
    }
}

fn impatient() -> Limits {
    Limits { unwind: Duration::from_millis(500), symbolise: Duration::from_secs(3), ..limits() }
}

/// The value of a line of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
    line.split_once(':').unwrap().1.trim().replace('\t', " ")
}

#[test]
fn killed_in_between_it_is_started_again_and_nobody_notices() {
    let Some(mut known) = known(limits()) else { return };
    let before = known.unwind();
    assert_eq!(before.end, End::Complete);
    for round in 1..4 {
        known.signal(libc::SIGKILL);
        assert_eq!(known.unwind(), before, "round {round}");
    }
    let figures = known.worker.figures();
    assert_eq!((figures.started, figures.crashed, figures.failed), (4, 3, 0), "{figures:?}");
}

#[test]
fn a_question_that_takes_too_long_is_given_up_and_the_next_is_answered() {
    let Some(mut known) = known(impatient()) else { return };
    assert!(known.is_well());
    known.signal(libc::SIGSTOP);
    let asked = Instant::now();
    assert_eq!(known.unwind().end, End::Failed);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert!(known.is_well(), "{:?}", known.worker.figures());
    let figures = known.worker.figures();
    assert_eq!((figures.started, figures.killed_for_time, figures.failed), (2, 1, 1), "{figures:?}");
}

#[test]
fn what_has_killed_it_twice_is_not_asked_again() {
    let Some(mut known) = known(impatient()) else { return };
    assert!(known.is_well());
    for _ in 0..2 {
        known.signal(libc::SIGSTOP);
        assert_eq!(known.unwind().end, End::Failed);
        // For it to run again.
        known.worker.symbolise(known.key, &[0]);
    }
    let asked = Instant::now();
    assert_eq!(known.unwind().end, End::Failed);
    assert!(asked.elapsed() < Duration::from_millis(100));
    assert_eq!(known.worker.figures().quarantined, 1);
    known.space.id += 1 << 40;
    assert!(known.is_well(), "another set of modules");
}

#[test]
fn a_worker_that_can_not_be_started_costs_no_time() {
    let limits = Limits { program: PathBuf::from("/nonexistent/profiler"), ..limits() };
    let Some(mut known) = known(limits) else { return };
    let asked = Instant::now();
    for _ in 0..1000 {
        assert_eq!(known.unwind().end, End::Failed);
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let figures = known.worker.figures();
    assert!((1..20).contains(&figures.unstartable) && figures.failed == 1000, "{figures:?}");
}

#[test]
fn it_has_no_rights_and_nothing_of_ours_open_and_ends_with_us() {
    let open_in_us = File::open("/proc/self/exe").unwrap();
    let Some(mut known) = known(limits()) else { return };
    assert!(known.is_well());
    let pid = known.worker.process_id().unwrap();
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, capabilities), "0000000000000000");
    }
    assert_eq!(status(pid, "Seccomp"), "2");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } == 0 {
        assert_eq!(status(pid, "CapBnd"), "0000000000000000");
        assert_eq!(status(pid, "Uid"), "65534 65534 65534 65534");
        assert_eq!(status(pid, "Groups"), "");
        let mut open = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            open.push(std::fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned());
        }
        let ours: Vec<_> = open.iter().filter(|name| name.contains("/profiler")).collect();
        assert!(ours.is_empty(), "{ours:?} {open_in_us:?}");
        let sockets = open.iter().filter(|name| name.starts_with("socket:")).count();
        assert_eq!((sockets, open.iter().filter(|name| *name == "/dev/null").count()), (1, 2), "{open:?}");
    }
    drop(known);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn files_that_nobody_else_may_read_are_named_too() {
    let Some(mut known) = known(limits()) else { return };
    std::fs::set_permissions(&known.program, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(known.innermost(), ["allocates"]);
    assert_eq!(known.worker.figures().started, 1);
}

#[test]
fn deleted_files_are_read_on() {
    let Some(mut known) = known(limits()) else { return };
    std::fs::remove_file(&known.program).unwrap();
    assert_eq!(known.innermost(), ["allocates"]);
}

#[test]
fn a_file_cut_short_while_it_is_in_use_ends_one_life_at_most() {
    let Some(mut known) = known(impatient()) else { return };
    assert_eq!(known.innermost(), ["allocates"]);
    let offset = known.unwind().frames[0].offset;
    OpenOptions::new().write(true).open(&known.program).unwrap().set_len(5000).unwrap();
    // Places that it hasn't looked at yet.
    for distance in 0..50 {
        known.worker.symbolise(known.key, &[offset.saturating_sub(distance * 16)]);
    }
    let figures = known.worker.figures();
    assert!(figures.crashed + figures.killed_for_time <= 2, "{figures:?}");
    known.space.id += 1 << 40;
    std::thread::sleep(Duration::from_millis(300));
    let unwound = known.unwind();
    assert_ne!(unwound.end, End::Failed, "{:?}", known.worker.figures());
}

/// Where a section's header is in a file.
fn section_header(bytes: &[u8], name: &str) -> usize {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let short = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize;
    let (table, count, names) = (word(40), short(60), short(62));
    let names = word(table + 64 * names + 24);
    (0..count)
        .map(|number| table + 64 * number)
        .find(|at| {
            let start = names + u32::from_le_bytes(bytes[*at..at + 4].try_into().unwrap()) as usize;
            bytes[start..].starts_with(name.as_bytes()) && bytes[start + name.len()] == 0
        })
        .unwrap_or_else(|| panic!("no section {name}"))
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// Ways to damage a program.
fn damages(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut damaged = Vec::new();
    for length in [0, 3, 63, 64, 200, 4096, whole.len() / 2, whole.len() - 100] {
        damaged.push((format!("cut to {length}"), whole[..length].to_vec()));
    }
    for section in [".debug_info", ".debug_line", ".symtab", ".strtab", ".eh_frame", ".debug_abbrev"] {
        let at = section_header(whole, section);
        for (what, field, value) in [
            ("offset", 24, 1 << 60),
            ("offset", 24, u64::MAX),
            ("size", 32, 1 << 60),
            ("size", 32, u64::MAX),
            ("size", 32, 0),
            ("compressed", 8, 0x800),
            ("entry size", 56, 0),
        ] {
            let mut bytes = whole.to_vec();
            put(&mut bytes, at + field, value);
            damaged.push((format!("{section}: {what} {value:#x}"), bytes));
        }
    }
    // Program headers, byte by byte.
    for at in (64..64 + 13 * 56).step_by(8) {
        let mut bytes = whole.to_vec();
        put(&mut bytes, at, 1 << 60);
        damaged.push((format!("word {at}"), bytes));
    }
    damaged
}

/// With `.debug_info` replaced by what zlib makes so many zeroes of.
fn bomb(whole: &[u8], length: u64, stated: u64) -> Vec<u8> {
    // One MiB of zeroes, flushed so that what it becomes may be repeated. (The checksum at the end is missing: it is late.)
    let mut zlib = flate2::Compress::new(flate2::Compression::best(), true);
    let zeroes = vec![0; 1 << 20];
    let mut packed = Vec::with_capacity(1 << 16);
    zlib.compress_vec(&zeroes, &mut packed, flate2::FlushCompress::Full).unwrap();
    let mut again = Vec::with_capacity(1 << 16);
    zlib.compress_vec(&zeroes, &mut again, flate2::FlushCompress::Full).unwrap();
    assert!(again.len() < 1 << 12);
    packed.extend(again.repeat((length >> 20) as usize - 1));
    let mut bytes = whole.to_vec();
    let at = section_header(&bytes, ".debug_info");
    let start = bytes.len() as u64;
    // Elf64_Chdr: ELFCOMPRESS_ZLIB, reserved, size, alignment.
    for word in [1, stated, 1] {
        bytes.extend_from_slice(&u64::to_le_bytes(word));
    }
    bytes.extend_from_slice(&packed);
    put(&mut bytes, at + 8, 0x800);
    put(&mut bytes, at + 24, start);
    put(&mut bytes, at + 32, 24 + packed.len() as u64);
    bytes
}

fn write(bytes: &[u8]) -> PathBuf {
    let path = fresh("damaged");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn damaged_files_have_no_names_and_the_next_file_has() {
    let Some(mut known) = known(Limits { memory: 1 << 30, ..impatient() }) else { return };
    let whole = std::fs::read(&known.program).unwrap();
    let offset = known.unwind().frames[0].offset;
    let mut damaged = damages(&whole);
    damaged.push(("a bomb".to_owned(), bomb(&whole, 3 << 30, 3 << 30)));
    damaged.push(("a bomb that lies".to_owned(), bomb(&whole, 1 << 20, 1 << 60)));
    for (what, bytes) in damaged {
        if what.contains("bomb") {
            // It may be resting after the last deaths.
            std::thread::sleep(Duration::from_secs(3));
        }
        let path = write(&bytes);
        let debug =
            known.worker.add_file(descriptor(&known.program), Some(descriptor(&path)), Arc::from("x"));
        let key = known.worker.add_file(descriptor(&path), None, Arc::from("x"));
        let crashed = known.worker.figures().crashed;
        let asked = Instant::now();
        for key in [key, debug] {
            let names = known.worker.symbolise(key, &[offset, 0, u64::MAX]);
            assert_eq!(names.len(), 3, "{what}");
            std::thread::sleep(Duration::from_millis(if what.contains("bomb") { 1500 } else { 0 }));
        }
        // As a module, too.
        let mut space = known.space.clone();
        space.id += asked.elapsed().as_nanos() as u64 + (1 << 50);
        for module in &mut space.modules {
            module.code = profiler::worker::Code::File(key);
        }
        let registers = known.captured.registers;
        let _any = known.worker.unwind(&space, &registers, true, &known.captured.stack);
        if what.contains("bomb") {
            assert!(known.worker.figures().crashed > crashed, "{what}: {:?}", known.worker.figures());
            let mut names = Vec::new();
            for _ in 0..5 {
                names = known.worker.symbolise(debug, &[offset]).remove(0);
                if !names.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_secs(2));
            }
            assert_eq!(&*names[0].name, "allocates", "without the debug file that kills");
        }
        assert!(asked.elapsed() < Duration::from_secs(20), "{what}: {:?}", asked.elapsed());
        known.worker.remove_file(key);
        known.worker.remove_file(debug);
        std::fs::remove_file(&path).unwrap();
    }
    std::thread::sleep(Duration::from_secs(4));
    known.space.id += 1 << 40;
    assert_eq!(known.innermost(), ["allocates"], "{:?}", known.worker.figures());
}

/// A root with a `tmp` for perf maps.
fn root() -> PathBuf {
    let root = fresh("root");
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    root
}

fn me() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() }
}

#[test]
fn perf_maps_name_code_without_a_file() {
    let root = root();
    let map = "7f00 10 first\nzzz\n7f10 0x20 void second(int, char)\n7f00 8 made anew\n7f40 ffffffffffffffff wraps\n7f50 10\n";
    std::fs::write(root.join("tmp/perf-7.map"), map).unwrap();
    let map = open_perf_map(&root, 7, me()).unwrap();
    let mut worker = Worker::new(limits());
    for _ in 0..2 {
        let names = worker.perf_map(&map, &[0x7f2f, 0x7f00, 0x7f08, 0x7f30, 0x7f41, 0x7f51]);
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        let expected = [Some("void second(int, char)"), Some("made anew"), Some("first"), None, None, None];
        assert_eq!(names, expected);
    }
}

#[test]
fn perf_maps_that_are_something_else_are_not_opened() {
    let root = root();
    let at = |pid: u32| root.join(format!("tmp/perf-{pid}.map"));
    must("mkfifo", &[at(1).to_str().unwrap()]);
    std::os::unix::fs::symlink("/etc/passwd", at(2)).unwrap();
    std::os::unix::fs::symlink("../tmp/elsewhere", at(3)).unwrap();
    std::fs::write(root.join("tmp/elsewhere"), "1000 10 secret\n").unwrap();
    std::fs::create_dir(at(4)).unwrap();
    let sparse = File::create(at(5)).unwrap();
    sparse.set_len(200 << 30).unwrap();
    std::fs::write(at(6), "1000 10 secret\n").unwrap();
    for (pid, user) in [(1, me()), (2, me()), (3, me()), (4, me()), (5, me()), (6, me() + 1), (7, me())] {
        let asked = Instant::now();
        let error = open_perf_map(&root, pid, user).expect_err("it is not what it should be");
        let expected = match pid {
            1 | 4 => matches!(error, PerfMapError::NotRegular(_)),
            5 => matches!(error, PerfMapError::TooLarge { .. }),
            6 => matches!(error, PerfMapError::Foreign { .. }),
            _ => matches!(error, PerfMapError::Unreadable { .. }),
        };
        assert!(expected, "{pid}: {error:?}");
        let words = error.to_string();
        assert!(!words.contains("root:") && !words.contains("secret"), "{words}");
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn a_link_in_place_of_the_directory_is_not_followed() {
    let root = fresh("root");
    std::fs::create_dir_all(root.join("elsewhere")).unwrap();
    std::fs::write(root.join("elsewhere/perf-1.map"), "1000 10 secret\n").unwrap();
    std::os::unix::fs::symlink("elsewhere", root.join("tmp")).unwrap();
    open_perf_map(&root, 1, me()).expect_err("a link");
}

#[test]
fn long_sparse_and_shrinking_perf_maps_take_bounded_time_and_memory() {
    let root = root();
    let path = root.join("tmp/perf-1.map");
    let mut worker = Worker::new(limits());
    // As large as is read: all of it one hole.
    File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let map = open_perf_map(&root, 1, me()).unwrap();
    assert_eq!(worker.perf_map(&map, &[1, 2]), [None, None]);
    // Every line for every address.
    let addresses: Vec<u64> = (0..128).collect();
    let mut lines = "0 f a\n".repeat(6_000_000);
    lines.push_str("3 1 last\n");
    std::fs::write(&path, &lines).unwrap();
    let map = open_perf_map(&root, 1, me()).unwrap();
    let names = worker.perf_map(&map, &addresses);
    assert_eq!((names[3].as_deref(), names[4].as_deref()), (Some("last"), Some("a")));
    let peak: u64 = status(worker.process_id().unwrap(), "VmHWM").split(' ').next().unwrap().parse().unwrap();
    assert!(peak < 200 << 10, "{peak} KiB");
    // Cut short between opening and reading, and while it is read.
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let shrinking = std::thread::spawn(move || {
        for length in (0..60_u64).rev() {
            writer.set_len(length << 20).unwrap();
        }
        writer.write_all_at(b"3 1 new\n", 0).unwrap();
    });
    while !shrinking.is_finished() {
        assert_eq!(worker.perf_map(&map, &addresses).len(), 128);
    }
    assert_eq!(worker.perf_map(&map, &[3])[0].as_deref(), Some("new"));
    assert_eq!(worker.figures().started, 1, "{:?}", worker.figures());
    assert!(directory().exists());
}
