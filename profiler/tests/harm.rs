//! The observed process is not harmed, and nothing stays behind, however profiler ends.

mod common;

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    BpfObject, Scratch, bpf_object_exists, can_observe,
    child::run,
    helper::{Helper, compiled},
    profiler::{Watching, profiler},
    within,
};

/// A part of a file that a process has mapped as code.
struct Code {
    start: u64,
    length: usize,
    offset: u64,
    file: PathBuf,
}

/// All code of a process that comes from files.
fn code_of(pid: u32) -> Vec<Code> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("a number");
    let mut code = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.len() == 6 && fields[1].contains('x') && fields[5].starts_with('/') {
            let (start, end) = fields[0].split_once('-').expect("a range");
            code.push(Code {
                start: hex(start),
                length: usize::try_from(hex(end) - hex(start)).expect("a length"),
                offset: hex(fields[2]),
                file: PathBuf::from(fields[5]),
            });
        }
    }
    assert!(code.iter().any(|part| part.file.to_string_lossy().contains("libc")), "{maps}");
    code
}

/// Bytes of the process's code that aren't those of its files, by address: breakpoints. Code isn't relocated, so
/// there are no others.
fn changed_bytes(pid: u32) -> BTreeMap<u64, u8> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut changed = BTreeMap::new();
    for part in code_of(pid) {
        let (mut is, mut should_be) = (vec![0; part.length], vec![0; part.length]);
        memory.read_exact_at(&mut is, part.start).expect("its code can be read");
        let file = std::fs::File::open(&part.file).expect("its file can be read");
        // Behind the end of the file a page is filled up with zeroes.
        let _length = file.read_at(&mut should_be, part.offset).expect("its file can be read");
        let differing = is.iter().zip(&should_be).enumerate().filter(|(_, (is, should_be))| is != should_be);
        changed.extend(differing.map(|(at, (is, _))| (part.start + at as u64, *is)));
    }
    changed
}

/// The ids of everything in the kernel that a process holds for BPF.
fn bpf_objects_of(pid: u32) -> Vec<(BpfObject, u32)> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors").flatten() {
        // A descriptor may be closed by now.
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let kinds =
            [("prog_id:", BpfObject::Program), ("map_id:", BpfObject::Map), ("link_id:", BpfObject::Link)];
        for (key, kind) in kinds {
            let id = info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            objects.extend(id.map(|id| (kind, id)));
        }
    }
    objects
}

fn busy() -> Option<Helper> {
    if !can_observe() {
        return None;
    }
    Some(Helper::start(&compiled("busy.c", &[])?, &["3"]))
}

/// The process works on, and nothing of profiler is left in it or in the kernel.
fn is_unharmed(mut helper: Helper, objects: &[(BpfObject, u32)], how: &str) {
    let mut left = BTreeMap::new();
    let gone = within(Duration::from_secs(5), || {
        left = changed_bytes(helper.pid());
        left.is_empty()
    });
    assert!(gone, "{how}: breakpoints are left: {left:x?}");
    let mut left = Vec::new();
    let gone = within(Duration::from_secs(5), || {
        left = objects
            .iter()
            .copied()
            .filter(|(kind, id)| bpf_object_exists(*kind, *id).expect("the kernel answers"))
            .collect();
        left.is_empty()
    });
    assert!(gone, "{how}: the kernel still has {left:?}");
    let rounds = |helper: &mut Helper, line: &str| {
        helper.tell(line);
        let answer = helper.answer();
        (answer["rounds"].as_u64().expect("a number"), answer["wrong"].as_u64())
    };
    let (before, _) = rounds(&mut helper, "how far?");
    std::thread::sleep(Duration::from_millis(100));
    let (after, _) = rounds(&mut helper, "how far?");
    assert!(after > before, "{how}: it works on: {before} rounds, then {after}");
    assert_eq!(rounds(&mut helper, "stop").1, Some(0), "{how}: its own sums agree");
    assert!(helper.end().success(), "{how}");
}

/// A busy process under observation, and what the kernel holds for that.
struct Attached {
    helper: Helper,
    watching: Watching,
    objects: Vec<(BpfObject, u32)>,
}

