//! A file system of its own for a helper, and the check that it is counted all the same.

use std::path::{Path, PathBuf};

use super::{
    Scratch,
    helper::Helper,
    profiler::Watching,
    totals::{Totals, number, state},
};

/// How much a helper made of `calls.c` is to do.
pub const WORK: [&str; 2] = ["5", "20000"];

/// The C library and the dynamic linker of a program, by what it says itself when it runs.
pub fn parts_of(program: &Path) -> (PathBuf, PathBuf) {
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

/// Fills a directory so that a program can run with it as its whole file system, as `/program`. Returns where the C
/// library is, seen from there.
pub fn fill(directory: &Path, program: &Path) -> PathBuf {
    let (libc, linker) = parts_of(program);
    std::fs::create_dir_all(directory).expect("the build directory can be written");
    std::fs::copy(program, directory.join("program")).expect("it can be copied");
    for original in [&libc, &linker] {
        // The linker is asked for by a name of the ABI, wherever the distribution keeps it.
        let by_name = Path::new("/lib64").join(original.file_name().expect("a file has a name"));
        for place in [original, &by_name] {
            let place = directory.join(place.strip_prefix("/").expect("an absolute path"));
            std::fs::create_dir_all(place.parent().expect("a directory")).expect("it can be made");
            std::fs::copy(original, place).expect("it can be copied");
        }
    }
    libc
}

/// A directory that is such a file system.
pub fn with(program: &Path) -> Scratch {
    let directory = Scratch::directory("root");
    fill(directory.path(), program);
    directory
}

/// Watches a helper made of `calls.c` at work; its numbers have to be its own. It may be another process than the one
/// that was started for it.
pub fn is_counted_exactly(mut helper: Helper, pid: u32, how: &str) {
    let watching = Watching::process(pid);
    let counts = helper.work();
    let target = watching.finish().target().clone();
    let functions = counts["functions"].as_object().expect("a list");
    let sum = |key| functions.values().map(|function| number(function, key)).sum::<u64>();
    let (allocations, frees) = (sum("allocations"), sum("frees"));
    let live = allocations.cast_signed() - frees.cast_signed();
    assert_eq!(state(&target), ("counting", ""), "{how}");
    let told = Totals { allocations, frees, bytes: sum("bytes"), live };
    assert_eq!(Totals::counted(&target), told, "{how}");
}
