//! `profiler doctor`: what this machine can do, found out by trying it.

use std::{fmt::Write as _, io::Write as _, process::ExitCode, time::Duration};

use serde::Serialize;

use crate::{
    build_info::BUILD,
    kernel::{Capability, Facts, Placement, Plan, Wanted},
    screen::SCREEN,
    session::{Chosen, Images, Session},
    snapshot::{AllocState, Snapshot},
    target::Process,
};

/// How many blocks the trial allocates and frees.
const TRIAL: u64 = 1000;

#[derive(Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    way_out: Option<String>,
}

/// Checks everything and prints it; exit code 1 if something can't be done.
///
/// # Errors
///
/// If the result can't be printed.
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let checks = check();
    let ok = checks.iter().all(|check| check.ok);
    let text = if json { format!("{}\n", serde_json::to_string_pretty(&checks)?) } else { render(&checks) };
    // Whoever closes the pipe early has read enough.
    let _written = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(u8::from(!ok)))
}

fn render(checks: &[Check]) -> String {
    let colour = SCREEN.style().colour;
    let mut text = String::new();
    for check in checks {
        let mark = match (check.ok, colour) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "ok  ",
            (false, true) => "\x1b[31m✗\x1b[0m",
            (false, false) => "FAIL",
        };
        // Writing to a string can't fail.
        let _infallible = writeln!(text, "{mark} {:<22} {}", check.what, check.detail);
        if let Some(way_out) = &check.way_out {
            let _infallible = writeln!(text, "  {:<22} → {way_out}", "");
        }
    }
    text
}

fn check() -> Vec<Check> {
    let facts = Facts::gather();
    let mut checks = vec![
        Check {
            what: "build",
            ok: true,
            detail: format!("profiler {} ({}), rustc {}", BUILD.version, BUILD.revision, BUILD.rustc),
            way_out: None,
        },
        Check {
            what: "kernel",
            ok: facts.version() >= (5, 18),
            detail: format!("Linux {} on {}", facts.release, facts.machine),
            way_out: (facts.version() < (5, 18)).then(|| "stalls need 5.18, counting needs 5.15".to_owned()),
        },
        rights(&facts),
        fact(
            "uprobes",
            facts.uprobes,
            "the kernel has them",
            "a kernel with CONFIG_UPROBE_EVENTS, or --alloc off",
        ),
        fact(
            "type information",
            facts.btf,
            Facts::BTF_PATH,
            "a kernel with CONFIG_DEBUG_INFO_BTF, or --stalls off",
        ),
        fact(
            "pid namespace",
            facts.initial_pid_namespace,
            "process ids mean the same here and in the kernel",
            "run on the host or with hostPID, or --stalls off",
        ),
        fact(
            "lockdown",
            facts.lockdown != "confidentiality",
            &facts.lockdown,
            "boot with lockdown=integrity or without",
        ),
    ];
    checks.extend(trials(&facts));
    checks
}

fn fact(what: &'static str, ok: bool, detail: &str, way_out: &str) -> Check {
    let detail = if ok { detail.to_owned() } else { format!("not so: {detail}") };
    Check { what, ok, detail, way_out: (!ok).then(|| way_out.to_owned()) }
}

fn rights(facts: &Facts) -> Check {
    let needed = [Capability::Bpf, Capability::Perfmon, Capability::SysPtrace];
    let missing: Vec<_> =
        needed.into_iter().filter(|right| !facts.may(*right)).map(Capability::name).collect();
    Check {
        what: "rights",
        ok: missing.is_empty(),
        detail: if missing.is_empty() {
            needed.map(Capability::name).join(", ")
        } else {
            format!("missing: {}", missing.join(", "))
        },
        way_out: (!missing.is_empty()).then(|| "sudo profiler doctor".to_owned()),
    }
}

/// Does the real thing, on ourselves.
fn trials(facts: &Facts) -> Vec<Check> {
    let trial = |what, wanted, verdict: fn(&Snapshot, Option<Placement>) -> Result<String, String>| {
        let outcome = Plan::decide(wanted, facts)
            .map_err(|error| error.to_string())
            .and_then(|_| observe_ourselves(wanted).map_err(|error| error.to_string()))
            .and_then(|(last, placement)| verdict(&last, placement));
        match outcome {
            Ok(detail) => Check { what, ok: true, detail, way_out: None },
            Err(detail) => Check { what, ok: false, detail, way_out: None },
        }
    };
    vec![
        trial("counting allocations", Wanted { alloc: true, ..Wanted::NOTHING }, |last, placement| {
            let target = last.targets.first().ok_or("no snapshot")?;
            if let Some((AllocState::NotCounting(reason), _)) = target.alloc_states().first() {
                return Err(reason.clone());
            }
            let total = target.alloc.total();
            if total.allocated() < TRIAL || total.freed() < TRIAL {
                return Err(format!(
                    "of {TRIAL} pairs, {} and {} were seen",
                    total.allocated(),
                    total.freed()
                ));
            }
            Ok(format!(
                "tried on ourselves: {} probes ({}), {} calls seen",
                target.alloc.sites.len(),
                placement.map_or("none", Placement::name),
                total.hits()
            ))
        }),
        trial("measuring stalls", Wanted { stalls: true, ..Wanted::NOTHING }, |last, _| {
            let kept = last.targets.first().and_then(|target| target.ledger).ok_or("no ledger")?;
            let (sum, time) = (kept.ledger.total_seconds(), last.targets[0].observed.as_secs_f64());
            if sum < time * 0.9 {
                return Err(format!("only {sum:.3} s of {time:.3} s were accounted for"));
            }
            Ok(format!("tried on ourselves: {} threads followed", kept.ledger.living))
        }),
    ]
}

fn observe_ourselves(wanted: Wanted) -> anyhow::Result<(Snapshot, Option<Placement>)> {
    let mut session = Session::open(wanted, 1, Duration::from_millis(1), false, Images::new(None, false)?)?;
    let process = Process::open(std::process::id())?;
    session.attach(Chosen { process, group: "profiler".into(), follow: false })?;
    for _ in 0..TRIAL {
        // SAFETY: a block that is freed at once; the C library's own functions, which is where the probes are.
        unsafe { libc::free(std::hint::black_box(libc::malloc(64))) };
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok((session.finish()?, session.placement()))
}
