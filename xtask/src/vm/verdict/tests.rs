use serde_json::{Value, json};

use super::super::console::Console;
use super::Verdict;

/// What a machine says on which everything is right.
struct Said {
    doctor: Value,
    truth: Value,
    report: Value,
    status: String,
    complaints: &'static str,
}

impl Said {
    fn new() -> Self {
        Self {
            doctor: json!([{"what": "kernel", "ok": true, "detail": "Linux"}, {"what": "rights", "ok": true, "detail": ""}]),
            truth: json!({"mallocs": 40, "callocs": 16, "reallocs": 11, "frees": 54, "bytes": 65406, "leaked": 2,
                "threads": 3, "visits": 1, "visit_ns": 500_000_000, "waits": 15, "futex_ns": 1_500_000_000,
                "nap_ns": 1_500_000_000, "cpu_ns": 400_000_000}),
            report: json!({"targets": [{"functions": [
                {"function": "malloc", "allocations": 40, "frees": 0},
                {"function": "calloc", "allocations": 16, "frees": 0},
                {"function": "realloc", "allocations": 11, "frees": 11},
                {"function": "free", "allocations": 0, "frees": 54}],
                "allocated_bytes": 65406, "live_objects": 2, "observed_seconds": 6.0, "threads_ended": 1,
                "thread_seconds": {"running": 0.4, "runnable": 0.1, "futex": 1.5, "sleeping": 16.5, "disk": 0.0},
                "stalls": [{"cause": "disk", "count": 3}, {"cause": "futex", "count": 15}]}],
                "events_lost": {"threads_full": 0}}),
            status:
                "doctor-exit 0\nprofiler-exit 0\ntrace-exit 0\nprogram-exit 0\nbpf-before 0\nbpf-during 5\nbpf-after 0\n"
                    .to_owned(),
            complaints: "",
        }
    }

    /// The checks in short, and all that is wrong.
    fn judged(&self) -> (Vec<String>, Vec<String>) {
        let Self { doctor, truth, report, status, complaints } = self;
        let sections = [
            ("doctor", format!("{doctor:#}")),
            ("truth", format!("ready\n{truth}")),
            ("report", format!("{report:#}")),
            ("status", status.clone()),
            ("complaints", (*complaints).to_owned()),
        ];
        let sections = sections.map(|(name, text)| format!("@@begin {name}\n{text}\n@@end {name}\n"));
        let text = format!("@@booted 6.1\n{}@@over\n", sections.concat());
        let verdict = Verdict::of(&Console::read(&text));
        let checks = verdict.checks();
        assert_eq!(verdict.is_good(), checks.iter().all(|check| check.wrong.is_empty()));
        let wrong = checks.iter().flat_map(|check| check.wrong.clone()).collect();
        (checks.iter().map(|check| check.short()).collect(), wrong)
    }

    fn only_wrong(&self, what: &str) {
        let (_, wrong) = self.judged();
        assert_eq!(wrong, [what]);
    }
}

#[test]
fn a_machine_on_which_all_agrees_is_good() {
    let (short, wrong) = Said::new().judged();
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(short, ["2 of 2", "121 calls", "18.5 s (+0.00 %)", "clean"]);
}

#[test]
fn a_point_of_doctor_that_fails_is_told_with_its_reason() {
    let mut said = Said::new();
    said.doctor[1] = json!({"what": "rights", "ok": false, "detail": "none"});
    said.only_wrong("rights: none");
    assert_eq!(said.judged().0[0], "1 wrong");
}

#[test]
fn a_count_that_is_off_by_one_is_wrong() {
    let mut said = Said::new();
    said.report["targets"][0]["functions"][3]["frees"] = json!(53);
    said.only_wrong("calls of free: the program says 54, the profiler 53");
}

#[test]
fn a_thread_whose_time_is_missing_is_wrong_by_the_sum() {
    let mut said = Said::new();
    said.report["targets"][0]["thread_seconds"]["sleeping"] = json!(16.0);
    said.only_wrong("all states: 18.50 s for the program, 18.00 s in the profiler");
}

#[test]
fn time_in_the_wrong_state_is_wrong_though_the_sum_is_right() {
    let mut said = Said::new();
    said.report["targets"][0]["thread_seconds"]["futex"] = json!(1.2);
    said.report["targets"][0]["thread_seconds"]["sleeping"] = json!(16.8);
    said.only_wrong("futex: 1.50 s for the program, 1.20 s in the profiler");
}

#[test]
fn a_missed_wait_a_missed_end_and_a_lost_event_are_wrong() {
    let mut said = Said::new();
    said.report["targets"][0]["stalls"][1]["count"] = json!(14);
    said.report["targets"][0]["threads_ended"] = json!(0);
    said.report["events_lost"]["threads_full"] = json!(2);
    let wrong = [
        "waits for the futex: the program says 15, the profiler 14",
        "threads that ended: the program says 1, the profiler 0",
        "events lost: threads_full 2",
    ];
    assert_eq!(said.judged().1, wrong);
}

#[test]
fn programs_left_in_the_kernel_and_its_complaints_are_wrong() {
    let mut said = Said::new();
    said.status = said.status.replace("bpf-after 0", "bpf-after 4");
    said.only_wrong("BPF programs in the kernel afterwards: 4");
    let mut said = Said::new();
    said.complaints = "WARNING: suspicious";
    said.only_wrong("the kernel says: WARNING: suspicious");
    let mut said = Said::new();
    said.status = said.status.replace("bpf-during 5", "bpf-during 0");
    said.only_wrong("no BPF program was seen in the kernel meanwhile");
}

#[test]
fn a_console_that_breaks_off_is_wrong_everywhere() {
    let verdict = Verdict::of(&Console::read("Booting from ROM\nKernel panic"));
    let [doctor, counts, ledger, end] = verdict.checks();
    assert_eq!(doctor.wrong, ["the console has no doctor"]);
    assert_eq!(counts.wrong, ["the program didn't say what it counted"]);
    assert_eq!(ledger.wrong, counts.wrong);
    assert_eq!(end.wrong, ["the machine didn't come to its end"]);
}
