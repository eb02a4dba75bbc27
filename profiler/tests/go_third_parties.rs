//! Programs of others, made by Go and packed by others, that say themselves what `client_golang` says: what profiler says of them
//! at `/targets/NAME/metrics` is the same, scraped between two of their own answers.

mod common;

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    LONG, Scratch, can_observe,
    child::Guarded,
    go::exposition::{self, Round, fetch},
    has_program,
    influxd::quiet_port,
    profiler::Watching,
    within,
};

/// How often they are scraped.
const ROUNDS: usize = 12;

/// A server of somebody else's.
struct Server {
    child: Guarded,
    address: SocketAddr,
    _directory: Scratch,
}

impl Server {
    /// Starts it; `command` makes the command with a directory and an address of its own. `None` if it isn't here: the test is
    /// skipped then.
    fn start(name: &str, command: impl Fn(&mut Command, &Path, SocketAddr)) -> Option<Self> {
        if !can_observe() || !has_program(name) {
            return None;
        }
        for _ in 0..5 {
            let directory = Scratch::directory(name);
            let address = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
            let log = std::fs::File::create(directory.path().join("log")).expect("it can be written");
            let mut program = Command::new(name);
            command(&mut program, directory.path(), address);
            program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            program.env("GOMAXPROCS", "4").env_remove("GODEBUG");
            let mut child = Guarded(program.spawn().expect("it starts"));
            let up = || fetch(address, "/metrics").is_some();
            let ended = |child: &mut Guarded| !matches!(child.0.try_wait(), Ok(None));
            // Another one may have been faster with the port.
            if within(LONG, || up() || ended(&mut child)) && !ended(&mut child) {
                return Some(Self { child, address, _directory: directory });
            }
        }
        panic!("{name} doesn't start");
    }

    fn metrics(&self, fresh_after: Duration) -> exposition::Families {
        std::thread::sleep(fresh_after);
        exposition::parse(&fetch(self.address, "/metrics").expect("it answers"))
    }

    /// Scrapes it and us, in turns.
    fn rounds(&self, fresh_after: Duration) -> Vec<Round> {
        let watching = Watching::process(self.child.pid());
        // What was read of its file in the background has come.
        let path = format!("/targets/{}/metrics", watching.now()["target"].as_str().expect("a name"));
        let known = || {
            fetch(watching.address(), &path).is_some_and(|text| text.contains("\ngo_memstats_alloc_bytes "))
        };
        assert!(within(LONG, known), "it isn't known as Go's: {:?}", fetch(watching.address(), &path));
        let rounds = (0..ROUNDS).map(|_| {
            let before = self.metrics(fresh_after);
            // Nothing older than that is handed out afterwards.
            let _fresh = watching.now();
            let ours = exposition::parse(&fetch(watching.address(), &path).expect("it answers"));
            Round { before, ours, behind: self.metrics(fresh_after) }
        });
        let rounds = rounds.collect();
        watching.finish();
        rounds
    }
}

/// At least so many samples of theirs are ours, too, and all of those agree. They say the same again until so much time has gone.
fn agree(server: Option<Server>, at_least: usize, fresh_after: Duration) {
    let Some(server) = server else { return };
    let rounds = server.rounds(fresh_after);
    let tally = exposition::compare(&rounds);
    println!("values {tally}, theirs alone: {:?}", exposition::missing(&rounds[0]));
    assert!(tally.all_equal(), "{tally}: {:#?}", tally.different);
    assert!(tally.of >= at_least * ROUNDS, "{tally} in {ROUNDS} rounds: {:#?}", rounds[0].ours.keys());
    let described = exposition::compare_descriptions(&rounds[0]);
    assert!(described.of == 0 || described.all_equal(), "{described}: {:#?}", described.different);
}

#[test]
fn prometheus_says_the_same_of_itself() {
    let server = Server::start("prometheus", |command, directory, address| {
        let config = directory.join("prometheus.yml");
        std::fs::write(&config, "global: {scrape_interval: 1h}\n").expect("it can be written");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
    });
    agree(server, 35, Duration::ZERO);
}

#[test]
fn the_node_exporter_says_the_same_of_itself() {
    let server = Server::start("prometheus-node-exporter", |command, _, address| {
        command.arg("--collector.disable-defaults").arg(format!("--web.listen-address={address}"));
    });
    agree(server, 35, Duration::ZERO);
}

#[test]
fn influxdb_says_the_same_of_itself() {
    let server = Server::start("influxd", |command, directory, address| {
        let place = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = \"{}\"\n[data]\ndir = \"{}\"\nwal-dir = \"{}\"\n\
             [monitor]\nstore-enabled = false\n[http]\nbind-address = \"{address}\"\nlog-enabled = false\n",
            quiet_port(),
            place("meta"),
            place("data"),
            place("wal"),
        );
        std::fs::write(directory.join("influxd.conf"), config).expect("it can be written");
        command.arg("-config").arg(directory.join("influxd.conf"));
    });
    agree(server, 30, Duration::ZERO);
}

#[test]
fn victoria_metrics_says_the_same_of_itself() {
    let server = Server::start("victoria-metrics", |command, directory, address| {
        command.arg(format!("-storageDataPath={}", directory.join("data").display()));
        command.arg(format!("-httpListenAddr={address}")).arg("-loggerLevel=ERROR");
    });
    // It has a library of its own, with fewer words, that looks once a second.
    agree(server, 20, Duration::from_millis(1100));
}
