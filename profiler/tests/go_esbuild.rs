//! esbuild as its makers pack it for npm: a stripped Go program of others without build info, which exports nothing of itself.
//! What is true of it is told by Go's own trace of collections (`GODEBUG=gctrace=1`) and by the kernel.

mod common;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use common::{
    LONG, Scratch, can_observe,
    child::{Ended, Guarded, run},
    go::exposition::{fetch, parse, samples},
    influxd::quiet_port,
    profiler::{Watching, profiler},
    skip, within,
};

/// Where `cargo xtask test` has put the programs.
const PLACE: &str = "PROFILER_ESBUILD";

/// It, serving a bundle that it makes again and again.
struct Esbuild {
    // Its input stays open: it ends when that does.
    child: Guarded,
    address: SocketAddr,
    directory: Scratch,
    program: PathBuf,
}

/// What Go's trace says of a collection: `gc 8 @3.5s 0%: 0.53+13+0.031 ms clock, ... ms cpu, 22->24->9 MB, 26 MB goal, ...`
/// (documentation of package runtime).
#[derive(Clone, Debug, PartialEq)]
struct Collection {
    number: u64,
    /// The two stops of the world, in seconds.
    stopped: f64,
    /// What was found alive, whole MiB.
    alive: u64,
    /// What the collection before had as its goal, whole MiB.
    goal: u64,
}

impl Collection {
    fn read(line: &str) -> Option<Self> {
        let (number, rest) = line.strip_prefix("gc ")?.split_once(" @")?;
        let clock = rest.split_once("%: ")?.1.split_once(" ms clock")?.0;
        let times: Vec<f64> = clock.split('+').filter_map(|time| time.parse().ok()).collect();
        let [sweep, _, mark] = times[..] else { return None };
        let (heap, goal) = rest.split_once(" MB goal")?.0.split_once(" MB, ")?;
        Some(Self {
            number: number.parse().ok()?,
            stopped: (sweep + mark) / 1e3,
            alive: heap.rsplit("->").next()?.parse().ok()?,
            goal: goal.parse().ok()?,
        })
    }
}

