//! What is served over HTTP: to Prometheus, to supervisors, to people.

mod common;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    alone, can_observe,
    child::Guarded,
    has_program,
    helper::{Helper, compiled},
    profiler::Watching,
};
use serde_json::Value;

/// A busy process under observation.
fn observed() -> Option<(Helper, Watching)> {
    if !can_observe() {
        return None;
    }
    let helper = Helper::start(&compiled("busy.c", &[])?, &["2"]);
    let watching = Watching::process(helper.pid());
    Some((helper, watching))
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    if !has_program("promtool") {
        return;
    }
    let Some((_helper, watching)) = observed() else { return };
    let page = watching.get("/metrics");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = Guarded(command.spawn().expect("promtool starts"));
    let mut stdin = promtool.0.stdin.take().expect("it is a pipe");
    stdin.write_all(&page.body).expect("promtool reads");
    drop(stdin);
    let said = std::io::read_to_string(promtool.0.stdout.take().expect("it is a pipe")).expect("text");
    let complaints = std::io::read_to_string(promtool.0.stderr.take().expect("it is a pipe")).expect("text");
    let status = promtool.wait(Duration::from_secs(20));
    assert_eq!((said.as_str(), complaints.as_str()), ("", ""), "{}", page.text());
    assert!(status.success());
}

/// Families that dashboards and alarms are built on, with the labels of each.
const REQUIRED: [(&str, &[&str]); 22] = [
    ("profiler_target_info", &["target", "pid", "comm", "exe"]),
    ("profiler_target_up", &["target"]),
    ("profiler_target_observed_seconds", &["target"]),
    ("profiler_target_alloc_info", &["target", "state", "reason"]),
    ("profiler_allocations_total", &["target", "allocator", "function"]),
    ("profiler_frees_total", &["target", "allocator", "function"]),
    ("profiler_allocated_bytes_total", &["target", "allocator"]),
    ("profiler_allocations_refused_total", &["target", "allocator", "function"]),
    ("profiler_live_objects", &["target", "allocator"]),
    ("profiler_probe_hits_total", &["target", "allocator", "function"]),
    ("profiler_thread_seconds_total", &["target", "state"]),
    ("profiler_stalls_total", &["target", "cause"]),
    ("profiler_stall_seconds_bucket", &["target", "cause", "le"]),
    ("profiler_stall_threshold_seconds", &[]),
    ("profiler_process_cpu_seconds_total", &["target"]),
    ("profiler_process_resident_memory_bytes", &["target"]),
    ("profiler_process_threads", &["target"]),
    ("profiler_process_page_faults_total", &["target", "kind"]),
    ("profiler_events_lost_total", &["reason"]),
    ("profiler_build_info", &["version", "revision", "branch", "rustversion", "os", "arch"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
];

/// The names of a series' labels. None of the values of a helper holds a comma or a quote.
fn labels(series: &str) -> Vec<String> {
    let inside = series.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    let mut names: Vec<_> = inside
        .split("\",")
        .filter_map(|pair| pair.split_once('=').map(|(name, _)| name.trim().to_owned()))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn every_family_that_is_promised_is_there_with_its_labels() {
    let Some((_helper, watching)) = observed() else { return };
    let page = watching.get("/metrics");
    for (family, expected) in REQUIRED {
        let mut series = page.text().lines().filter(|line| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let first = series.next().unwrap_or_else(|| panic!("{family} is missing in {}", page.text()));
        let (series, _) = first.rsplit_once(' ').expect("a value");
        let mut expected: Vec<_> = expected.iter().map(|label| (*label).to_owned()).collect();
        expected.sort_unstable();
        assert_eq!(labels(series), expected, "{first}");
    }
}

#[test]
fn supervisors_people_and_programs_get_an_answer_each() {
    let Some((helper, watching)) = observed() else { return };
    let (healthy, ready) = (watching.get("/-/healthy"), watching.get("/-/ready"));
    assert_eq!((healthy.status, healthy.text()), (200, "profiler is healthy\n"));
    assert_eq!((ready.status, ready.text()), (200, "profiler is ready\n"));
    let targets = watching.get("/api/v1/targets");
    assert_eq!((targets.status, targets.header("content-type")), (200, Some("application/json")));
    let document: Value = serde_json::from_str(targets.text()).expect("the answer is JSON");
    assert_eq!(document["targets"][0]["pid"], helper.pid());
    let page = watching.get("/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
    assert!(page.text().contains(&format!("<td>{}</td>", helper.pid())), "{}", page.text());
    assert!(page.text().contains("busy_c"), "{}", page.text());
    assert_eq!(watching.get("/nowhere").status, 404);
}

#[test]
fn a_scrape_needs_less_than_fifty_milliseconds() {
    if !can_observe() {
        return;
    }
    let _alone = alone();
    let Some((_helper, watching)) = observed() else { return };
    let mut times: Vec<_> = (0..20).map(|_| watching.get("/metrics").took).collect();
    times.sort_unstable();
    println!("fastest {:?}, median {:?}, slowest {:?}", times[0], times[10], times[19]);
    // What else runs on the machine makes some slower; none can be faster than what a scrape needs.
    assert!(times[0] < Duration::from_millis(50), "{times:?}");
}

#[test]
fn the_end_of_the_process_is_the_end_of_profiler() {
    let Some((mut helper, watching)) = observed() else { return };
    let pid = helper.pid();
    let before = watching.now();
    helper.tell("stop");
    assert_eq!(helper.answer()["wrong"], 0);
    assert!(helper.end().success());
    let finished = watching.wait();
    let target = finished.target();
    // It may say that it is done, and has nothing to complain about.
    assert!(
        finished.complaints.iter().all(|line| line.starts_with("profiler: done")),
        "{:?}",
        finished.complaints
    );
    assert_eq!((&target["pid"], &target["up"]), (&Value::from(pid), &Value::from(false)));
    assert!(target["allocations"].as_u64() > before["allocations"].as_u64(), "{target:#}");
    assert!(target["observed_seconds"].as_f64() >= before["observed_seconds"].as_f64(), "{target:#}");
}
