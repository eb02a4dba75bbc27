//! Whether the profiler said on a kernel what the program knows about itself.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::console::Console;

/// An emulated machine keeps time badly: seconds agree within this part of what is true.
const RELATIVE: f64 = 0.10;
/// A thread's CPU clock leaves out interrupts, which are slow in an emulator: as many seconds more may be seen on a CPU.
const INTERRUPTS: f64 = 0.25;
/// All states together are a matter of one clock.
const SUM_RELATIVE: f64 = 0.02;

/// One thing that was looked at.
pub struct Check {
    /// Its name.
    pub what: &'static str,
    /// What it came to, in a few characters.
    said: String,
    /// What isn't as it should be.
    pub wrong: Vec<String>,
}

/// All that was looked at on one kernel.
pub struct Verdict {
    doctor: Check,
    counts: Check,
    ledger: Check,
    end: Check,
}

impl Check {
    /// For a table.
    pub fn short(&self) -> String {
        match self.wrong.len() {
            0 => self.said.clone(),
            number => format!("{number} wrong"),
        }
    }

    /// What couldn't be looked at at all is wrong.
    fn of(what: &'static str, looked: Result<(String, Vec<String>)>) -> Self {
        match looked {
            Ok((said, wrong)) => Self { what, said, wrong },
            Err(error) => Self { what, said: String::new(), wrong: vec![format!("{error:#}")] },
        }
    }
}

impl Verdict {
    /// Compares what the profiler said with what the program said.
    pub fn of(console: &Console<'_>) -> Self {
        Self {
            doctor: Check::of("doctor", doctor(console)),
            counts: Check::of("counts", counts(console)),
            ledger: Check::of("ledger", ledger(console)),
            end: Check::of("end", Ok(end(console))),
        }
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.checks().iter().all(|check| check.wrong.is_empty())
    }

    /// Every check, in the order of the table.
    pub const fn checks(&self) -> [&Check; 4] {
        [&self.doctor, &self.counts, &self.ledger, &self.end]
    }
}

/// Every point of `profiler doctor --json` is in order.
fn doctor(console: &Console<'_>) -> Result<(String, Vec<String>)> {
    let said = json(console, "doctor")?;
    let points = said.as_array().filter(|points| !points.is_empty()).context("doctor said nothing")?;
    let failed: Vec<&Value> = points.iter().filter(|point| point["ok"] != true).collect();
    let wrong = failed.iter().map(|point| format!("{}: {}", text(&point["what"]), text(&point["detail"])));
    Ok((format!("{} of {}", points.len() - failed.len(), points.len()), wrong.collect()))
}

/// Every count is equal, not similar.
fn counts(console: &Console<'_>) -> Result<(String, Vec<String>)> {
    let (truth, target) = (truth(console)?, target(console)?);
    let of = |function: &str, key: &str| {
        let functions = target["functions"].as_array()?;
        // A function that was never called need not be listed.
        functions.iter().find(|one| one["function"] == function).map_or(Some(0), |one| one[key].as_i64())
    };
    let compared = [
        ("calls of malloc", "mallocs", of("malloc", "allocations")),
        ("calls of calloc", "callocs", of("calloc", "allocations")),
        ("calls of realloc", "reallocs", of("realloc", "allocations")),
        ("blocks realloc replaced", "reallocs", of("realloc", "frees")),
        ("calls of free", "frees", of("free", "frees")),
        ("bytes asked for", "bytes", target["allocated_bytes"].as_i64()),
        ("objects never freed", "leaked", target["live_objects"].as_i64()),
    ];
    let mut calls = 0;
    let mut wrong = Vec::new();
    for (what, key, said) in compared {
        let own = truth[key].as_i64().with_context(|| format!("the program didn't say its {key}"))?;
        if what.starts_with("calls") {
            calls += own;
        }
        if said != Some(own) {
            let said = said.map_or_else(|| "nothing".to_owned(), |number| number.to_string());
            wrong.push(format!("{what}: the program says {own}, the profiler {said}"));
        }
    }
    Ok((format!("{calls} calls"), wrong))
}

