//! A leak hunt by the real program, in programs whose leaks are known: the truth over time on one side, the last picture
//! on the other.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use profiler::{
    leaks::{Estimate, Picture, SiteReport, TargetReport},
    stack::{End, Stack},
};
use serde::Deserialize;

use super::{
    LONG, Scratch,
    child::{Guarded, Lines, run},
    has_program,
    helper::{Helper, compiled},
    http,
    profiler::profiler,
    skip,
};

/// What a planted call site has done since the beginning of its program.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Deeds {
    pub allocated_objects: u64,
    pub allocated_bytes: u64,
    pub freed_objects: u64,
    pub freed_bytes: u64,
    pub lost_objects: u64,
    pub lost_bytes: u64,
}

impl Deeds {
    pub fn live_bytes(&self) -> f64 {
        (self.allocated_bytes - self.freed_bytes) as f64
    }

    pub fn live_objects(&self) -> f64 {
        (self.allocated_objects - self.freed_objects) as f64
    }
}

/// What a program says of itself at a moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    pub realtime_ns: u64,
    pub sites: BTreeMap<String, Deeds>,
}

/// A program with planted call sites.
pub struct Planted {
    pub name: String,
    helper: Helper,
    truths: Vec<Truth>,
}

/// Options of an ordinary optimised build with debug information: no frame pointers, functions inlined.
const OPTIMISED: [&str; 2] = ["-O2", "-g"];

impl Planted {
    /// A program of `tests/programs/planted`, idle. `None` (and the test is skipped) if it can't be built here.
    pub fn start(source: &str, arguments: &[&str]) -> Option<Self> {
        let options: &[&str] = if source.ends_with(".rs") { &["-g"] } else { &OPTIMISED };
        let program = compiled(&format!("planted/{source}"), options)?;
        let name = [&[source], arguments].concat().join(" ");
        Some(Self { name, helper: Helper::start(&program, arguments), truths: Vec::new() })
    }

    /// The same for the extension, in Debian's Python.
    pub fn python(arguments: &[&str]) -> Option<Self> {
        let (module, python) = (extension()?, "/usr/bin/python3");
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/planted/driver.py");
        let mut command = Command::new(python);
        command.arg(driver).arg(module).args(arguments);
        Some(Self { name: "extension.c".into(), helper: Helper::spawn(&mut command), truths: Vec::new() })
    }

    pub fn pid(&self) -> u32 {
        self.helper.pid()
    }

    /// `start` or `pause`.
    pub fn tell(&mut self, line: &str) {
        self.helper.tell(line);
    }

    /// Asks for the truth and keeps it.
    pub fn ask(&mut self) {
        self.helper.tell("truth");
        let answer = self.helper.answer();
        let truth =
            serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("{answer}: {error}"));
        self.truths.push(truth);
    }

    /// What a site had done at a moment, interpolated between two answers. Nothing before the first.
    pub fn value_at(&self, site: &str, at: SystemTime, value: impl Fn(&Deeds) -> f64) -> f64 {
        let at = at.duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as f64;
        let points = self.truths.iter().map(|truth| (truth.realtime_ns as f64, value(&truth.sites[site])));
        let points: Vec<_> = points.collect();
        let next = points.partition_point(|(time, _)| *time < at);
        match (next.checked_sub(1).map(|last| points[last]), points.get(next)) {
            (Some((from, first)), Some((to, last))) => first + (last - first) * (at - from) / (to - from),
            (Some((_, last)), None) => last,
            (None, _) => 0.0,
        }
    }

    /// Bytes per second that a site has lost, from one moment to another.
    pub fn rate_lost(&self, site: &str, from: SystemTime, to: SystemTime) -> f64 {
        let lost = |at| self.value_at(site, at, |deeds| deeds.lost_bytes as f64);
        let seconds = to.duration_since(from).expect("one after the other").as_secs_f64();
        (lost(to) - lost(from)) / seconds
    }

    /// The last answer.
    pub fn last(&self, site: &str) -> Deeds {
        self.truths.last().expect("it was asked").sites[site]
    }
}

/// The extension module, built for Debian's Python. `None` if it can't be built here.
fn extension() -> Option<PathBuf> {
    if !has_program("/usr/bin/python3") {
        return None;
    }
    let script = "import sysconfig; print(sysconfig.get_path('include'))";
    let said = run(Command::new("/usr/bin/python3").args(["-c", script])).stdout;
    let headers = String::from_utf8(said).expect("a path").trim().to_owned();
    if !Path::new(&headers).join("Python.h").exists() {
        skip("there are no headers of Python (python3-dev)");
        return None;
    }
    compiled("planted/extension.c", &["-O2", "-g", "-shared", "-fPIC", &format!("-I{headers}")])
}

/// A hunt that is under way.
pub struct Hunt {
    child: Guarded,
    stdout: JoinHandle<Vec<u8>>,
    stderr: Lines,
    address: SocketAddr,
    report: Scratch,
    _history: Scratch,
}

