//! What Go's runtimes say, and what programs were built from.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::{
    binary::go::Module,
    export::families::programs::{TakenModule, short_name},
    runtime::go::figures::Figures,
    snapshot::{GoSnapshot, GoTrouble, ProgramDescription, ProgramPart},
};

#[derive(Serialize)]
pub(super) struct Go<'a> {
    versions: &'a [String],
    /// Whose figures these are.
    processes: u64,
    /// The figures by Go's own names, without the list of pauses; `null` if they can't be told.
    figures: Option<Value>,
    /// Least, quarters and most of the pauses that the runtime remembers, nanoseconds.
    pause_quantiles_ns: Option<[u64; 5]>,
    pauses_missed: u64,
    /// Readings that were made again as a counter went back or jumped, and counters that were less again and are held.
    readings_repeated: u64,
    counters_held_back: u64,
    /// Threads that hung in its memory and were left behind.
    readers_lost: u64,
    /// What can't be told, and why.
    trouble: &'a [GoTrouble],
    /// Single stops of the world by reason, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    stops: Option<Vec<Stops>>,
    tables: Vec<Table<'a>>,
    read_seconds: f64,
}

#[derive(Serialize)]
struct Table<'a> {
    table: &'a str,
    /// Whether it is that of a program's exact version.
    exact: bool,
}

#[derive(Serialize)]
struct Stops {
    reason: &'static str,
    count: u64,
    seconds: f64,
}

#[derive(Serialize)]
pub(super) struct Program<'a> {
    exe: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    go: Option<Build<'a>>,
    parts: Vec<Part<'a>>,
    left_out: u64,
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Build<'a> {
    version: &'a str,
    /// The main package; absent, as all below, if the program doesn't say.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    main: Option<OneModule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modules: Option<Vec<OneModule<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<BTreeMap<&'a str, &'a str>>,
}

#[derive(Serialize)]
struct OneModule<'a> {
    name: &'a str,
    version: &'a str,
    sum: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    replaces: String,
}

#[derive(Serialize)]
struct Part<'a> {
    kind: &'static str,
    name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    build_id: &'a str,
}

pub(super) fn go(snapshot: &GoSnapshot) -> Go<'_> {
    let stops = snapshot.stops.as_ref().map(|stops| {
        let of = |(reason, counts): &(&'static str, profiler_common::stops::StopCounts)| Stops {
            reason,
            count: counts.count(),
            seconds: counts.total_ns as f64 / 1e9,
        };
        stops.iter().map(of).collect()
    });
    Go {
        versions: &snapshot.versions,
        processes: snapshot.processes,
        figures: snapshot.figures.as_ref().and_then(figures),
        pause_quantiles_ns: snapshot.figures.as_ref().map(Figures::pause_quantiles),
        pauses_missed: snapshot.losses.pauses_missed,
        readings_repeated: snapshot.losses.readings_repeated,
        counters_held_back: snapshot.losses.counters_held_back,
        readers_lost: snapshot.losses.readers_lost,
        trouble: &snapshot.trouble,
        stops,
        tables: snapshot.tables.iter().map(|(table, exact)| Table { table, exact: *exact }).collect(),
        read_seconds: snapshot.read_seconds,
    }
}

fn figures(figures: &Figures) -> Option<Value> {
    let mut value = serde_json::to_value(figures).ok()?;
    // Up to 256 for each process: the quantiles say enough.
    value.as_object_mut()?.remove("pauses");
    Some(value)
}

pub(super) fn program(program: &ProgramDescription) -> Program<'_> {
    let build = program.go.as_ref().map(|go| {
        let info = go.info.as_ref();
        Build {
            version: &go.version,
            path: info.map(|info| info.path.as_str()),
            main: info.and_then(|info| info.main.as_ref()).map(module),
            modules: info.map(|info| info.dependencies.iter().map(module).collect()),
            settings: info.map(|info| {
                info.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
            }),
        }
    });
    Program {
        exe: &program.exe,
        name: short_name(program),
        go: build,
        parts: program.parts.iter().map(part).collect(),
        left_out: program.left_out,
        trouble: program.trouble(),
    }
}

fn module(module: &Module) -> OneModule<'_> {
    let TakenModule { name, version, sum, replaces } = TakenModule::of(module);
    OneModule { name, version, sum, replaces: replaces.into_owned() }
}

fn part(part: &ProgramPart) -> Part<'_> {
    Part { kind: part.kind, name: &part.name, version: &part.version, build_id: &part.build_id }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        export::json::render,
        test_support::moment::{go_target, snapshot, target},
    };

    #[test]
    fn a_go_target_tells_figures_trouble_and_modules() {
        let text = render(&snapshot(vec![go_target("shop"), target("other")])).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let shop = &document["targets"][0];
        assert_eq!(shop["metrics"], "/targets/shop/metrics");
        assert_eq!(shop["go"]["figures"]["goroutines"], 12);
        assert_eq!(shop["go"]["figures"]["heap_inuse"], 3_000_000);
        for (loss, count) in
            [("pauses_missed", 2), ("readings_repeated", 5), ("counters_held_back", 6), ("readers_lost", 7)]
        {
            assert_eq!(shop["go"][loss], count, "{loss}");
        }
        assert_eq!(
            shop["go"]["tables"],
            json!([{"table": "1.23.1", "exact": false}, {"table": "1.24.3", "exact": true}])
        );
        assert_eq!(shop["go"]["figures"].get("pauses"), None, "there may be thousands");
        assert_eq!(shop["go"]["pause_quantiles_ns"], json!([100_000, 200_000, 300_000, 400_000, 500_000]));
        assert_eq!(
            shop["go"]["trouble"],
            json!([{"what": "heap_profile", "kind": "unavailable", "reason": "the linker left memory profiling out"}])
        );
        let stalls = shop["stalls"].as_array().unwrap();
        assert!(stalls.iter().any(|row| row["cause"] == "gc" && row["count"] == 3), "{stalls:?}");
        let program = &shop["programs"][0];
        assert_eq!(program["name"], "shopd");
        assert_eq!(
            program["go"]["modules"][1],
            json!({
                "name": "example.com/fork", "version": "v0.9.0", "sum": "h1:example.com/fork=",
                "replaces": "example.com/original@v1.0.0"
            })
        );
        assert_eq!(program["go"]["settings"]["-race"], "true");
        let helper = &shop["programs"][1];
        assert_eq!(helper["parts"][0]["name"], "serde");
        assert_eq!(
            (&helper["left_out"], &helper["trouble"]),
            (&json!(4), &json!("the list of its crates: it ends early"))
        );
        assert_eq!(document["targets"][1]["go"], serde_json::Value::Null);
    }
}