/// Attaches to a busy process and makes sure that there is something to be left behind.
fn attached(more: &[&str]) -> Option<Attached> {
    let helper = busy()?;
    assert_eq!(changed_bytes(helper.pid()), BTreeMap::new(), "before anything was attached");
    let watching = Watching::with(helper.pid(), more);
    let target = watching.now();
    let sites = target["sites"].as_array().expect("a list").len();
    let changed = changed_bytes(helper.pid());
    assert!(sites >= 8 && changed.len() >= sites, "{sites} sites, and changed are {changed:x?}");
    let objects = bpf_objects_of(watching.pid());
    for kind in [BpfObject::Program, BpfObject::Map, BpfObject::Link] {
        assert!(objects.iter().any(|(one, _)| *one == kind), "{kind:?} in {objects:?}");
    }
    assert!(objects.iter().all(|(kind, id)| bpf_object_exists(*kind, *id).expect("the kernel answers")));
    assert!(target["allocations"].as_u64() > Some(0), "{target:#}");
    Some(Attached { helper, watching, objects })
}

#[test]
fn a_killed_profiler_leaves_nothing_behind() {
    let Some(Attached { helper, watching, objects }) = attached(&[]) else { return };
    watching.kill();
    is_unharmed(helper, &objects, "SIGKILL");
}

#[test]
fn an_interrupted_profiler_leaves_nothing_behind() {
    let Some(Attached { helper, watching, objects }) = attached(&[]) else { return };
    assert!(watching.finish().status.success());
    is_unharmed(helper, &objects, "SIGINT");
}

#[test]
fn a_terminated_profiler_leaves_nothing_behind() {
    let Some(Attached { helper, mut watching, objects }) = attached(&[]) else { return };
    watching.signal(libc::SIGTERM);
    let finished = watching.wait();
    assert!(finished.target()["allocations"].as_u64() > Some(0));
    is_unharmed(helper, &objects, "SIGTERM");
}

#[test]
fn a_profiler_whose_time_is_over_leaves_nothing_behind() {
    let Some(Attached { helper, watching, objects }) = attached(&["--duration", "1s"]) else { return };
    assert!(watching.wait().status.success());
    is_unharmed(helper, &objects, "--duration");
}

#[test]
fn coming_and_going_many_times_does_no_harm() {
    let Some(helper) = busy() else { return };
    for _ in 0..4 {
        let watching = Watching::process(helper.pid());
        watching.kill();
        let watching = Watching::process(helper.pid());
        assert!(watching.finish().status.success());
    }
    is_unharmed(helper, &[], "many times");
}

#[test]
fn a_profiler_that_is_killed_while_it_attaches_does_no_harm() {
    let Some(helper) = busy() else { return };
    for delay in (0..12).map(|n| Duration::from_millis(n * 40)) {
        let mut command = profiler(["--pid", &helper.pid().to_string(), "--listen", "none"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = common::child::Guarded(command.spawn().expect("profiler starts"));
        std::thread::sleep(delay);
        child.signal(libc::SIGKILL);
        child.wait(Duration::from_secs(10));
    }
    is_unharmed(helper, &[], "killed while it attached");
}

/// The names in a directory, and in those below.
fn names_in(directory: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        names.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(names_in(&entry.path()));
        }
    }
    names
}

#[test]
fn one_look_leaves_no_file_behind() {
    let Some(helper) = busy() else { return };
    // Its own home, its own place for temporary files, its own working directory.
    let scratch = Scratch::directory("home");
    let pins = names_in(Path::new("/sys/fs/bpf"));
    let mut command = profiler(["--pid", &helper.pid().to_string(), "--once", "--interval", "200ms"]);
    command.current_dir(scratch.path()).env("HOME", scratch.path()).env("TMPDIR", scratch.path());
    let ended = run(&mut command);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.complaints(), Vec::<String>::new());
    assert_eq!(names_in(scratch.path()), Vec::<PathBuf>::new());
    assert_eq!(names_in(Path::new("/sys/fs/bpf")), pins, "nothing is pinned");
    is_unharmed(helper, &[], "--once");
}