impl Esbuild {
    /// Starts it; `None` if it isn't here: the test is skipped then.
    fn start(version: &str) -> Option<Self> {
        if !can_observe() {
            return None;
        }
        let Some(place) = std::env::var_os(PLACE) else {
            skip(&format!(
                "there is no esbuild: `cargo xtask test` fetches it and says in {PLACE} where it is"
            ));
            return None;
        };
        let program = PathBuf::from(place).join(version).join("node_modules/@esbuild/linux-x64/bin/esbuild");
        for _ in 0..5 {
            let directory = Scratch::directory("esbuild");
            let code: String = (0..3000)
                .map(|n| format!("export function f{n}(a) {{ return a * {n} + 'text' }}\n"))
                .collect();
            fs::write(directory.path().join("in.js"), code).expect("it can be written");
            let log = fs::File::create(directory.path().join("log")).expect("it can be written");
            let address = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
            let mut command = Command::new(&program);
            command.arg(format!("--serve={address}")).args(["--bundle", "in.js", "--outdir=out"]);
            command.current_dir(directory.path()).env("GODEBUG", "gctrace=1").env("GOMAXPROCS", "4");
            command.env_remove("GOGC").env_remove("GOMEMLIMIT");
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
            let child = Guarded(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
            let mut it = Self { child, address, directory, program: program.clone() };
            let ended = |it: &mut Self| !matches!(it.child.0.try_wait(), Ok(None));
            // Another one may have been faster with the port.
            if within(LONG, || fetch(it.address, "/in.js").is_some() || ended(&mut it)) && !ended(&mut it) {
                return Some(it);
            }
        }
        panic!("esbuild doesn't start");
    }

    fn collections(&self) -> Vec<Collection> {
        let log = fs::read_to_string(self.directory.path().join("log")).expect("its log");
        log.lines().filter_map(Collection::read).collect()
    }

    /// Lets it work until it has collected so often, all in all.
    fn collect(&self, times: usize) {
        let collected = || {
            fetch(self.address, "/in.js").expect("it answers");
            self.collections().len() >= times
        };
        assert!(within(LONG, collected), "it doesn't collect: {:?}", self.collections());
    }

    fn entries(&self, of: &str) -> f64 {
        fs::read_dir(format!("/proc/{}/{of}", self.child.pid())).expect("it runs").count() as f64
    }

    /// Memory of its own in RAM.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    }

    fn ask(&self, verb: &str) -> Ended {
        run(&mut profiler([verb, &self.child.pid().to_string()]))
    }

    /// Watches it until an answer to a scrape has this.
    fn watched(&self, path: &str, has: &str) -> Watching {
        let watching = Watching::process(self.child.pid());
        let mut last = String::new();
        let known = || {
            last = fetch(watching.address(), path).unwrap_or_default();
            last.contains(has)
        };
        let known = within(LONG, known);
        let of_go: Vec<_> = last.lines().filter(|line| line.contains("go_")).collect();
        assert!(known, "{has} isn't there: {of_go:#?}");
        watching
    }
}

const DROP_IN: &str = "/targets/esbuild/metrics";

#[test]
fn a_program_without_build_info_is_read_and_goes_with_its_own_trace() {
    let Some(esbuild) = Esbuild::start("0.27.0") else { return };
    esbuild.collect(6);
    let watching = esbuild.watched(DROP_IN, "\ngo_goroutines ");
    // Moments in which it didn't collect, and in which its threads and files stayed as many.
    let outside = || (esbuild.collections(), esbuild.entries("task"), esbuild.entries("fd"));
    let mut read = None;
    within(LONG, || {
        let before = (outside(), esbuild.resident());
        let _fresh = watching.now();
        let ours = samples(&parse(&fetch(watching.address(), DROP_IN).expect("it answers")));
        let same = outside() == before.0;
        read = same.then_some((ours, before));
        same
    });
    let (ours, ((trace, threads, files), resident)) = read.expect("it comes to rest");
    let all = fetch(watching.address(), "/metrics").expect("it answers");
    watching.finish();

    let last = trace.last().expect("it has collected");
    assert_eq!(ours["go_gc_duration_seconds_count"], last.number as f64, "{last:?}");
    // The trace has two digits of each stop.
    let stopped: f64 = trace.iter().map(|collection| collection.stopped).sum();
    let ours_stopped = ours["go_gc_duration_seconds_sum"];
    assert!((ours_stopped - stopped).abs() <= stopped * 0.05 + 1e-4, "{ours_stopped}, and not {stopped}");
    let mib = f64::from(1 << 20);
    let (alloc, goal) = (ours["go_memstats_alloc_bytes"], ours["go_memstats_next_gc_bytes"]);
    assert!(alloc >= last.alive as f64 * mib && alloc <= goal, "{alloc} with a goal of {goal}: {last:?}");
    let taken = ours["go_memstats_sys_bytes"] - ours["go_memstats_heap_released_bytes"];
    // Its variables are no memory that the runtime has taken: less than 1 MiB of them.
    assert!((alloc..=taken + mib).contains(&resident), "{resident} is resident: {alloc}, {taken}");
    assert_eq!((ours["go_threads"], ours["process_open_fds"]), (threads, files));
    assert_eq!(ours["go_sched_gomaxprocs_threads"], 4.0);

    // What the next collection is to begin at, it tells when it has been.
    esbuild.collect(trace.len() + 1);
    let next = esbuild.collections().into_iter().nth(trace.len()).expect("one more");
    assert_eq!((goal / mib).floor(), next.goal as f64, "{goal}: {next:?}");

    // Its file says the version nowhere but in the runtime's own variable, and names one alone.
    let bytes = fs::read(&esbuild.program).expect("the program");
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("go1.25.4") && !holds("\u{ff} Go buildinf:"), "it was packed anew");
    assert_eq!(ours["go_info{version=\"go1.25.4\"}"], 1.0);
    assert!(
        all.contains("profiler_go_table_info{target=\"esbuild\",table=\"1.25.4\",exact=\"true\"} 1"),
        "{all}"
    );
}

