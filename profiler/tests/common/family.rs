//! Processes that make processes (`programs/family_tree.c`) and count for all of them, and what profiler says of them.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use super::{
    LONG, Scratch, can_observe,
    helper::{Helper, compiled},
    profiler::Watching,
    within,
};

/// What the family has counted, all of it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub pid: u32,
    pub allocations: u64,
    pub frees: u64,
    /// Processes made.
    pub forks: u64,
    /// How long those took to allocate that didn't wait.
    pub eager_ns: u64,
}

/// Programs under names that nothing else on this machine has.
pub struct Names {
    directory: Scratch,
    mark: String,
}

impl Names {
    /// `None` if nothing can be observed here.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        can_observe().then(|| Self { directory: Scratch::directory("names"), mark })
    }

    /// The name that a program gets: at most 15 bytes.
    pub fn name(&self, name: &str) -> String {
        format!("{name}{}", self.mark)
    }

    /// The program under that name. `None` if there is no compiler.
    pub fn program(&self, name: &str, options: &[&str]) -> Option<PathBuf> {
        let path = self.directory.path().join(self.name(name));
        std::fs::copy(compiled("family_tree.c", options)?, &path).expect("it can be copied");
        Some(path)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// The first of a family.
pub struct Family(pub Helper);

impl Family {
    pub fn start(program: &Path) -> Self {
        Self(Helper::start::<&str>(program, &[]))
    }

    /// `None` if it can't be observed here.
    pub fn observable() -> Option<Self> {
        if can_observe() { Some(Self::start(&compiled("family_tree.c", &[])?)) } else { None }
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Says a line, and waits until that is done.
    pub fn tell(&mut self, line: &str) -> Counts {
        self.0.tell(line);
        let answer = self.0.answer();
        let number = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("no {key} in {answer}"));
        Counts {
            pid: number("pid") as u32,
            allocations: number("allocations"),
            frees: number("frees"),
            forks: number("forks"),
            eager_ns: number("eager_ns"),
        }
    }
}

/// A target by its name.
pub fn target<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    document["targets"].as_array()?.iter().find(|target| target["target"] == name)
}

/// How many processes of a target run and are counted.
pub fn counted_processes(target: &Value) -> usize {
    let processes = target["processes"].as_array().map_or(&[][..], Vec::as_slice);
    processes.iter().filter(|one| one["up"] == true && one["alloc"]["state"] == "counting").count()
}

/// Waits until what profiler says is as it should be; returns what it said then.
pub fn until(watching: &Watching, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = within(LONG, || {
        last = watching.document();
        is_so(&last)
    });
    assert!(came, "{what}: {last:#}");
    last
}

/// A number of one function, zero if it isn't listed.
pub fn of_function(target: &Value, function: &str, key: &str) -> u64 {
    let functions = target["functions"].as_array().expect("a list");
    functions.iter().filter(|one| one["function"] == function).filter_map(|one| one[key].as_u64()).sum()
}

/// CPU time that a process has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}

/// Descriptors of a process, and its resident memory in bytes.
pub fn size_of(pid: u32) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    (descriptors, kib * 1024)
}
