//! Limits that the kernel sets the targets, as it says of them.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::{child::Guarded, profiler::Watching, skip};

const LIMIT: u64 = 96 << 20;

/// A control group with a memory limit; `None` where none can be made.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("profiler-test-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(mount, file)| {
            let path = Path::new(mount).join(&name);
            std::fs::create_dir(&path).ok()?;
            let group = Self(path);
            std::fs::write(group.0.join(file), LIMIT.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let began = Instant::now();
        // The kernel lets go of a group a moment after its last process has ended.
        while std::fs::remove_dir(&self.0).is_err() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_memory_limit_of_a_control_group_is_told() {
    let Some(group) = Group::new() else {
        skip("no control group with a memory limit can be made here");
        return;
    };
    let mut sleeping = Guarded(Command::new("sleep").arg("120").spawn().expect("sleep starts"));
    std::fs::write(group.0.join("cgroup.procs"), sleeping.0.id().to_string()).expect("it enters the group");
    let quiet = ["--alloc", "off", "--stalls", "off", "--leaks", "off"];
    let watching = Watching::with(sleeping.0.id(), &quiet);
    let wanted = format!("profiler_target_memory_limit_bytes{{target=\"sleep\"}} {LIMIT}");
    let began = Instant::now();
    while !watching.get("/metrics").text().lines().any(|line| line == wanted) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", watching.get("/metrics").text());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(watching);
    sleeping.0.kill().expect("it runs");
    sleeping.0.wait().expect("it has ended");
    drop(group);
}