#[test]
fn goroutines_of_a_program_without_symbols_have_names_and_places() {
    let Some(esbuild) = Esbuild::start("0.27.0") else { return };
    let answer = esbuild.ask("stack");
    assert!(answer.status.success(), "{:?}", answer.complaints());
    let text = String::from_utf8(answer.stdout).expect("text");
    let goroutines = common::go::dump::parse(&text);
    let frames = |id: u64| &goroutines.iter().find(|told| told.id == id).expect("a goroutine").frames;
    let main = frames(1).last().expect("it waits");
    assert!(main.name == "main.main" && main.place.contains("cmd/esbuild/main.go:"), "{text}");
    // It waits for connections, by a package of its own and Go's.
    for name in ["github.com/evanw/esbuild/pkg/cli.Run", "net.(*TCPListener).Accept"] {
        assert!(goroutines.iter().flat_map(|told| &told.frames).any(|frame| frame.name == name), "{text}");
    }
    for frame in goroutines.iter().flat_map(|told| &told.frames) {
        let line = frame.place.rsplit_once(".go:").and_then(|(_, line)| line.parse::<u32>().ok());
        assert!(line.is_some_and(|line| line > 0), "{frame:?}");
    }
}

#[test]
fn a_program_of_a_go_without_a_table_is_refused_with_the_reason_and_the_way_out() {
    let Some(esbuild) = Esbuild::start("0.19.0") else { return };
    let watching =
        esbuild.watched("/metrics", "profiler_go_unavailable_info{target=\"esbuild\",what=\"figures\",");
    let drop_in = samples(&parse(&fetch(watching.address(), DROP_IN).expect("it answers")));
    let all = samples(&parse(&fetch(watching.address(), "/metrics").expect("it answers")));
    watching.finish();
    // What its file says is told, that nothing was lost by reading, and no figure.
    let losses = ["readings_repeated_total", "counters_held_back_total", "readers_lost_total"];
    for name in losses {
        assert_eq!(all[&format!("profiler_go_{name}{{target=\"esbuild\"}}")], 0.0);
    }
    assert_eq!(drop_in["go_info{version=\"go1.20.7\"}"], 1.0);
    let told = |key: &&String| {
        ["info", "mod_info", "unavailable_info"].iter().chain(&losses).any(|name| {
            let key = key.trim_start_matches("profiler_");
            key.strip_prefix("go_")
                .and_then(|key| key.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('{'))
        })
    };
    let of_go = |key: &&String| key.starts_with("go_") || key.starts_with("profiler_go_");
    let figures: Vec<_> = drop_in.keys().chain(all.keys()).filter(of_go).filter(|key| !told(key)).collect();
    assert!(figures.is_empty(), "{figures:?}");
    for verb in ["stats", "memstats", "stack"] {
        let answer = esbuild.ask(verb);
        let said = answer.complaints().join("\n");
        assert!(!answer.status.success() && answer.stdout.is_empty(), "{verb}: {answer:?}");
        for word in ["Go 1.20", "go1.20.7", "cargo xtask go-layouts"] {
            assert!(said.contains(word), "{verb}: {said}");
        }
    }
    let version = esbuild.ask("version");
    let said = String::from_utf8(version.stdout).expect("text");
    // The commit of esbuild's tag v0.19.0, which Go itself has recorded.
    assert!(said.contains("go1.20.7") && said.contains("c337498cdad8cac87517ec49c923441b2dc67bf2"), "{said}");
}

#[test]
fn a_line_of_gos_trace_is_read_as_it_is_documented() {
    let line = "gc 8 @3.527s 0%: 0.53+13+0.031 ms clock, 1.0+6.2/0.58/16+0.063 ms cpu, 22->24->9 MB, 26 MB goal, 0 MB stacks, \
                0 MB globals, 4 P";
    let read = Collection::read(line).expect("a collection");
    assert_eq!((read.number, read.alive, read.goal), (8, 9, 26));
    assert!((read.stopped - 0.000_561).abs() < 1e-9, "{read:?}");
    assert_eq!(Collection::read("127.0.0.1:1 - \"GET /in.js\" 200 [29ms]"), None);
}
