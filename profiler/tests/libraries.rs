//! The C library is found where the process has it: deleted, replaced, or in a file system of its own.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Scratch, can_observe,
    child::run,
    has_program,
    helper::{Helper, compiled},
    profiler::Watching,
};

/// The C library and the dynamic linker of a program, by what it says itself when it runs.
fn parts_of(program: &Path) -> (PathBuf, PathBuf) {
    let helper = Helper::start(program, &["1", "1"]);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", helper.pid())).expect("its maps");
    let find = |name: &str| {
        let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
            Path::new(path).file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
        });
        PathBuf::from(path.unwrap_or_else(|| panic!("no {name} in {maps}")))
    };
    (find("libc.so"), find("ld-linux"))
}

/// A directory with a program and all that it needs.
fn copies(program: &Path) -> (Scratch, PathBuf, PathBuf) {
    let (libc, linker) = parts_of(program);
    let directory = Scratch::directory("libraries");
    for (from, name) in [(libc.as_path(), "libc.so.6"), (&linker, "ld.so"), (program, "program")] {
        std::fs::copy(from, directory.path().join(name)).expect("it can be copied");
    }
    (directory, libc, linker)
}

fn is_counted_exactly(mut helper: Helper, how: &str) {
    let watching = Watching::process(helper.pid());
    let counts = helper.work();
    let target = watching.finish().target().clone();
    let functions = counts["functions"].as_object().expect("a list");
    let sum = |key| functions.values().filter_map(|function| function[key].as_u64()).sum::<u64>();
    assert_eq!(target["alloc"]["state"], "counting", "{how}: {}", target["alloc"]);
    assert_eq!(target["allocations"], sum("allocations"), "{how}");
    assert_eq!(target["frees"], sum("frees"), "{how}");
    assert_eq!(target["allocated_bytes"], sum("bytes"), "{how}");
}

const WORK: [&str; 2] = ["5", "20000"];

#[test]
fn a_library_that_was_deleted_or_replaced_is_the_one_that_the_process_has() {
    let program = if can_observe() { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    for replaced in [false, true] {
        let (directory, _, _) = copies(&program);
        let at = |name: &str| directory.path().join(name);
        let mut command = Command::new(at("ld.so"));
        command.arg("--library-path").arg(directory.path()).arg(at("program")).args(WORK);
        let helper = Helper::spawn(&mut command);
        std::fs::remove_file(at("libc.so.6")).expect("it is there");
        std::fs::remove_file(at("ld.so")).expect("it is there");
        if replaced {
            // Another file under the name, in which the old offsets mean something else.
            std::fs::copy(at("program"), at("libc.so.6")).expect("it can be copied");
        }
        is_counted_exactly(helper, if replaced { "replaced" } else { "deleted" });
    }
}

#[test]
fn a_library_in_another_mount_namespace_is_the_one_that_the_process_has() {
    let program = if can_observe() && has_program("unshare") { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    let (directory, libc, _) = copies(&program);
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(directory.path().join("libc.so.6")).arg(&libc).arg(&program).args(WORK);
    // Without the right to mount, the helper wouldn't get to run at all.
    let mut try_it = Command::new("unshare");
    try_it.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    try_it.arg(directory.path().join("libc.so.6")).arg(&libc).arg("true");
    let trial = run(&mut try_it);
    if !trial.status.success() {
        return common::skip(&format!("a file can't be mounted over another: {:?}", trial.complaints()));
    }
    is_counted_exactly(Helper::spawn(&mut command), "mounted over");
}

#[test]
fn a_library_below_another_root_is_the_one_that_the_process_has() {
    let program = if can_observe() && has_program("chroot") { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    let (directory, libc, linker) = copies(&program);
    for (original, name) in [(&libc, "libc.so.6"), (&linker, "ld.so")] {
        for place in [original.clone(), Path::new("/lib64").join(original.file_name().expect("a name"))] {
            let place = directory.path().join(place.strip_prefix("/").expect("an absolute path"));
            std::fs::create_dir_all(place.parent().expect("a directory")).expect("it can be made");
            std::fs::copy(directory.path().join(name), place).expect("it can be copied");
        }
    }
    let mut command = Command::new("chroot");
    command.arg(directory.path()).arg("/program").args(WORK);
    is_counted_exactly(Helper::spawn(&mut command), "below another root");
}
