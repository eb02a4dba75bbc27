//! Processes in namespaces of their own: another root on an overlay, other process ids, other users. What is hooked is
//! the library that the process has, found through the process itself.

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
    root::{self, WORK, is_counted_exactly},
    skip,
    totals::Totals,
};

/// Mounts an overlay of $1, makes it the root file system, leaves the host's behind, and becomes the rest of the
/// arguments there. It needs no more than a namespace's own root.
const ENTER: &str = "\
mount -t overlay overlay -o \"lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work\" \"$1/merged\" && \
mount -t proc proc \"$1/merged/proc\" && cd \"$1/merged\" && shift && pivot_root . host && \
exec /bin/busybox sh -c 'cd / && umount -l /host && exec \"$@\"' sh \"$@\"";

/// What `unshare` takes away from the host.
#[derive(Clone, Copy, Debug)]
enum Namespaces {
    /// Mounts and process ids: a container of root's.
    MountAndPid,
    /// Users as well: a container of anybody's.
    User,
}

/// A container's files: a lower layer with a program, its libraries and a shell, and an upper one.
struct Layers {
    directory: Scratch,
    libc: PathBuf,
}

impl Layers {
    /// `None` if something is missing here; the test is skipped then.
    fn new(program: &Path) -> Option<Self> {
        if !["unshare", "pivot_root", "mount", "busybox"].iter().all(|tool| has_program(tool)) {
            return None;
        }
        let directory = Scratch::directory("layers");
        let at = |name: &str| directory.path().join(name);
        let libc = root::fill(&at("lower"), program);
        for name in ["lower/proc", "lower/bin", "lower/host", "upper", "work", "merged"] {
            std::fs::create_dir_all(at(name)).expect("it can be made");
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut busybox = std::env::split_paths(&path).map(|directory| directory.join("busybox"));
        let busybox = busybox.find(|file| file.is_file())?;
        std::fs::copy(busybox, at("lower/bin/busybox")).expect("it can be copied");
        Some(Self { directory, libc })
    }

    /// A command that runs another one in there.
    fn command(&self, namespaces: Namespaces) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
        if matches!(namespaces, Namespaces::User) {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", ENTER, "sh"]).arg(self.directory.path());
        command
    }

    /// Whether a container can be made here. If not, the test is skipped.
    fn can_enter(&self, namespaces: Namespaces) -> bool {
        let trial = run(self.command(namespaces).args(["/bin/busybox", "true"]));
        if !trial.status.success() {
            skip(&format!("no container ({namespaces:?}) can be made: {:?}", trial.complaints()));
        }
        trial.status.success()
    }
}

/// The process without children that a process has started, itself or through others: they stand one behind the other.
fn last_of(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    match children.split_whitespace().next() {
        Some(child) => last_of(child.parse().expect("a number")),
        None => pid,
    }
}

/// Starts the program below a shell, as containers do; the shell is the first process in there.
fn started(layers: &Layers, namespaces: Namespaces) -> (Helper, u32) {
    let mut command = layers.command(namespaces);
    command.args(["/bin/busybox", "sh", "-c", "/program \"$@\"; exit $?", "sh"]).args(WORK);
    let helper = Helper::spawn(&mut command);
    let pid = last_of(helper.pid());
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    assert_eq!(exe, Path::new("/program"), "seen from in there");
    let inner = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let ids = inner.lines().find(|line| line.starts_with("NSpid:")).expect("its ids");
    assert_eq!(ids.split_whitespace().count(), 3, "{ids}: one id out here and one in there");
    (helper, pid)
}

/// Lets `check` see a program at work in either kind of container, after `change` was done to its library.
fn each(change: impl Fn(&Path), check: impl Fn(Helper, u32, &str)) {
    let program = if can_observe() { compiled("calls.c", &[]) } else { return };
    let Some(program) = program else { return };
    for namespaces in [Namespaces::MountAndPid, Namespaces::User] {
        let Some(layers) = Layers::new(&program) else { return };
        if !layers.can_enter(namespaces) {
            return;
        }
        let (helper, pid) = started(&layers, namespaces);
        let within = layers.libc.strip_prefix("/").expect("an absolute path");
        change(&Path::new(&format!("/proc/{pid}/root")).join(within));
        check(helper, pid, &format!("{namespaces:?}"));
    }
}

#[test]
fn a_process_in_a_container_is_counted_exactly() {
    each(|libc| assert!(libc.exists(), "{libc:?}"), is_counted_exactly);
}

#[test]
fn a_library_that_was_deleted_in_a_container_is_the_one_that_the_process_has() {
    let delete = |libc: &Path| {
        std::fs::remove_file(libc).expect("it can be deleted");
        assert!(!libc.exists(), "{libc:?}");
    };
    each(delete, is_counted_exactly);
}

#[test]
fn a_library_that_was_upgraded_in_a_container_is_the_one_that_the_process_has() {
    let upgrade = |libc: &Path| {
        // Another file comes to the name at once, as a package manager does it: here one in which the old offsets mean
        // something else.
        let new = libc.with_extension("new");
        std::fs::copy("/proc/self/exe", &new).expect("it can be copied");
        std::fs::rename(&new, libc).expect("it can be renamed");
    };
    each(upgrade, is_counted_exactly);
}

/// What is known not to be right (docs/principles.md). When this fails it is right, and the library is the one that the
/// process has, as above.
#[test]
fn a_library_that_was_written_to_in_a_container_is_not_seen_yet() {
    let touch = |libc: &Path| {
        // The first change of a lower file makes a copy of it in the upper layer. What the process has mapped stays
        // below, and every path that the kernel tells leads to the copy.
        drop(std::fs::File::options().append(true).open(libc).expect("it can be opened for writing"));
    };
    each(touch, |mut helper, pid, how| {
        let watching = Watching::process(pid);
        helper.work();
        assert_eq!(Totals::counted(watching.finish().target()), Totals::default(), "{how}");
    });
}
