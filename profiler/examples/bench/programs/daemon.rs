//! The profiler itself, as a process of its own, and what it says at /metrics.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    child::{self, Lines, Running},
    ways::GOVERNOR,
};

/// It may take this long to attach, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A scrape asks for new figures and takes the last ones if they take longer than 40 ms (`server.rs`): they are there after this.
const FRESH: Duration = Duration::from_millis(60);

/// The program.
pub struct Profiler {
    binary: PathBuf,
    /// Whether it bounds the cost.
    pub has_governor: bool,
    /// Where it runs.
    pub cpu: Option<usize>,
    agent: ureq::Agent,
}

impl Profiler {
    pub fn new(binary: PathBuf, cpu: Option<usize>) -> anyhow::Result<Self> {
        let help = child::run(Command::new(&binary).arg("--help"), "profiler --help", PATIENCE, None)?;
        let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(PATIENCE));
        Ok(Self { binary, has_governor: help.contains(GOVERNOR), cpu, agent: config.build().into() })
    }

    /// Attaches to processes; returns when it counts and answers.
    pub fn attach(&self, pids: &[u32], arguments: &[&str], directory: &Path) -> anyhow::Result<Watching> {
        let mut command = Command::new(&self.binary);
        // Somewhere without a configuration.
        command.current_dir(directory).args(["--listen", "127.0.0.1:0"]).args(arguments);
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Running::start(&mut command, "profiler", Signal::INT, self.cpu)?;
        let said = daemon.complaints()?;
        let mut last = String::new();
        let address = loop {
            let Some(line) = said.next(PATIENCE).context("profiler doesn't begin")? else {
                bail!("profiler ended at its start: {last}");
            };
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split('/').next().unwrap_or_default().to_owned();
            }
            last = line;
        };
        let watching = Watching { daemon, said, address, agent: self.agent.clone() };
        watching.get("/-/ready")?;
        Ok(watching)
    }
}

/// It at work. Dropping it ends it as Ctrl-C does, if it listens, and kills it otherwise.
pub struct Watching {
    daemon: Running,
    said: Lines,
    address: String,
    agent: ureq::Agent,
}

/// What it says at one moment, all series of a family together.
pub struct Scrape {
    pub hits: f64,
    /// Seconds that the target has been observed: the moment that the figures are of.
    pub observed: f64,
    /// CPU seconds that it says it has cost the target, if it says so.
    pub overhead: Option<f64>,
    /// Its own CPU seconds.
    pub own_cpu: f64,
    /// What it has lost: figures to doubt.
    pub lost: f64,
}

impl Watching {
    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut answer = self
            .agent
            .get(format!("http://{}{path}", self.address))
            .call()
            .with_context(|| format!("{path} of profiler"))?;
        Ok(answer.body_mut().read_to_string()?)
    }

    /// What it says now.
    pub fn scrape(&self) -> anyhow::Result<Scrape> {
        self.get("/metrics")?;
        child::pause(FRESH)?;
        let page = self.get("/metrics")?;
        let lost = series(&page, "profiler_events_lost_total")
            // What the kernels of some virtual machines don't report is not its loss.
            .filter(|(labels, _)| !labels.contains("switch_not_seen"))
            .map(|(_, value)| value)
            .sum();
        let sum = |name| total(&page, name);
        Ok(Scrape {
            hits: sum("profiler_probe_hits_total").unwrap_or(0.0),
            observed: sum("profiler_target_observed_seconds").context("it says not how long it observes")?,
            overhead: sum("profiler_overhead_seconds_total"),
            own_cpu: sum("process_cpu_seconds_total").unwrap_or(0.0),
            lost,
        })
    }

    /// Ends it; nothing of it is left in the target when this returns.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let status = self.daemon.end()?;
        if !status.success() {
            bail!("profiler: {status}: {}", self.said.rest().trim());
        }
        Ok(())
    }
}

/// The series of a family: labels and value.
fn series<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        // Labels may hold blanks, a value doesn't.
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some((labels, value.parse().ok()?))
    })
}

/// The sum of a family, if it is there.
fn total(page: &str, name: &str) -> Option<f64> {
    series(page, name).map(|(_, value)| value).reduce(|sum, value| sum + value)
}
