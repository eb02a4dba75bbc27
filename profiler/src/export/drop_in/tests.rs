use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use super::*;
use crate::test_support::moment::{go_target, target};

/// What client_golang describes at commit 89c60c05: `# HELP` and `# TYPE` of each family of its Go collector with default
/// options and of its process collector on Linux, taken from its source; without `process_network_*`.
const CLIENT_GOLANG: &str = include_str!("client_golang.txt");

/// What it had until 1.19, and until it read `runtime/metrics`, that old dashboards still ask for.
const OF_OLD: &str = "\
# HELP go_memstats_gc_cpu_fraction The fraction of this program's available CPU time used by the GC since the program started.
# TYPE go_memstats_gc_cpu_fraction gauge
# HELP go_memstats_lookups_total Total number of pointer lookups.
# TYPE go_memstats_lookups_total counter
";

/// prommod's, for this program (prommod.go, `NewCollector`).
const PROMMOD: &str = "\
# HELP go_mod_info A metric with a constant '1' value labeled by dependency name, version, from which shopd was built.
# TYPE go_mod_info gauge
";

fn rendered(target: &TargetSnapshot) -> String {
    render(target).unwrap()
}

/// Help and type of each family.
fn described(text: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().0 = help.to_owned();
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().1 = kind.to_owned();
        }
    }
    families
}

fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[test]
fn a_go_program_has_the_families_of_client_golang_and_prommod_word_for_word() {
    let theirs = described(&[CLIENT_GOLANG, OF_OLD, PROMMOD].concat());
    assert_eq!(theirs.len(), 39);
    let ours = described(&rendered(&go_target("shop")));
    for (name, family) in &theirs {
        assert_eq!(ours.get(name), Some(family), "{name}");
    }
    assert_eq!(ours.len(), theirs.len(), "{:?}", ours.keys());
}

#[test]
fn every_figure_has_its_value_and_no_label_more() {
    let text = rendered(&go_target("shop"));
    let expected = "go_goroutines 12, go_threads 7, go_info{version=\"go1.23.9\"} 1, go_sched_gomaxprocs_threads 4, \
        go_gc_gogc_percent 18446744073709551615, go_gc_gomemlimit_bytes 9223372036854775807, \
        go_gc_duration_seconds{quantile=\"0\"} 0.0001, go_gc_duration_seconds{quantile=\"0.25\"} 0.0002, \
        go_gc_duration_seconds{quantile=\"0.5\"} 0.0003, go_gc_duration_seconds{quantile=\"0.75\"} 0.0004, \
        go_gc_duration_seconds{quantile=\"1\"} 0.0005, go_gc_duration_seconds_sum 0.0015, go_gc_duration_seconds_count 5, \
        go_memstats_alloc_bytes 1000000, go_memstats_alloc_bytes_total 9000000, go_memstats_sys_bytes 14000000, \
        go_memstats_lookups_total 0, go_memstats_mallocs_total 70000, go_memstats_frees_total 60000, \
        go_memstats_heap_alloc_bytes 1000000, go_memstats_heap_sys_bytes 8000000, go_memstats_heap_idle_bytes 5000000, \
        go_memstats_heap_inuse_bytes 3000000, go_memstats_heap_released_bytes 2000000, go_memstats_heap_objects 10000, \
        go_memstats_stack_inuse_bytes 400000, go_memstats_stack_sys_bytes 500000, go_memstats_mspan_inuse_bytes 60000, \
        go_memstats_mspan_sys_bytes 65000, go_memstats_mcache_inuse_bytes 4800, go_memstats_mcache_sys_bytes 15600, \
        go_memstats_buck_hash_sys_bytes 1400000, go_memstats_gc_sys_bytes 2700000, go_memstats_other_sys_bytes 900000, \
        go_memstats_next_gc_bytes 4194304, go_memstats_last_gc_time_seconds 1767323100.5, \
        go_memstats_gc_cpu_fraction 0.015625, process_cpu_seconds_total 1.5, process_open_fds 9, process_max_fds 1024, \
        process_virtual_memory_bytes 1073741824, process_virtual_memory_max_bytes 18446744073709551615, \
        process_resident_memory_bytes 20971520, process_start_time_seconds 1767323045.25, \
        go_mod_info{name=\"example.com/fork\",version=\"v0.9.0\",program=\"shopd\"} 1, \
        go_mod_info{name=\"github.com/prometheus/client_golang\",version=\"v1.20.5\",program=\"shopd\"} 1, \
        go_mod_info{name=\"golang.org/x/sys\",version=\"v0.28.0\",program=\"shopd\"} 1"
        .replace(", ", "\n");
    assert_eq!(samples(&text), samples(&expected), "{text}");
}

#[test]
fn what_is_no_go_program_has_its_process_and_what_cannot_be_told_is_absent() {
    let only = |text: &str, prefixes: &[&str]| {
        assert!(
            text.lines()
                .all(|line| line.starts_with('#') || prefixes.iter().any(|start| line.starts_with(start))),
            "{text}"
        );
    };
    let mut other = go_target("other");
    (other.go, other.programs) = (None, Vec::new());
    let text = rendered(&other);
    only(&text, &["process_"]);
    assert_eq!(samples(&text).len(), 7, "{text}");
    let mut unknown = go_target("unknown");
    unknown.go.as_mut().unwrap().figures = None;
    unknown.programs.clear();
    let text = rendered(&unknown);
    only(&text, &["process_", "go_info{"]);
    assert_eq!(samples(&text).len(), 8, "{text}");
    assert_eq!(rendered(&target("nothing known")), "");
}

#[test]
fn a_hostile_program_is_no_more_than_a_label_and_nothing_comes_twice() {
    let mut hostile = go_target("shop");
    let mut program = (*hostile.programs[0]).clone();
    let info = program.go.as_mut().unwrap().info.as_mut().unwrap();
    info.path = "a/b\nup 7\n# TYPE x\\".to_owned();
    info.dependencies[0].version = "v1\"} 5\nup 8".to_owned();
    info.dependencies.push(info.dependencies[0].clone());
    hostile.programs = vec![program.clone().into(), program.into()];
    let text = rendered(&hostile);
    assert!(!text.lines().any(|line| line.starts_with("up ") || line.starts_with("# TYPE x")), "{text}");
    let modules: Vec<_> = text.lines().filter(|line| line.starts_with("go_mod_info{")).collect();
    assert_eq!(modules.len(), 3, "{modules:?}");
}

/// Prometheus' own parser; what it says of names is said of client_golang's, too.
#[test]
fn promtool_reads_it() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        println!("SKIPPED: no promtool");
        assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "no promtool");
        return;
    };
    promtool.stdin.take().unwrap().write_all(rendered(&go_target("shop")).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // 1: it can't be read. 3: names could be better; those of Go's library are what they are.
    assert_ne!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("error while linting"), "{said}");
}
