//! `cargo xtask test`: everything a change must pass, here as in the CI.
//!
//! A step that fails doesn't stop the next one, so that one run says all there is to mend.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{
    command, dashboards, debian, docs, esbuild, go_matrix, go_toolchains, lint, setup, style, workspace,
};

/// What the tests run against: compilers for helper programs, real servers, other allocators and C libraries.
const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "debuginfod",
    "gcc",
    "g++",
    // Its own reader of profiles (go tool pprof).
    "golang-1.19-go",
    "influxdb",
    // Dashboards, alerts and recording rules are made with it.
    "jsonnet",
    "libc6-dev",
    "libc6-i386",
    "libgoogle-perftools-dev",
    "libjemalloc-dev",
    "libjemalloc2",
    "libmimalloc-dev",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "make",
    "musl-tools",
    // Certificates for the tests of the push.
    "openssl",
    "prometheus",
    // It exports what Go says of itself.
    "prometheus-node-exporter",
    "python3",
    "python3-dev",
    // The reference parser of OpenMetrics.
    "python3-prometheus-client",
    "redis-server",
    "redis-tools",
    // With vmagent.
    "victoria-metrics",
    "xz-utils",
];

/// The same as programs, for machines that don't have Debian's packages.
const PROGRAMS: &[&str] = &[
    "cc",
    "c++",
    "python3",
    "redis-server",
    "prometheus",
    "promtool",
    "prometheus-node-exporter",
    "influxd",
    "jsonnet",
    "victoria-metrics",
    "vmagent",
    "musl-gcc",
    "make",
    "objcopy",
    "xz",
    "busybox",
    "debuginfod",
];

/// Where tests look for toolchains of Go beside Debian's, as `PATH` has directories.
const GO_TOOLCHAINS: &str = "PROFILER_GO_TOOLCHAINS";

#[derive(clap::Args)]
pub struct Args {
    /// Neither set up nor install what the tests need
    #[arg(long)]
    no_setup: bool,
    /// Only tests whose name contains this; the other checks run all the same. `go-matrix` instead compares with every Go that
    /// there is, which takes long, and writes docs/go-matrix.md
    filter: Option<OsString>,
}

/// A step that ran: its name, how long it took, and how it ended.
struct Step {
    name: &'static str,
    took: Duration,
    result: Result<()>,
}

/// Runs all steps, then says how each went.
pub fn run(args: &Args) -> Result<()> {
    if args.filter.as_deref().is_some_and(|filter| filter == go_matrix::NAME) {
        return go_matrix::run(args.no_setup);
    }
    let strict = std::env::var_os("CI").is_some_and(|value| value == "true");
    let begin = Instant::now();
    let mut steps = Vec::new();
    if !args.no_setup {
        steps.push(step("setup", setup::run));
        steps.push(step("what the tests need", || install_needs(strict)));
        if steps.iter().any(|step| step.result.is_err()) {
            return summary(&steps, begin.elapsed());
        }
    }
    steps.push(step("format", format));
    steps.push(step("clippy", clippy));
    steps.push(step("lint", lint::run));
    steps.push(step("documents", docs::check));
    steps.push(step("dashboards", dashboards::check));
    steps.push(step("tests", || tests(args, strict)));
    summary(&steps, begin.elapsed())
}

fn step(name: &'static str, work: impl FnOnce() -> Result<()>) -> Step {
    style::say(&format!("\n== {name}"));
    let begin = Instant::now();
    let result = work();
    let took = begin.elapsed();
    if let Err(error) = &result {
        style::say(&format!("{} {error:#}", style::red("error:")));
    }
    style::say(&format!("{} {name}, {}", style::mark(result.is_ok()), style::spoken(took)));
    Step { name, took, result }
}

fn summary(steps: &[Step], took: Duration) -> Result<()> {
    style::say("");
    for Step { name, took, result } in steps {
        style::say(&format!("{} {name:22} {:>12}", style::mark(result.is_ok()), style::spoken(*took)));
    }
    let failed: Vec<&str> = steps.iter().filter(|step| step.result.is_err()).map(|step| step.name).collect();
    if !failed.is_empty() {
        bail!("{} of {} steps failed: {}", failed.len(), steps.len(), failed.join(", "));
    }
    style::say(&format!("{} all {} steps passed in {}", style::mark(true), steps.len(), style::spoken(took)));
    Ok(())
}

/// Installs what is missing. Where that can't be, tests that need it skip themselves, except in the CI.
fn install_needs(strict: bool) -> Result<()> {
    let absent = if debian::is_here() {
        let missing = debian::missing(PACKAGES);
        if missing.is_empty() {
            style::say("every package the tests need is installed");
            return Ok(());
        }
        if strict || debian::may_install() {
            debian::install(&missing)?
        } else {
            missing.into_iter().map(str::to_owned).collect()
        }
    } else {
        PROGRAMS.iter().filter(|name| command::find(name).is_none()).map(|name| (*name).to_owned()).collect()
    };
    if absent.is_empty() {
        return Ok(());
    }
    let names = absent.join(", ");
    if strict {
        bail!("the tests need {names}: install them, for in the CI no test may skip");
    }
    style::warn(&format!("tests that need one of these skip themselves until you install it: {names}"));
    Ok(())
}

fn format() -> Result<()> {
    let way_out = "`cargo fmt --all` and `cargo fmt --manifest-path profiler-ebpf/Cargo.toml` mend it";
    let workspace = command::run(workspace::cargo().args(["fmt", "--all", "--check"]), way_out);
    let ebpf = ["fmt", "--manifest-path", "profiler-ebpf/Cargo.toml", "--check"];
    workspace.and(command::run(workspace::cargo().args(ebpf), way_out))
}

fn clippy() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    command::run(&mut cargo, "mend the first warning above, then run it again")
}

fn tests(args: &Args, strict: bool) -> Result<()> {
    if !command::is_root() {
        style::warn("not root: the tests that attach to a process are skipped; `sudo` runs them");
    }
    let mut cargo = workspace::cargo();
    // A test program that fails doesn't hide what the others would say.
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(&args.filter);
    if std::env::var_os(GO_TOOLCHAINS).is_none() {
        match go_toolchains::toolchain(go_toolchains::NEW) {
            Ok(root) => {
                cargo.env(GO_TOOLCHAINS, root);
            }
            Err(error) if strict => return Err(error),
            Err(error) => style::warn(&format!("only Debian's Go is tested: {error:#}")),
        }
    }
    if std::env::var_os(esbuild::PLACE).is_none() {
        match esbuild::programs() {
            Ok(place) => {
                cargo.env(esbuild::PLACE, place);
            }
            Err(error) if strict => return Err(error),
            Err(error) => style::warn(&format!("esbuild isn't tested: {error:#}")),
        }
    }
    if strict {
        // A test that would skip itself fails instead: in the CI, skipped looks too much like passed.
        cargo.env("PROFILER_TESTS_MUST_RUN", "1");
    }
    command::run(&mut cargo, "read the first failed test above; `cargo xtask test NAME` runs it alone")
}
