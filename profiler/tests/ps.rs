//! `profiler ps` and the choice of processes, on real ones: what they are is told by themselves.

mod common;

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    LONG, Scratch,
    child::{Guarded, run},
    has_program,
    profiler::{BINARY, profiler},
    skip, within,
};
use profiler::target::{Criterion, Selection, scan};
use serde_json::Value;

/// What `ps` says of all processes.
fn listed() -> Vec<Value> {
    let ended = run(&mut profiler(["ps", "--json"]));
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_slice(&ended.stdout).expect("a list in JSON")
}

/// What `ps` says of a process, once it says what is expected of its key; else what it said last.
fn told(pid: u32, key: &str, expected: &str) -> Value {
    let mut last = Value::Null;
    within(LONG, || {
        last = listed().into_iter().find(|row| row["pid"] == pid).unwrap_or_default();
        // Right after its start a process hasn't mapped its libraries yet.
        *last.pointer(key).unwrap_or(&Value::Null) == *expected
    });
    last
}

/// Starts what waits for an input that doesn't come, or for a minute.
fn waiting(command: &mut Command) -> Guarded {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Guarded(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn said(program: &str, arguments: &[&str]) -> String {
    let ended = run(Command::new(program).args(arguments));
    String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned()
}

#[test]
fn python_is_told_with_its_version() {
    if !has_program("python3") {
        return;
    }
    let version = said("python3", &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
    // What is called python3 may be a script that looks for it.
    let path = said("python3", &["-c", "import sys; print(sys.executable)"]);
    let process = waiting(Command::new(path.trim()).args(["-c", "import time; time.sleep(60)"]));
    let row = told(process.pid(), "/runtime/name", "cpython");
    assert_eq!(row["runtime"]["version"], version.trim(), "{row}");
}

#[test]
fn node_is_told_with_its_version() {
    if !has_program("node") {
        return;
    }
    let version = said("node", &["-p", "process.versions.node"]);
    let process = waiting(Command::new("node").args(["-e", "setTimeout(() => {}, 60000)"]));
    let row = told(process.pid(), "/runtime/name", "node");
    // Not every way to install it says so beside the program.
    let known = row["runtime"]["version"].as_str();
    assert!(known.is_none_or(|known| known == version.trim()), "{version} isn't what {row} says");
    assert_eq!(row["runtime"]["name"], "node", "{row}");
}

#[test]
fn java_is_told_with_its_version() {
    if !has_program("java") {
        return;
    }
    let version = said("java", &["-XshowSettings:properties", "-version"]);
    let version = version.lines().find_map(|line| line.trim().strip_prefix("java.version = "));
    // Every JRE has this tool, and it reads its standard input.
    let tool = ["-m", "java.base/sun.security.tools.keytool.Main", "-printcert"];
    let process = waiting(Command::new("java").args(tool));
    let row = told(process.pid(), "/runtime/name", "jvm");
    assert_eq!(row["runtime"]["version"].as_str(), version, "{row}");
}

#[test]
fn a_static_program_in_namespaces_and_a_root_of_its_own_is_told_as_it_sees_itself() {
    if !has_program("busybox") || !has_program("unshare") {
        return;
    }
    let busybox = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|directory| directory.join("busybox"))
        .find(|path| path.is_file())
        .expect("it was just found");
    if !said("ldd", &[&busybox.to_string_lossy()]).contains("not a dynamic executable") {
        return skip("busybox isn't static here");
    }
    let root = Scratch::directory("root");
    std::fs::copy(&busybox, root.path().join("busybox")).expect("a copy");
    let namespaces = ["--mount", "--pid", "--user", "--map-root-user", "--fork", "--kill-child"];
    let trial = run(Command::new("unshare").args(namespaces).arg("true"));
    if !trial.status.success() {
        return skip(&format!("no namespaces can be made: {:?}", trial.complaints()));
    }
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(format!("--root={}", root.path().display()));
    command.args(["--wd=/", "/busybox", "sleep", "60"]);
    let process = waiting(&mut command);
    let mut row = Value::Null;
    let found = within(LONG, || {
        let child = |row: &Value| row["parent"] == process.pid() && row["exe"] == "/busybox";
        row = listed().into_iter().find(child).unwrap_or_default();
        !row.is_null()
    });
    assert!(found, "the child of process {} isn't listed as it sees itself", process.pid());
    assert_eq!((&row["runtime"]["name"], &row["allocator"]), (&"native".into(), &"unknown".into()), "{row}");
    let selection = Selection { criteria: vec![Criterion::exe("/busybox").expect("a pattern")] };
    let pids: Vec<u32> = scan(&selection).expect("a scan").processes.iter().map(|facts| facts.pid).collect();
    assert!(pids.contains(&(row["pid"].as_u64().expect("an id") as u32)), "{pids:?}");
}

#[test]
fn another_user_gets_a_list_and_is_told_what_is_missing_from_it() {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return skip("not root: can't become somebody else");
    }
    // By its descriptor: the build directory may be closed to others.
    let binary = File::open(BINARY).expect("the program is there");
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    let ended = run(command.arg("ps").uid(65534).gid(65534).current_dir("/"));
    let text = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{ended:?}");
    assert!(text.contains("PID  NAME"), "{text}");
    assert!(text.contains("no rights"), "{text}");
    let last = text.lines().last().expect("it says something");
    assert!(last.contains("root") && last.contains("kept from us"), "{last}");
}

/// The least CPU time that some work takes, of three times. Other tests and the machine's load make any time but that
/// meaningless: it is how long the work lasts where nothing else goes on.
fn least(whose: libc::c_int, work: &mut dyn FnMut()) -> Duration {
    let spent = || {
        // SAFETY: plain numbers; all zeroes is a value of it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills in what it is given.
        unsafe { libc::getrusage(whose, &mut usage) };
        let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    let times = (0..3).map(|_| {
        let before = spent();
        work();
        spent() - before
    });
    times.min().unwrap_or_default()
}

#[test]
fn five_hundred_processes_are_listed_and_chosen_in_no_time() {
    let _alone = common::alone();
    let started: Vec<Guarded> = (0..500).map(|_| waiting(Command::new("sleep").arg("120"))).collect();
    let mut rows = Vec::new();
    let list = least(libc::RUSAGE_CHILDREN, &mut || rows = listed());
    let sleeping = started.iter().filter(|child| rows.iter().any(|row| row["pid"] == child.pid()));
    assert_eq!(sleeping.count(), started.len());
    let selection =
        |criterion: Result<Criterion, _>| Selection { criteria: vec![criterion.expect("a criterion")] };
    let choose =
        |selection: &Selection| least(libc::RUSAGE_THREAD, &mut || drop(scan(selection).expect("a scan")));
    let (by_name, by_program) =
        (choose(&selection(Criterion::comm("^sleep$"))), choose(&selection(Criterion::exe("sleep"))));
    let by_unit = choose(&selection(Criterion::unit("no-such")));
    println!(
        "500 processes: listed in {list:?}; chosen by name in {by_name:?}, by program {by_program:?}, by unit {by_unit:?}"
    );
    // Every file that any process has mapped is analysed, the compilers' of a busy machine included, and without
    // optimisation here.
    assert!(list < Duration::from_secs(15), "listed in {list:?}");
    assert!(by_name.max(by_program).max(by_unit) < Duration::from_millis(100));
}
