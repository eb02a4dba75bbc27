//! redis-server under redis-benchmark, which is told a number of requests, not a time: as many as it managed before.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    super::{
        child::{self, Running, free_port},
        load::{Done, Load, Stage, program, text},
    },
    answers, log_to,
};

/// Requests of the first turn, which tells how many there are in a second.
const FIRST: f64 = 20_000.0;
/// Keys that are set and asked for, in random order.
const KEYS: &str = "100000";
/// It may take this much longer than before.
const PATIENCE: Duration = Duration::from_secs(60);

struct Redis {
    server: Running,
    port: u16,
    test: &'static str,
    client_cpu: Option<usize>,
    rate: Option<f64>,
    done: Option<Done>,
}

pub fn start(stage: &Stage, test: &'static str) -> anyhow::Result<Box<dyn Load>> {
    let (directory, port) = (stage.scratch.room("redis")?, free_port()?);
    let mut command = Command::new(program("redis-server")?);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--port", &port.to_string(), "--dir", text(&directory)?]);
    log_to(&mut command, &directory)?;
    let mut server = Running::start(&mut command, "redis-server", Signal::TERM, stage.target_cpu)?;
    answers(&mut server, port, "redis-server", &directory)?;
    let redis = Redis { server, port, test, client_cpu: stage.client_cpu, rate: None, done: None };
    // All keys are there before anybody asks for them.
    redis.request("set", 400_000.0)?;
    Ok(Box::new(redis))
}

impl Redis {
    fn request(&self, test: &str, requests: f64) -> anyhow::Result<Done> {
        let mut command = Command::new(program("redis-benchmark")?);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-t", test, "-n"]);
        command.arg(format!("{requests:.0}"));
        command.args(["-c", "16", "-P", "4", "-d", "64", "-r", KEYS, "--csv"]);
        let printed = child::run(&mut command, "redis-benchmark", PATIENCE, self.client_cpu)?;
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
        let line = printed.lines().last().unwrap_or_default();
        let fields: Vec<f64> =
            line.split(',').skip(1).filter_map(|field| field.trim_matches('"').parse().ok()).collect();
        let [rate, .., p99_ms, _] = fields[..] else { bail!("redis-benchmark says: {line}") };
        Ok(Done { operations: requests, seconds: requests / rate, p99_us: p99_ms * 1e3 })
    }
}

impl Load for Redis {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        let requests = self.rate.map_or(FIRST, |rate| (rate * time.as_secs_f64()).max(FIRST).round());
        let done = self.request(self.test, requests)?;
        self.rate.get_or_insert(done.operations / done.seconds);
        self.done = Some(done);
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<Done> {
        self.done.take().context("redis-benchmark didn't run")
    }
}
