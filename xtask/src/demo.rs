//! `cargo xtask demo`: the profiler beside a program that knows the truth about itself.
//!
//! The workload counts its own calls, waits and CPU time. It is idle while the profiler attaches, and idle again
//! before the profiler leaves, so nothing is missed at either end and the counts must be equal, not similar.

mod compare;
mod workload;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::workload::Workload;
use crate::command::{self, Sudo};
use crate::{build, style, workspace};

/// How long the profiler may take from its start until it serves.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How much longer than the work the profiler stays: time for the workload to stop and for a last look at it.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// How long the profiler may take to write its report once its time is over.
const REPORT_LIMIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Args {
    /// How long the workload works, for example 20s or 2m
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = parse_time)]
    length: Duration,
}

/// Builds both, lets them run side by side, and fails if the profiler says anything else than the workload.
pub fn run(args: &Args) -> Result<()> {
    build::release()?;
    build::release_example("demo_workload")?;
    command::unlock_sudo()?;
    let lifetime = READY_LIMIT + args.length + AFTERWARDS + REPORT_LIMIT;
    let mut workload = Workload::start(&workspace::example("demo_workload"), lifetime)?;
    let (mut profiler, report) = Profiler::start(workload.pid(), args.length + AFTERWARDS)?;
    profiler.wait_until_ready()?;
    workload.begin()?;
    profiler.must_run_for(args.length)?;
    let truth = workload.finish()?;
    profiler.must_run_for(Duration::ZERO)?;
    profiler.wait_for_end()?;
    let said = read_report(&report)?;
    let rows = compare::rows(&truth, &said)?;
    println!("\n{}", compare::table(&rows));
    let wrong = rows.iter().filter(|row| !row.agrees).count();
    if wrong > 0 {
        bail!("{wrong} of {} lines differ; the whole report is in {}", rows.len(), report.display());
    }
    style::say(&format!("{} the profiler and the workload agree", style::mark(true)));
    Ok(())
}

/// The profiler as a child. It ends by itself after its duration; dropping it earlier (an error) ends it at once.
struct Profiler {
    child: Child,
    port: u16,
}

impl Profiler {
    fn start(pid: u32, duration: Duration) -> Result<(Self, PathBuf)> {
        let dir = workspace::target_dir().join("demo");
        std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        let report = dir.join("report.json");
        // An old report must not pass for a new one.
        if report.exists() {
            std::fs::remove_file(&report).with_context(|| format!("can't remove {}", report.display()))?;
        }
        let port = free_port()?;
        let mut profiler = command::as_root(workspace::profiler_binary("release"), Sudo::Ask);
        profiler
            .args(["--pid", &pid.to_string(), "--name", "demo"])
            .args(["--duration", &format!("{}ms", duration.as_millis())])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--report")
            .arg(&report);
        let child = command::spawn(&mut profiler, "the profiler needs root: run this as root or with sudo")?;
        Ok((Self { child, port }, report))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            self.must_run_for(Duration::ZERO)?;
            if serves(self.port, "/-/ready") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the profiler wasn't ready after {}: its messages above say why", style::spoken(READY_LIMIT));
    }

    /// Lets time pass, and fails as soon as the profiler is gone: what it didn't see can't be compared.
    fn must_run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().context("can't ask for the profiler's state")? {
                bail!("the profiler ended too early ({status}): its last message is above");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    fn wait_for_end(&mut self) -> Result<()> {
        let deadline = Instant::now() + AFTERWARDS + REPORT_LIMIT;
        while Instant::now() < deadline {
            match self.child.try_wait().context("can't ask for the profiler's state")? {
                Some(status) => return ended_well(status),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        bail!("the profiler didn't end after its --duration");
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // Under sudo this isn't ours to end; it then ends with its duration, or with its target.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) && self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn ended_well(status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("the profiler failed ({status}): its last message is above") }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Whether an HTTP server on this machine answers a path with 200.
fn serves(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let limit = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), limit)?;
        stream.set_read_timeout(Some(limit))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.starts_with(b"HTTP/1.") && start.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn read_report(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the profiler ended without a report in {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} isn't JSON", file.display()))
}

/// `20s`, `2m` or plain seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    match number.parse::<u32>() {
        Ok(number @ 1..=86_400) => Ok(Duration::from_secs(u64::from(number) * unit)),
        _ => Err("a whole number of seconds (20s) or minutes (2m)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_minutes() {
        assert_eq!(parse_time("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_time("7"), Ok(Duration::from_secs(7)));
        assert!(parse_time("0s").is_err() && parse_time("1h").is_err() && parse_time("").is_err());
    }

    #[test]
    fn only_a_200_counts_as_ready() {
        for (answer, ready) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 Busy\r\n\r\n", false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /-/ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(serves(port, "/-/ready"), ready);
            server.join().unwrap();
        }
        assert!(!serves(free_port().unwrap(), "/-/ready"));
    }
}