/// Thread time is what the program's own clocks say, nothing is lost, and no thread's end is missed.
fn ledger(console: &Console<'_>) -> Result<(String, Vec<String>)> {
    let (truth, report) = (truth(console)?, json(console, "report")?);
    let target = target(console)?;
    let own = |key: &str| {
        let number = truth[key].as_f64().with_context(|| format!("the program didn't say its {key}"))?;
        Ok::<_, anyhow::Error>(if key.ends_with("_ns") { number / 1e9 } else { number })
    };
    let states = target["thread_seconds"].as_object().context("the profiler kept no thread time")?;
    let state = |name: &str| states.get(name).and_then(Value::as_f64).unwrap_or_default();
    let observed = target["observed_seconds"].as_f64().context("the report has no observed_seconds")?;
    // One thread came and went; all others were there from the beginning to the end.
    let lived = own("threads")? * observed + own("visit_ns")?;
    let idle = lived - own("futex_ns")? - own("cpu_ns")?;
    let sum: f64 = states.values().filter_map(Value::as_f64).sum();
    let seconds = [
        ("all states", lived, sum, SUM_RELATIVE * lived),
        ("futex", own("futex_ns")?, state("futex"), RELATIVE * own("futex_ns")?),
        ("running", own("cpu_ns")?, state("running"), RELATIVE * own("cpu_ns")? + INTERRUPTS),
        ("sleeping", idle, state("sleeping"), RELATIVE * idle),
    ];
    let mut wrong: Vec<String> = seconds
        .iter()
        .filter(|(_, own, said, allowed)| (own - said).abs() > *allowed)
        .map(|(what, own, said, _)| {
            format!("{what}: {own:.2} s for the program, {said:.2} s in the profiler")
        })
        .collect();
    let stalls = target["stalls"].as_array().into_iter().flatten();
    let waits = stalls.filter(|stall| stall["cause"] == "futex").find_map(|stall| stall["count"].as_i64());
    for (what, key, said) in [
        ("waits for the futex", "waits", waits),
        ("threads that ended", "visits", target["threads_ended"].as_i64()),
    ] {
        if said != truth[key].as_i64() {
            let said = said.map_or_else(|| "nothing".to_owned(), |number| number.to_string());
            wrong.push(format!("{what}: the program says {}, the profiler {said}", truth[key]));
        }
    }
    let losses = report["events_lost"].as_object().into_iter().flatten();
    let losses = losses.filter(|(_, count)| count.as_u64() != Some(0));
    wrong.extend(losses.map(|(reason, count)| format!("events lost: {reason} {count}")));
    let off = if lived > 0.0 { (sum / lived - 1.0) * 100.0 } else { 0.0 };
    Ok((format!("{sum:.1} s ({off:+.2} %)"), wrong))
}

/// The profiler ended as asked, its programs left the kernel, and the target noticed nothing.
fn end(console: &Console<'_>) -> (String, Vec<String>) {
    // How it ended is told last.
    if !console.complete {
        return (String::new(), vec!["the machine didn't come to its end".to_owned()]);
    }
    let mut wrong = Vec::new();
    for (what, key) in [
        ("doctor's exit code", "doctor-exit"),
        ("the profiler's exit code", "profiler-exit"),
        ("the profiler's exit code with --log-level trace", "trace-exit"),
        ("the program's exit code", "program-exit"),
        ("BPF programs in the kernel before", "bpf-before"),
        ("BPF programs in the kernel afterwards", "bpf-after"),
    ] {
        match console.status(key) {
            Some("0") => {}
            Some(other) => wrong.push(format!("{what}: {other}")),
            None => wrong.push(format!("{what} is unknown")),
        }
    }
    for (what, key) in [
        ("the profiler wasn't ready in time", "not-ready"),
        ("the profiler ended before the program's work did", "ended-early"),
        ("the program ended with the profiler", "program-gone"),
    ] {
        if console.status(key).is_some() {
            wrong.push(what.to_owned());
        }
    }
    // Otherwise nothing left behind would prove nothing.
    if console.status("bpf-during").is_none_or(|number| number == "0") {
        wrong.push("no BPF program was seen in the kernel meanwhile".to_owned());
    }
    let complaints = console.section("complaints").unwrap_or_default();
    wrong.extend(complaints.lines().map(|line| format!("the kernel says: {line}")));
    ("clean".to_owned(), wrong)
}

/// What the program counted. It says `ready` first.
fn truth(console: &Console<'_>) -> Result<Value> {
    let said = console.section("truth").unwrap_or_default();
    let Some(line) = said.lines().find(|line| line.starts_with('{')) else {
        bail!("the program didn't say what it counted");
    };
    serde_json::from_str(line).context("what the program said isn't JSON")
}

/// The report's only target.
fn target(console: &Console<'_>) -> Result<Value> {
    let mut report = json(console, "report")?;
    match report["targets"].get_mut(0) {
        Some(target) => Ok(target.take()),
        None => bail!("the report has no target"),
    }
}

fn json(console: &Console<'_>, section: &str) -> Result<Value> {
    let said = console.section(section).filter(|said| !said.is_empty());
    let said = said.with_context(|| format!("the console has no {section}"))?;
    serde_json::from_str(&said).with_context(|| format!("the {section} isn't JSON"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests;
