//! What is observed and who keeps what is seen: programs with something to show, the profiler, Prometheus and InfluxDB. All
//! of them on this machine alone, for a bounded time, and ended with this value.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::answers::{self, Servers};
use crate::command::{self, Sudo};
use crate::{style, workspace};

/// How long each of them may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How much longer than they are needed they live, if nobody ends them.
const SPARE: Duration = Duration::from_secs(180);

/// A process of ours. It doesn't outlive this value.
pub struct Guarded(Child);

impl Guarded {
    fn start(command: &mut Command, way_out: &str) -> Result<Self> {
        Ok(Self(command::spawn(command, way_out)?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn must_run(&mut self, name: &str) -> Result<()> {
        match self.0.try_wait().context("can't ask for a child's state")? {
            Some(status) => bail!("{name} ended too early ({status}): its last message is above"),
            None => Ok(()),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Prometheus and InfluxDB on the data in a directory.
pub struct Databases {
    dir: PathBuf,
    pub servers: Servers,
    prometheus: Guarded,
    influx: Option<Guarded>,
}

impl Databases {
    /// Starts both. Prometheus scrapes the profiler at this port, once a second.
    pub fn start(dir: &Path, profiler: u16) -> Result<Self> {
        let servers = Servers { prometheus: free_port()?, influx: free_port()? };
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: profiler\n  static_configs:\n  - targets: [\"127.0.0.1:{profiler}\"]\n    labels: {{instance: shop-1}}\n"
        );
        let file = dir.join("prometheus.yml");
        write(&file, &config)?;
        let mut prometheus = Command::new("prometheus");
        prometheus
            .arg("--config.file")
            .arg(&file)
            .arg("--storage.tsdb.path")
            .arg(dir.join("prometheus"))
            .args([
                "--web.listen-address",
                &format!("127.0.0.1:{}", servers.prometheus),
                "--log.level=error",
            ]);
        let prometheus = Guarded::start(&mut prometheus, "install the Debian package `prometheus`")?;
        write(&dir.join("influxd.conf"), &influx_config(dir, servers.influx, free_port()?))?;
        let mut databases = Self { dir: dir.to_owned(), servers, prometheus, influx: None };
        databases.resume_influx()?;
        wait_for("Prometheus", || answers::get(servers.prometheus, "/-/ready").is_ok())?;
        Ok(databases)
    }

    /// The process id of Prometheus, which is a Go program to look at, too.
    pub fn prometheus(&self) -> u32 {
        self.prometheus.pid()
    }

    /// Ends InfluxDB, as an outage does.
    pub fn interrupt_influx(&mut self) {
        self.influx = None;
    }

    /// Starts InfluxDB (again).
    pub fn resume_influx(&mut self) -> Result<()> {
        let mut influx = Command::new("influxd");
        influx.arg("-config").arg(self.dir.join("influxd.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.influx = Some(Guarded::start(&mut influx, "install the Debian package `influxdb`")?);
        let port = self.servers.influx;
        wait_for("InfluxDB", || answers::get(port, "/ping").is_ok())?;
        let create = format!("/query?q={}", answers::escaped("CREATE DATABASE profiler"));
        answers::post(port, &create).context("InfluxDB can't create a database")?;
        Ok(())
    }
}

fn influx_config(dir: &Path, http: u16, rpc: u16) -> String {
    let dir = dir.join("influx");
    let dir = dir.display();
    format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{rpc}\"\n[meta]\ndir = \"{dir}/meta\"\n[data]\ndir = \"{dir}/data\"\nwal-dir = \"{dir}/wal\"\nquery-log-enabled = false\n[http]\nbind-address = \"127.0.0.1:{http}\"\nlog-enabled = false\n[logging]\nlevel = \"error\"\n"
    )
}

/// The observed programs and the profiler.
pub struct Workload {
    programs: Vec<(&'static str, Guarded)>,
    profiler: Guarded,
}

impl Workload {
    /// Starts programs, waits until the profiler observes them and a program of Go that runs already, and lets them work.
    pub fn start(
        dir: &Path,
        profiler_port: u16,
        influx_port: u16,
        go: u32,
        length: Duration,
    ) -> Result<Self> {
        let lifetime = (length + START_LIMIT + SPARE).as_secs().to_string();
        let mut programs = Vec::new();
        let shop = compiled(dir, &workspace::root().join("xtask/src/dashboards/shop.c"))?;
        let mut command = Command::new(shop);
        command.arg(&lifetime).arg(dir.join("shop.log")).stdin(Stdio::piped());
        programs.push(("shop", Guarded::start(&mut command, "it was just compiled")?));
        let mut planted = |name, source: &str, arguments: &[&str]| -> Result<()> {
            let source = workspace::root().join("profiler/tests/programs/planted").join(source);
            let mut command = Command::new(compiled(dir, &source)?);
            command.args(arguments).arg(format!("lifetime={lifetime}"));
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            programs.push((name, Guarded::start(&mut command, "it was just compiled")?));
            Ok(())
        };
        planted("orders", "objects.cpp", &["rate=60000"])?;
        planted("jobs", "leaks.c", &["sawtooth", "rate=8000", "pool=1e6", "period=30"])?;
        planted("sessions", "steady.c", &["cache", "rate=4000", "capacity=9e6"])?;
        let redis = free_port()?.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &redis, "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(dir).stdout(Stdio::null());
        programs.push(("redis", Guarded::start(&mut command, "install the Debian package `redis-server`")?));
        let port: u16 = redis.parse()?;
        wait_for("redis-server", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        programs.push(("thumbnails", python("thumbnails", &lifetime, dir.as_os_str())?));
        let mut chosen = programs.iter().map(|(name, program)| (*name, program.pid())).collect::<Vec<_>>();
        chosen.push(("prometheus", go));
        programs.push(("clients", python("clients", &lifetime, redis.as_ref())?));
        let mut profiler =
            start_profiler(dir, &chosen, profiler_port, influx_port, length + START_LIMIT + SPARE)?;
        let deadline = Instant::now() + START_LIMIT;
        while answers::get(profiler_port, "/-/ready").is_err() {
            profiler.must_run("the profiler")?;
            if Instant::now() > deadline {
                bail!("the profiler wasn't ready after {}", style::spoken(START_LIMIT));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for (name, program) in &mut programs {
            if let Some(input) = &mut program.0.stdin {
                input.write_all(b"start\n").with_context(|| format!("{name} can't be told to start"))?;
            }
        }
        Ok(Self { programs, profiler })
    }

    /// Fails if one of them has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.profiler.must_run("the profiler")?;
        self.programs.iter_mut().try_for_each(|(name, program)| program.must_run(name))
    }
}

fn start_profiler(
    dir: &Path,
    chosen: &[(&str, u32)],
    port: u16,
    influx: u16,
    lifetime: Duration,
) -> Result<Guarded> {
    let mut profiler = command::as_root(workspace::profiler_binary("debug"), Sudo::Ask);
    profiler
        .args(["--leaks", "auto", "--sample-bytes", "16KiB", "--history"])
        .arg(dir.join("history"))
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--duration", &format!("{}s", lifetime.as_secs())])
        .args(["--influx", &format!("http://127.0.0.1:{influx}"), "--influx-db", "profiler"])
        .args(["--influx-interval", "1s", "--influx-tag", "host=shop-1", "--influx-spool"])
        .arg(dir.join("spool"));
    for (name, pid) in chosen {
        profiler.args(["--pid", &pid.to_string(), "--name", name]);
    }
    profiler.stdout(Stdio::null());
    Guarded::start(&mut profiler, "the profiler needs root: run this as root or with sudo")
}

fn python(role: &str, lifetime: &str, last: &std::ffi::OsStr) -> Result<Guarded> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(workspace::root().join("xtask/src/dashboards/load.py")).args([role, lifetime]).arg(last);
    Guarded::start(&mut command, "install the Debian package `python3`")
}

fn compiled(dir: &Path, source: &Path) -> Result<PathBuf> {
    let name = source.file_stem().context("a source without a name")?;
    let program = dir.join(name);
    let compiler = if source.extension().is_some_and(|kind| kind == "cpp") { "c++" } else { "cc" };
    let mut command = Command::new(compiler);
    command.args(["-O2", "-g", "-o"]).arg(&program).arg(source).args(["-lpthread", "-lm"]);
    command::run(&mut command, "install the Debian packages `gcc` and `g++`")?;
    Ok(program)
}

fn wait_for(name: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while Instant::now() < deadline {
        if is_there() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("{name} didn't answer within {}", style::spoken(START_LIMIT));
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

/// A port on this machine that nobody has.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}
