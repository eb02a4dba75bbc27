//! Wishes that can't be fulfilled: one line that names what is wrong, the right exit code, and nothing else happens.

mod common;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    LONG, Scratch, can_observe,
    child::{Ended, Guarded, run},
    has_program,
    helper::{Helper, compiled},
    profiler::{BINARY, Watching, profiler},
    skip, within,
};

/// It failed with this code, and said why in one line that holds all of these.
fn is_refused(ended: &Ended, code: i32, names: &[&str]) {
    let complaints = ended.complaints();
    assert_eq!(ended.status.code(), Some(code), "{complaints:#?}");
    assert_eq!(complaints.len(), 1, "one line: {complaints:#?}");
    for name in names {
        assert!(complaints[0].contains(name), "{name:?} isn't named: {}", complaints[0]);
    }
    assert!(!complaints[0].contains("panicked"), "{}", complaints[0]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "");
}

fn refused(arguments: &[&str], code: i32, names: &[&str]) {
    is_refused(&run(&mut profiler(arguments)), code, names);
}

/// A process that only waits.
fn idle() -> Option<Helper> {
    Some(Helper::start::<&str>(&compiled("named.c", &[])?, &[]))
}

#[test]
fn a_number_that_no_process_has_is_named() {
    let mut child = Guarded(Command::new("true").spawn().expect("true starts"));
    let pid = child.pid().to_string();
    child.wait(LONG);
    refused(&["--pid", &pid, "--once"], 1, &[&pid]);
    refused(&["--pid", "0", "--once"], 1, &["0"]);
    refused(&["--pid", "4194305", "--once"], 1, &["4194305"]);
    refused(&["--pid", "4294967295", "--once"], 1, &["4294967295"]);
}

#[test]
fn a_kernel_thread_is_called_by_its_name() {
    // In a container pid 2 may be anything.
    if !std::fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
        return skip("process 2 is no kernel thread here");
    }
    refused(&["--pid", "2", "--once"], 1, &["2", "kthreadd", "kernel thread"]);
}

#[test]
fn a_threads_id_leads_to_its_process() {
    let Some(mut helper) = idle() else { return };
    let thread = helper.work()["thread"].to_string();
    let process = helper.pid().to_string();
    refused(&["--pid", &thread, "--once"], 1, &[&thread, &format!("--pid {process}")]);
}

