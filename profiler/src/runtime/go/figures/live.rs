//! What a real program says of itself, against what is read of it in the same moment: it stops itself then. On each Go that is
//! found here; `PROFILER_TEST_GO` names more of them, with colons between.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::View;
use crate::runtime::go::program::{Program, minors, places};

/// Go commands, and the minor version of each that there is a table of.
fn toolchains() -> Vec<(PathBuf, String)> {
    let named = std::env::var("PROFILER_TEST_GO").unwrap_or_default();
    let usual = ["/usr/lib/go-1.19/bin/go", "/usr/lib/go/bin/go", "/usr/local/go/bin/go"];
    let paths = named.split(':').filter(|path| !path.is_empty()).chain(usual).map(PathBuf::from);
    let of = |path: PathBuf| {
        let output = Command::new(&path).env("GOTOOLCHAIN", "local").arg("version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split_whitespace().nth(2)?.strip_prefix("go")?.to_owned();
        let minor = minors()
            .into_iter()
            .find(|minor| version == *minor || version.starts_with(&format!("{minor}.")))?;
        Some((path, minor))
    };
    paths.filter_map(of).collect()
}

fn build(go: &Path, minor: &str) -> PathBuf {
    let program = std::env::temp_dir().join(format!("go-figures-{minor}-{}", std::process::id()));
    let status = Command::new(go)
        .args(["build", "-p", "1", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/go_figures/main.go"))
        .envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=mod")])
        .status()
        .unwrap();
    assert!(status.success());
    program
}

/// Fields that differ: what the program says, and what was read.
fn compare(
    program: &mut Program,
    command: &str,
    mut read: impl FnMut() -> Value,
) -> BTreeMap<String, (Value, Value)> {
    program.tell(command);
    program.wait_until_stopped();
    let mut ours = read();
    program.go_on();
    let theirs: Value = serde_json::from_str(&program.answer()).unwrap();
    // It tells the bits, as not every text of a number leads back to them.
    let fraction = ours["gc_cpu_fraction"].as_f64().unwrap();
    ours["gc_cpu_fraction"] = fraction.to_bits().into();
    let theirs = theirs.as_object().unwrap();
    assert_eq!(theirs.len(), ours.as_object().unwrap().len());
    let fields = theirs.iter().filter(|(name, value)| ours[*name] != **value);
    fields.map(|(name, value)| (name.clone(), (value.clone(), ours[name].clone()))).collect()
}

#[test]
fn all_figures_are_what_the_program_says_of_itself() {
    let toolchains = toolchains();
    if toolchains.is_empty() {
        println!("SKIPPED: no Go is here that there is a table of");
        assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "no Go is here");
    }
    for (go, minor) in toolchains {
        let path = build(&go, &minor);
        let known = Arc::new(places(&path, &minor));
        for processors in [2, 16] {
            let mut program = Program::start(&path, processors);
            let mut runtime = program.attach(&path, &known).unwrap();
            let steps =
                ["gc 1", "work 3000", "goroutines 50", "gc 300", "procs 5", "limit 60000000", "work 500"];
            for step in steps {
                assert_eq!(program.ask(step), "ok");
                for (command, view) in [("metrics", View::Metrics), ("memstats", View::MemStats)] {
                    // The collector, the sweeper and the scavenger may do something between the program's asking itself and
                    // its stopping: once in a while. What is wrong is wrong every time.
                    let differ = (0..5).map(|_| {
                        std::thread::sleep(Duration::from_millis(20));
                        compare(&mut program, command, || {
                            serde_json::to_value(runtime.read(view).unwrap()).unwrap()
                        })
                    });
                    let differ: Vec<_> = differ.take_while(|differ| !differ.is_empty()).collect();
                    assert!(
                        differ.len() < 5,
                        "{minor}, {processors} processors, {step}, {command}: {differ:?}"
                    );
                }
            }
        }
        let _left = std::fs::remove_file(path);
    }
}
