//! A real influxd of its own: free ports of loopback, a directory of its own, ended with whoever started it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;

/// The database that is written to.
pub const DATABASE: &str = "bench";
/// It may take this long to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is gone when it is dropped.
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes it.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("profiler-bench-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What can't be removed is in the way of nobody.
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// The server.
pub struct Influxd {
    child: Child,
    address: SocketAddr,
    agent: ureq::Agent,
    directory: Temporary,
}

impl Influxd {
    /// Starts it as Debian configures it, but for its places and that it doesn't watch itself.
    pub fn start() -> anyhow::Result<Self> {
        let directory = Temporary::new("influxd")?;
        let root = directory.path();
        let (address, internal) = (free()?, free()?);
        let config = format!(
            "reporting-disabled = true\nbind-address = \"{internal}\"\n[meta]\ndir = \"{0}/meta\"\n[data]\n\
             dir = \"{0}/data\"\nwal-dir = \"{0}/wal\"\n[monitor]\nstore-enabled = false\n[http]\nbind-address = \"{address}\"\n",
            root.display()
        );
        let path = root.join("influxdb.conf");
        fs::write(&path, config).context("can't write influxd's configuration")?;
        let log = File::create(root.join("log")).context("can't make influxd's log")?;
        let mut command = Command::new("influxd");
        command.arg("-config").arg(&path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: one system call, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().context("can't start influxd (Debian package influxdb)")?;
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(PATIENCE)).build().into();
        let mut server = Self { child, address, agent, directory };
        server.wait()?;
        server.ask(&format!("CREATE DATABASE {DATABASE}"))?;
        Ok(server)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.agent.get(format!("http://{}/ping", self.address)).call().is_err() {
            if self.child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                bail!("influxd doesn't answer: {}", log.lines().last().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first row of an answer, with times in nanoseconds; none if there are no rows.
    pub fn ask(&self, query: &str) -> anyhow::Result<Option<Vec<Value>>> {
        let mut answer = self
            .agent
            .post(format!("http://{}/query?db={DATABASE}&epoch=ns", self.address))
            .send_form([("q", query)])
            .context("influxd doesn't answer")?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        if let Some(error) = answer["error"].as_str().or_else(|| answer["results"][0]["error"].as_str()) {
            bail!("influxd refuses {query}: {error}");
        }
        Ok(answer["results"][0]["series"][0]["values"][0].as_array().cloned())
    }

    /// How many moments of a host it has.
    pub fn moments(&self, host: &str) -> anyhow::Result<u64> {
        let row = self.ask(&format!("SELECT count(pid) FROM profiler_target WHERE host = '{host}'"))?;
        Ok(row.and_then(|row| row.get(1)?.as_u64()).unwrap_or(0))
    }

    /// The newest moment of a host since then, in nanoseconds since 1970.
    pub fn newest(&self, host: &str, since_ns: i64) -> anyhow::Result<Option<i64>> {
        let row = self.ask(&format!(
            "SELECT last(pid) FROM profiler_target WHERE host = '{host}' AND time >= {since_ns}"
        ))?;
        Ok(row.and_then(|row| row.first()?.as_i64()))
    }
}

impl Drop for Influxd {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}
