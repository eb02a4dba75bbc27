//! The workload's own numbers beside the profiler's.

use anyhow::{Context, Result};
use serde_json::Value;

/// Two clocks never agree to the last digit: seconds count as equal within this part of the larger one ...
const RELATIVE: f64 = 0.10;
/// ... and this many seconds.
const ABSOLUTE: f64 = 0.25;

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    what: &'static str,
    workload: String,
    profiler: String,
    /// Whether both say the same.
    pub agrees: bool,
}

/// Compares the workload's JSON with the final report of the profiler.
pub fn rows(truth: &Value, report: &Value) -> Result<Vec<Row>> {
    let target = report["targets"]
        .as_array()
        .and_then(|targets| targets.iter().find(|target| target["target"] == "demo"))
        .context("the report has no target named demo")?;
    let said = |function: &str, key: &str| of_function(target, function, key);
    let mut rows = vec![
        count("calls of malloc", truth, "mallocs", said("malloc", "allocations")),
        count("calls of calloc", truth, "callocs", said("calloc", "allocations")),
        count("calls of realloc", truth, "reallocs", said("realloc", "allocations")),
        count("blocks realloc replaced", truth, "reallocs", said("realloc", "frees")),
        count("calls of free", truth, "frees", said("free", "frees")),
        count("bytes asked for", truth, "bytes", target["allocated_bytes"].as_u64()),
        count("objects never freed", truth, "leaked_objects", target["live_objects"].as_u64()),
    ];
    if let Some(live) = target.get("live_bytes") {
        rows.push(count("bytes never freed", truth, "leaked_bytes", live.as_u64()));
    }
    let seconds_of = |state: &str| target["thread_seconds"][state].as_f64();
    rows.push(seconds("seconds waiting for a lock", truth, "lock_wait_seconds", seconds_of("futex")));
    rows.push(seconds("seconds on a CPU", truth, "cpu_seconds", seconds_of("running")));
    Ok(rows)
}

/// The rows as a table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![format!("  {:28}{:>16}{:>16}", "", "the workload", "the profiler")];
    for Row { what, workload, profiler, agrees } in rows {
        lines.push(format!("{} {what:28}{workload:>16}{profiler:>16}", crate::style::mark(*agrees)));
    }
    lines.join("\n")
}

/// A function's number; one the profiler never saw called isn't in its list, which says zero.
fn of_function(target: &Value, function: &str, key: &str) -> Option<u64> {
    let functions = target["functions"].as_array()?;
    match functions.iter().find(|entry| entry["function"] == function) {
        Some(entry) => entry[key].as_u64(),
        None => Some(0),
    }
}

fn count(what: &'static str, truth: &Value, key: &str, said: Option<u64>) -> Row {
    let own = truth[key].as_u64();
    let show = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    Row { what, workload: show(own), profiler: show(said), agrees: own.is_some() && own == said }
}

fn seconds(what: &'static str, truth: &Value, key: &str, said: Option<f64>) -> Row {
    let own = truth[key].as_f64();
    let show = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2} s"));
    let agrees =
        own.zip(said).is_some_and(|(own, said)| (own - said).abs() <= ABSOLUTE + RELATIVE * own.max(said));
    Row { what, workload: show(own), profiler: show(said), agrees }
}

/// A number with its thousands apart: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn truth() -> Value {
        json!({"mallocs": 1000, "callocs": 10, "reallocs": 5, "frees": 900, "bytes": 65536, "leaked_objects": 110,
            "leaked_bytes": 7040, "lock_wait_seconds": 5.0, "cpu_seconds": 4.0})
    }

    fn report() -> Value {
        json!({"targets": [{"target": "other"}, {"target": "demo", "pid": 1, "functions": [
            {"function": "malloc", "allocations": 1000, "frees": 0, "hits": 1000},
            {"function": "calloc", "allocations": 10, "frees": 0, "hits": 10},
            {"function": "realloc", "allocations": 5, "frees": 5, "hits": 5},
            {"function": "free", "allocations": 0, "frees": 900, "hits": 900}],
            "allocated_bytes": 65536, "live_objects": 110,
            "thread_seconds": {"running": 4.1, "futex": 5.2}}]})
    }

    fn differing(report: &Value) -> Vec<&'static str> {
        rows(&truth(), report).unwrap().iter().filter(|row| !row.agrees).map(|row| row.what).collect()
    }

    #[test]
    fn equal_counts_and_near_seconds_agree() {
        assert_eq!(differing(&report()), Vec::<&str>::new());
    }

    #[test]
    fn a_count_that_is_off_by_one_differs() {
        let mut report = report();
        report["targets"][1]["functions"][0]["allocations"] = json!(1001);
        assert_eq!(differing(&report), ["calls of malloc"]);
    }

    #[test]
    fn a_function_the_profiler_never_saw_is_zero_and_a_number_it_does_not_give_is_a_dash() {
        let mut report = report();
        report["targets"][1]["functions"].as_array_mut().unwrap().remove(3);
        report["targets"][1]["live_objects"] = Value::Null;
        assert_eq!(differing(&report), ["calls of free", "objects never freed"]);
        let rows = rows(&truth(), &report).unwrap();
        assert_eq!((rows[4].profiler.as_str(), rows[6].profiler.as_str()), ("0", "-"));
    }

    #[test]
    fn live_bytes_are_compared_where_the_profiler_gives_them() {
        let mut report = report();
        report["targets"][1]["live_bytes"] = json!(7039);
        assert_eq!(differing(&report), ["bytes never freed"]);
    }

    #[test]
    fn seconds_which_are_far_apart_differ() {
        let mut report = report();
        report["targets"][1]["thread_seconds"]["futex"] = json!(6.0);
        assert_eq!(differing(&report), ["seconds waiting for a lock"]);
    }

    #[test]
    fn a_report_without_the_target_is_an_error() {
        assert!(rows(&truth(), &json!({"targets": []})).is_err());
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