#[test]
fn a_zombie_has_ended() {
    let child = Guarded(Command::new("true").spawn().expect("true starts"));
    let stat = format!("/proc/{}/stat", child.pid());
    let dead = within(LONG, || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
    assert!(dead, "it ends, and isn't waited for");
    refused(&["--pid", &child.pid().to_string(), "--once"], 1, &[&child.pid().to_string(), "ended"]);
}

#[test]
fn no_process_at_all_is_a_wrong_command_line() {
    refused(&[], 2, &["--pid"]);
    refused(&["--once"], 2, &["--pid"]);
}

/// Wrong command lines, and what of each must be named.
const WRONG: [(&[&str], &str); 9] = [
    (&["--pid", "1", "--leaks", "perhaps"], "perhaps"),
    (&["--pid", "1", "--sample-bytes", "5MB"], "5MB"),
    (&["leaks", "--history", "hunt.db", "--from", "yesterday"], "yesterday"),
    (&["leaks", "--pid", "1", "--fail-on", "growing"], "growing"),
    (&["--pid", "1", "--frobnicate"], "--frobnicate"),
    (&["frobnicate"], "frobnicate"),
    (&["--pid", "many"], "many"),
    (&["--pid", "-1"], "-1"),
    (&["--pid", "1", "--interval", "soon"], "soon"),
];

#[test]
fn what_is_wrong_on_the_command_line_is_named_first() {
    for (arguments, name) in WRONG {
        let ended = run(&mut profiler(arguments));
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.complaints().first().is_some_and(|line| line.contains(name)), "{ended:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "");
    }
}

#[test]
fn what_is_wrong_on_the_command_line_is_told_in_one_line() {
    for (arguments, name) in WRONG {
        refused(arguments, 2, &[name]);
    }
}

#[test]
fn names_that_would_break_a_page_of_metrics_are_refused() {
    for name in ["two\nlines", "an \x1b[31mescape code", "", "\u{202e}turned around"] {
        refused(&["--pid", "1", "--once", "--name", name], 2, &["name"]);
    }
}

#[test]
fn a_config_file_that_cannot_be_read_or_understood_is_named_with_the_line() {
    let directory = Scratch::directory("config");
    let missing = directory.path().join("missing.toml");
    let missing = missing.to_str().expect("it is text");
    refused(&["--pid", "1", "--config", missing], 2, &[missing]);
    let place = directory.path().to_str().expect("it is text");
    refused(&["--pid", "1", "--config", place], 2, &[place]);
    let file = directory.path().join("profiler.toml");
    let name = file.to_str().expect("it is text");
    let cases: [(&[u8], &[&str]); 3] = [
        (b"# a comment\npid = [\n", &["line 2"]),
        (b"pid = 1\nalloc = 'perhaps'\n", &["line 2", "off"]),
        (b"name = '\xff\xfe'\n", &[]),
    ];
    for (text, names) in cases {
        std::fs::write(&file, text).expect("it can be written");
        refused(&["--pid", "1", "--once", "--config", name], 2, &[&[name][..], names].concat());
    }
}

#[test]
fn a_wrong_value_in_a_config_file_is_named_with_the_file() {
    let directory = Scratch::directory("values");
    let file = directory.path().join("profiler.toml");
    let name = file.to_str().expect("it is text");
    for key in ["interval", "duration", "stall-threshold"] {
        std::fs::write(&file, format!("pid = 1\n{key} = 'soon'\n")).expect("it can be written");
        refused(&["--once", "--config", name], 2, &[name, key, "soon"]);
    }
}

#[test]
fn a_key_that_does_not_exist_is_named_with_its_line() {
    let directory = Scratch::directory("keys");
    let file = directory.path().join("profiler.toml");
    let name = file.to_str().expect("it is text");
    for (text, line) in [
        ("intervall = '2s'\n", "line 1"),
        ("interval = '1s'\nintervall = '2s'\n", "line 2"),
        ("interval = '1s'\n\n# a comment\n  intervall = '2s'\n", "line 4"),
        ("[web]\nlisten-adress = 'none'\n", "line 2"),
    ] {
        std::fs::write(&file, text).expect("it can be written");
        let key = if text.contains("adress") { "listen-adress" } else { "intervall" };
        refused(&["--pid", "1", "--once", "--config", name], 2, &[name, line, key]);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("an address").to_string();
    refused(&["--pid", &std::process::id().to_string(), "--listen", &address], 1, &[&address, "--listen"]);
}

#[test]
fn a_second_profiler_on_the_same_port_is_told_so() {
    let helper = if can_observe() { idle() } else { return };
    let Some(helper) = helper else { return };
    let first = Watching::process(helper.pid());
    let address = first.address().to_string();
    refused(&["--pid", &helper.pid().to_string(), "--listen", &address], 1, &[&address, "--listen"]);
    assert!(first.finish().status.success());
}

/// A copy of the program that everybody may start.
fn for_everybody() -> Scratch {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = std::env::temp_dir().join(format!("profiler-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is a place for temporary files");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::copy(BINARY, directory.join("profiler")).expect("it can be copied");
    Scratch::existing(directory)
}

#[test]
fn who_has_no_rights_is_told_which_are_missing() {
    if !can_observe() {
        return;
    }
    let copy = for_everybody();
    let Some(helper) = idle() else { return };
    let mut command = Command::new(copy.path().join("profiler"));
    command.args(["--pid", &helper.pid().to_string(), "--once"]).current_dir("/");
    // Another user, without any group or capability.
    command.uid(65534).gid(65534);
    is_refused(&run(&mut command), 1, &["root"]);
}

/// Runs profiler where a directory is empty.
fn where_it_is_empty(directory: &str, arguments: &[&str]) -> Option<Ended> {
    if !can_observe() || !has_program("unshare") {
        return None;
    }
    let script = "mount -t tmpfs none \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", directory]);
    let trial = run(Command::new("unshare").args(command.get_args()).arg("true"));
    if !trial.status.success() {
        skip(&format!("nothing can be mounted over {directory}: {:?}", trial.complaints()));
        return None;
    }
    Some(run(command.arg(BINARY).args(arguments)))
}

#[test]
fn a_kernel_without_type_information_is_told_with_the_way_out() {
    let Some(helper) = idle() else { return };
    let pid = helper.pid().to_string();
    let once = ["--pid", &pid, "--once", "--interval", "200ms"];
    let Some(ended) = where_it_is_empty("/sys/kernel/btf", &once) else { return };
    is_refused(&ended, 1, &["/sys/kernel/btf/vmlinux", "--stalls off"]);
    let without = [&once[..], &["--stalls", "off"]].concat();
    let Some(ended) = where_it_is_empty("/sys/kernel/btf", &without) else { return };
    assert_eq!((ended.status.code(), ended.complaints().len()), (Some(0), 0), "the way out works: {ended:?}");
}

#[test]
fn a_report_that_cannot_be_written_is_named() {
    let helper = if can_observe() { idle() } else { return };
    let Some(helper) = helper else { return };
    let scratch = Scratch::directory("reports");
    let missing = scratch.path().join("missing/report.json");
    for path in [missing.as_path(), scratch.path()] {
        let mut command = profiler(["--pid", &helper.pid().to_string(), "--once", "--interval", "100ms"]);
        command.arg("--report").arg(path);
        is_refused(&run(&mut command), 1, &[path.to_str().expect("it is text")]);
    }
}

#[test]
fn a_report_is_never_written_through_a_link() {
    let helper = if can_observe() { idle() } else { return };
    let Some(helper) = helper else { return };
    let scratch = Scratch::directory("links");
    let (precious, link) = (scratch.path().join("precious"), scratch.path().join("link"));
    std::fs::write(&precious, "precious").expect("it can be written");
    std::os::unix::fs::symlink(&precious, &link).expect("it can be made");
    let mut command = profiler(["--pid", &helper.pid().to_string(), "--once", "--interval", "100ms"]);
    command.arg("--report").arg(&link);
    is_refused(&run(&mut command), 1, &[link.to_str().expect("it is text")]);
    assert_eq!(std::fs::read_to_string(precious).expect("it is there"), "precious");
}

#[test]
fn a_history_that_is_none_is_named_and_left_as_it_is() {
    let scratch = Scratch::directory("histories");
    let path = scratch.path().join("hunt.db");
    let name = path.to_str().expect("it is text");
    refused(&["leaks", "--history", name], 1, &[name]);
    assert!(!path.exists(), "looking makes no file");
    std::fs::write(&path, "precious").expect("it can be written");
    refused(&["leaks", "--history", name, "--from", "-2h"], 1, &[name, "no history"]);
    refused(&["leaks", "--history", name, "--against", name, "--json"], 1, &[name, "no history"]);
    assert_eq!(std::fs::read_to_string(path).expect("it is there"), "precious");
}

#[test]
fn a_hunt_for_nothing_is_refused() {
    refused(&["leaks"], 2, &["--pid"]);
    refused(&["leaks", "--pid", "1", "--leaks", "off"], 2, &["--leaks"]);
    refused(&["leaks", "--pid", "1", "--history-size", "5", "--history", "hunt.db"], 2, &["--history-size"]);
    refused(&["--pid", "1", "--leaks", "off", "--history", "hunt.db"], 2, &["--history"]);
}

#[test]
fn a_process_without_a_known_allocator_is_observed_all_the_same() {
    if !can_observe() {
        return;
    }
    // Nothing tells where its allocator is.
    let Some(program) = compiled("busy.c", &["-static", "-s"]) else { return };
    let helper = Helper::start(&program, &["2"]);
    let watching = Watching::process(helper.pid());
    std::thread::sleep(Duration::from_millis(300));
    let page = watching.get("/metrics");
    let finished = watching.finish();
    let target = finished.target();
    assert_eq!(target["alloc"]["state"], "not_counting", "{target:#}");
    assert!(target["alloc"]["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{target:#}");
    assert!(target["thread_seconds"]["running"].as_f64() > Some(0.1), "{target:#}");
    assert!(target["process"]["resident_memory_bytes"].as_u64() > Some(0), "{target:#}");
    assert!(page.text().contains("state=\"not_counting\""), "{}", page.text());
}

/// Text that a terminal or a parser may be given.
fn is_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let control = text.chars().find(|character| character.is_control() && *character != '\n');
    assert_eq!(control, None, "{what}: {text:?}");
}

#[test]
fn hostile_names_reach_nobody_as_they_are() {
    let program = if can_observe() { compiled("named.c", &[]) } else { return };
    let Some(program) = program else { return };
    let directory = Scratch::directory("hostile");
    let hostile = directory.path().join(OsStr::from_bytes(b"e\x1b[2J\"}\nprofiler_up 1\n\xff"));
    std::fs::copy(program, &hostile).expect("such a name is possible");
    let mut helper = Helper::start::<&str>(&hostile, &[]);
    helper.work();
    let watching = Watching::process(helper.pid());
    let page = watching.get("/metrics");
    is_harmless("/metrics", &page.body);
    assert!(!page.text().lines().any(|line| line.starts_with("profiler_up")), "{}", page.text());
    let names = page.text().lines().find(|line| line.starts_with("profiler_target_info"));
    assert!(names.is_some_and(|line| line.contains(r#"comm="a\"b\\c"#)), "{names:?}");
    is_harmless("/", &watching.get("/").body);
    is_harmless("/api/v1/targets", &watching.get("/api/v1/targets").body);
    assert!(watching.finish().status.success());
    for more in [&["--json"][..], &[]] {
        let pid = helper.pid().to_string();
        let ended = run(profiler(["--pid", &pid, "--once", "--interval", "100ms"]).args(more));
        assert!(ended.status.success(), "{ended:?}");
        is_harmless("standard output", &ended.stdout);
        is_harmless("standard error", &ended.stderr);
    }
}

#[test]
fn a_process_that_ends_while_profiler_attaches_is_no_disaster() {
    let program = if can_observe() { compiled("brief.c", &[]) } else { return };
    let Some(program) = program else { return };
    let mut codes = [0; 2];
    for round in 0..60_u64 {
        // Spread over 0 to 60 ms, in no order.
        let life = (round * 37 % 60 * 1000 + round * 131 % 1000).to_string();
        let mut child = Guarded(Command::new(&program).arg(&life).spawn().expect("it starts"));
        // Reaped at once, as a shell would.
        let pid = child.pid().to_string();
        let mut command = profiler(["--pid", &pid, "--once", "--interval", "100ms"]);
        command.stdin(Stdio::null());
        let reaper = std::thread::spawn(move || child.wait(LONG));
        let ended = run(&mut command);
        assert!(reaper.join().expect("the reaper doesn't panic").success());
        let complaints = ended.complaints();
        match ended.status.code() {
            Some(0) => assert!(complaints.is_empty(), "{life} us: {complaints:#?}"),
            Some(1) => is_refused(&ended, 1, &[&pid]),
            _ => panic!("{life} us: {:?}, {complaints:#?}", ended.status),
        }
        codes[usize::from(ended.status.code() == Some(1))] += 1;
        assert!(ended.took < Duration::from_secs(10), "{life} us: {:?}", ended.took);
    }
    println!("{} runs saw something of it, {} came too late", codes[0], codes[1]);
}

#[test]
fn a_program_that_does_not_exist_cannot_be_started() {
    if !can_observe() {
        return;
    }
    refused(&["run", "--", "/nowhere/program"], 1, &["/nowhere/program"]);
    assert!(!Path::new("/nowhere").exists());
}