impl Hunt {
    /// Begins a hunt in these programs, for so long; returns when it sees every call, and then they begin to work.
    pub fn begin(programs: &mut [Planted], length: Duration, more: &[&str]) -> Self {
        let (report, history) = (Scratch::name("picture.json"), Scratch::name("history"));
        // Not --json, which says nothing of the beginning.
        let mut command = profiler(["leaks", "--listen", "127.0.0.1:0", "--group-by", "pid", "--for"]);
        command.arg(format!("{}ms", length.as_millis()));
        command.arg("--report").arg(report.path()).arg("--history").arg(history.path());
        for program in programs.iter() {
            command.args(["--pid", &program.pid().to_string()]);
        }
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guarded(command.spawn().expect("profiler starts"));
        let mut stdout = child.0.stdout.take().expect("it is a pipe");
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is.
            let _read = stdout.read_to_end(&mut bytes);
            bytes
        });
        let stderr = Lines::of(child.0.stderr.take().expect("it is a pipe"));
        let mut said = Vec::new();
        let address = loop {
            let Some(line) = stderr.next(LONG) else { panic!("profiler ended at its start: {said:#?}") };
            let line = String::from_utf8(line).expect("what profiler says is UTF-8");
            if line.starts_with("profiler: watching") {
                break line.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
            }
            said.push(line);
        };
        let address = address.expect("it says where it listens");
        for program in programs {
            program.tell("start");
        }
        Self { child, stdout, stderr, address, report, _history: history }
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Events that it says were lost for this reason.
    pub fn lost(&self, reason: &str) -> u64 {
        let metrics = http::get(self.address, "/metrics");
        let line = format!("profiler_events_lost_total{{reason=\"{reason}\"}} ");
        let number = metrics.text().lines().find_map(|text| text.strip_prefix(&line)?.parse().ok());
        number.unwrap_or_else(|| panic!("no {line}"))
    }

    /// Whether it still goes on.
    pub fn goes_on(&mut self) -> bool {
        matches!(self.child.0.try_wait(), Ok(None))
    }

    /// Waits for the end, asks for truths until then, and reads the picture.
    pub fn finish(mut self, programs: &mut [Planted], limit: Duration) -> Picture {
        let end = Instant::now() + limit;
        while self.goes_on() {
            assert!(Instant::now() < end, "the hunt doesn't end within {limit:?}");
            for program in programs.iter_mut() {
                program.ask();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for program in programs {
            program.ask();
        }
        let status = self.child.wait(LONG);
        let complaints = self.stderr.rest();
        let complaints: Vec<_> = complaints.iter().map(|line| String::from_utf8_lossy(line)).collect();
        assert_eq!(status.code(), Some(0), "{complaints:#?}");
        let stdout = self.stdout.join().expect("a reader doesn't panic");
        let report = std::fs::read(self.report.path()).unwrap_or_default();
        serde_json::from_slice(&report)
            .unwrap_or_else(|error| panic!("{error}: {}\n{complaints:#?}", String::from_utf8_lossy(&stdout)))
    }
}

/// Hunts for so long, with all of them at work from beginning to end.
pub fn hunt(programs: &mut [Planted], length: Duration, more: &[&str]) -> Picture {
    let hunt = Hunt::begin(programs, length, more);
    hunt.finish(programs, length + LONG)
}

/// Hunts in each of them with a profiler of its own, all at the same time.
pub fn hunt_each(programs: &mut [Planted], lengths: &[Duration], more: &[&str]) -> Vec<Picture> {
    std::thread::scope(|scope| {
        let each = programs.iter_mut().zip(lengths);
        let hunts =
            each.map(|(program, length)| scope.spawn(|| hunt(std::slice::from_mut(program), *length, more)));
        let hunts: Vec<_> = hunts.collect();
        hunts.into_iter().map(|hunt| hunt.join().expect("a hunt that ends well")).collect()
    })
}

/// What is said of a program.
pub fn report<'a>(picture: &'a Picture, program: &Planted) -> &'a TargetReport {
    let mut reports = picture.targets.iter().filter(|target| target.pids.contains(&program.pid()));
    reports.next().unwrap_or_else(|| panic!("{} isn't in the picture: {picture:#?}", program.name))
}

/// The moment of a report's figures. The picture is of a later one: functions were named in between.
pub fn moment(report: &TargetReport) -> SystemTime {
    report.since + report.watched
}

/// The functions of a stack, innermost first, inlined ones included.
pub fn names(stack: &Stack) -> Vec<String> {
    stack.frames.iter().flat_map(profiler::stack::Frame::names).collect()
}

/// Whether a function is on the stack of a site.
pub fn names_function(site: &SiteReport, function: &str) -> bool {
    names(&site.stack).iter().any(|name| name.contains(function))
}

/// Whether these functions call one another, the first one being called last, and the stack is whole. What is called
/// between them (a library's own functions) may be there, too.
pub fn has_callers(stack: &Stack, functions: &[&str]) -> bool {
    let names = names(stack);
    let mut rest = names.iter();
    stack.end == End::Complete && functions.iter().all(|wanted| rest.any(|name| name.contains(wanted)))
}

/// How far the truth lies from an estimate, in halves of its interval on that side: at most 1 if it lies inside.
pub fn distance(estimate: &Estimate, truth: f64) -> f64 {
    let side =
        if truth < estimate.value { estimate.value - estimate.low } else { estimate.high - estimate.value };
    let away = (truth - estimate.value).abs();
    if away == 0.0 { 0.0 } else { away / side }
}
