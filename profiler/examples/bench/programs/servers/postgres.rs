//! PostgreSQL under pgbench. It has a process for each connection, so pgbench is connected before profiler comes, and works before and
//! behind what is measured: of its log, which has a line for each transaction, only those count that ended in between.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    super::{
        child::{self, Running},
        load::{Done, Load, Stage, program, text},
        meters::family,
    },
    BEGIN, last_word, log_to,
};

const CLIENTS: usize = 4;
/// Rows are 100,000 times this.
const SCALE: &str = "10";
/// pgbench ends after this, if nobody ends it before.
const LONGEST: &str = "300";
const PATIENCE: Duration = Duration::from_secs(60);
/// A path of a Unix socket may have so many bytes (unix(7)), with the name that PostgreSQL gives it.
const LONGEST_PATH: usize = 107 - "/.s.PGSQL.5432".len();

/// What differs from how PostgreSQL comes. Nothing waits for the disk, whose moods aren't ours to measure, and nothing is done now and
/// then in the background.
const SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "fsync=off",
    "autovacuum=off",
    "checkpoint_timeout=1h",
    "max_wal_size=8GB",
    "max_connections=20",
];

struct Postgres {
    server: Running,
    directory: PathBuf,
    user: User,
    /// What pgbench is told.
    kind: &'static [&'static str],
    client_cpu: Option<usize>,
    client: Option<Running>,
    /// When the work began and ended, in microseconds since 1970.
    window: (u64, u64),
}

/// Who PostgreSQL runs as, since it refuses root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    fn find() -> anyhow::Result<Self> {
        let users = fs::read_to_string("/etc/passwd").context("can't read /etc/passwd")?;
        let find = |name: &str| {
            users.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [is, _, uid, gid, ..] = fields[..] else { return None };
                (is == name).then_some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
            })
        };
        find("postgres").or_else(|| find("nobody")).context("there is neither a user postgres nor nobody")
    }

    /// A program as that user, in a directory of his.
    fn command(self, name: &str, directory: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(program(name)?);
        command.uid(self.uid).gid(self.gid).current_dir(directory);
        // Nothing of whoever called us: PGHOST and the like mean other servers.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        Ok(command)
    }
}

pub fn start(stage: &Stage, kind: &'static [&'static str]) -> anyhow::Result<Box<dyn Load>> {
    let user = User::find()?;
    let directory = stage.scratch.room("postgresql")?;
    if directory.as_os_str().len() > LONGEST_PATH {
        bail!("{} is too long for a socket", directory.display());
    }
    chown(&directory, Some(user.uid), Some(user.gid)).context("can't give PostgreSQL its directory")?;
    // Whoever reaches the socket may do everything with the server.
    fs::set_permissions(&directory, Permissions::from_mode(0o700))
        .context("can't close PostgreSQL's directory")?;
    let data = directory.join("data");
    if !data.exists() {
        let mut command = user.command("initdb", &directory)?;
        command.args(["--auth=trust", "--username=bench", "--no-sync", "-D"]).arg(&data);
        child::run(&mut command, "initdb", PATIENCE, None)
            .context("a parent of the repository may be closed for other users")?;
    }
    let mut command = user.command("postgres", &directory)?;
    command.arg("-D").arg(&data).arg("-k").arg(&directory);
    command.args(SETTINGS.iter().flat_map(|setting| ["-c", *setting]));
    log_to(&mut command, &directory)?;
    // An interrupt is its quick way to end, with all connections.
    let mut server = Running::start(&mut command, "postgres", Signal::INT, stage.target_cpu)?;
    child::wait_for("postgres", BEGIN, || {
        if server.has_ended()? {
            bail!("postgres ended at its start: {}", last_word(&directory));
        }
        let mut ready = user.command("pg_isready", &directory)?;
        ready.args(["-q", "-U", "bench", "-d", "postgres", "-h"]).arg(&directory);
        Ok(ready.stdin(Stdio::null()).status()?.success())
    })?;
    let made = directory.join("made");
    if !made.exists() {
        let mut command = client(user, &directory)?;
        command.args(["-i", "-q", "-s", SCALE, "postgres"]);
        child::run(&mut command, "pgbench -i", PATIENCE, None)?;
        fs::write(made, "")?;
    }
    let client_cpu = stage.client_cpu;
    Ok(Box::new(Postgres { server, directory, user, kind, client_cpu, client: None, window: (0, 0) }))
}

fn client(user: User, directory: &Path) -> anyhow::Result<Command> {
    let mut command = user.command("pgbench", directory)?;
    command.args(["-U", "bench", "-h", text(directory)?]);
    Ok(command)
}

fn now_us() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

impl Postgres {
    /// Files of pgbench's log: one, named by its process.
    fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_log = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("transactions."))
        };
        entries.map(|entry| entry.path()).filter(is_log).collect()
    }

    /// How long the transactions took that ended in the window, in microseconds, in order.
    fn latencies(&self) -> anyhow::Result<Vec<f64>> {
        let mut latencies = Vec::new();
        for log in self.logs() {
            // client_id transaction_no time script_no time_epoch time_us
            for line in fs::read_to_string(&log)?.lines() {
                let fields: Vec<u64> =
                    line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
                let [_, _, took, _, seconds, us] = fields[..] else { bail!("pgbench's log says: {line}") };
                if (self.window.0..self.window.1).contains(&(seconds * 1_000_000 + us)) {
                    latencies.push(took as f64);
                }
            }
            fs::remove_file(log)?;
        }
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }
}

impl Load for Postgres {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn forks(&self) -> bool {
        true
    }

    fn is_continuous(&self) -> bool {
        true
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        for log in self.logs() {
            fs::remove_file(log)?;
        }
        let mut command = client(self.user, &self.directory)?;
        command.args([
            "-n",
            "-c",
            &CLIENTS.to_string(),
            "-j",
            "1",
            "-T",
            LONGEST,
            "-l",
            "--log-prefix=transactions",
        ]);
        command
            .args(self.kind)
            .arg("postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut client = Running::start(&mut command, "pgbench", Signal::KILL, self.client_cpu)?;
        child::wait_for("pgbench's connections", BEGIN, || {
            if client.has_ended()? {
                bail!("pgbench ended at its start");
            }
            Ok(connections(self.server.pid()) >= CLIENTS)
        })?;
        self.client = Some(client);
        // So that each has done something.
        child::pause(Duration::from_millis(200))
    }

    fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        self.window.0 = now_us()?;
        child::pause(time)?;
        self.window.1 = now_us()?;
        Ok(())
    }

    /// pgbench's own clock is SIGALRM, at which it ends as if its time was over.
    fn end(&mut self) -> anyhow::Result<Done> {
        let mut client = self.client.take().context("pgbench doesn't run")?;
        client.signal(Signal::ALARM);
        client.wait(Duration::from_secs(10))?;
        // The server's processes of these connections end by themselves; the next turn has its own.
        let server = self.server.pid();
        child::wait_for("the end of the connections", BEGIN, || Ok(connections(server) == 0))?;
        let latencies = self.latencies()?;
        let p99 = latencies.get(latencies.len() * 99 / 100).context("no transaction was logged")?;
        let seconds = (self.window.1 - self.window.0) as f64 / 1e6;
        Ok(Done { operations: latencies.len() as f64, seconds, p99_us: *p99 })
    }
}

/// How many processes of PostgreSQL serve a connection of ours: their title says for whom (`postgres: bench postgres [local] idle`).
fn connections(server: u32) -> usize {
    let is_one = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.contains("bench postgres"))
    };
    family(server).iter().filter(|pid| is_one(pid)).count()
}
