//! What the tests of the real program share: helper programs that count for themselves, the program under test as a
//! child, and its answers. What is true is always told by a helper, never by profiler.

// Every test program uses a part of this.
#![allow(dead_code)]

pub mod child;
pub mod family;
pub mod go;
pub mod helper;
pub mod http;
pub mod hunt;
pub mod influx_json;
pub mod influxd;
pub mod lines;
pub mod matrix;
pub mod planted;
pub mod profiler;
pub mod relay;
pub mod root;
pub mod totals;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::OnceLock,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Nothing that is waited for takes longer on any machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Says that a test can't run here. Where that must not happen, it is a failure.
pub fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
    assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "SKIPPED: {reason}");
}

/// Whether processes can be observed here. If not, the test is skipped.
pub fn can_observe() -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    let obstacle = OBSTACLE.get_or_init(|| {
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } != 0 {
            return Some("not root".to_owned());
        }
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Some("the kernel has no type information (BTF)".to_owned());
        }
        if !Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
            return Some("the kernel has no uprobes".to_owned());
        }
        let no_such_id = std::io::Error::from_raw_os_error(libc::ENOENT).kind();
        match bpf_object_exists(BpfObject::Program, u32::MAX - 1) {
            Ok(_) => None,
            Err(error) if error.kind() == no_such_id => None,
            Err(error) => Some(format!("no right to use BPF: {error}")),
        }
    });
    match obstacle {
        Some(reason) => {
            skip(reason);
            false
        }
        None => true,
    }
}

/// Whether a program can be started by this name. If not, the test is skipped.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = name.contains('/') && Path::new(name).exists()
        || std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if !found {
        skip(&format!("there is no program {name}"));
    }
    found
}

/// Kinds of what a BPF program leaves in the kernel. The numbers are the commands that open one by its id
/// (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfObject {
    Program = 13,
    Map = 14,
    Link = 30,
}

/// Whether the kernel still has an object.
///
/// # Errors
///
/// If it doesn't answer the question.
pub fn bpf_object_exists(kind: BpfObject, id: u32) -> std::io::Result<bool> {
    // union bpf_attr: the id comes first, the rest is zero.
    let mut attributes = [0_u32; 32];
    attributes[0] = id;
    // SAFETY: the kernel reads as many bytes as it is told, and the array has them.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, kind as libc::c_int, attributes.as_ptr(), size_of_val(&attributes))
    };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(false) } else { Err(error) };
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    unsafe { libc::close(fd as libc::c_int) };
    Ok(true)
}

/// A directory or file of this run, under the build directory, gone when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A name that nothing has yet.
    pub fn name(suffix: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}-{suffix}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    pub fn directory(suffix: &str) -> Self {
        let scratch = Self::name(suffix);
        std::fs::create_dir_all(&scratch.0).expect("the build directory can be written");
        scratch
    }

    /// Takes charge of what is there already.
    pub fn existing(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Either may be what it isn't, or gone already.
        let _gone = std::fs::remove_file(&self.0);
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Holds off every other test that measures time, also those of another run. Lasts as long as what is returned.
pub fn alone() -> File {
    let file = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone.lock")).expect("a lock file");
    file.lock().expect("a lock");
    file
}

/// Asks again and again until the answer is yes, at most so long.
pub fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The CPUs that we may use.
pub fn cpus() -> Vec<usize> {
    // SAFETY: a set of bits; all zeroes is a value of it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in a set of the size it is told.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    // SAFETY: the numbers are below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}
