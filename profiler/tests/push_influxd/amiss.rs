//! What somebody has to mend: no right to write, no database. It is tried once a minute, so all of it is tried together.

use std::{path::Path, time::Duration};

use crate::{
    DATABASE, MENDED, QUIET,
    common::{
        LONG, Scratch, child::Guarded, influxd::Influxd, lines::Book, profiler::Watching, relay::Relay,
        within,
    },
    idle, metric, push,
    spooled::{Spooled, Watch},
    until, until_drained,
};

/// What profiler says of itself while somebody has to mend something.
fn degraded(watching: &Watching, status: &str) {
    until(watching, LONG, "profiler_influx_requests_total{outcome=\"misconfigured\"}", |count| count >= 1.0);
    until(watching, LONG, "profiler_influx_backlog_points", |points| points > 20.0);
    let text = watching.get("/-/ready").text().to_owned();
    assert!(text.contains("degraded") && text.contains(status), "{text}");
    assert_eq!(metric(watching, "profiler_influx_points_total"), 0.0);
}

/// A profiler that isn't let in at first.
struct Refused {
    // Goes first, so that it writes nothing to a directory that is gone.
    watching: Watching,
    watch: Watch,
    directory: Scratch,
    _target: Guarded,
}

impl Refused {
    fn new(server: &Influxd, database: &str, user: &str, password: &Path) -> Self {
        let (target, directory) = (idle(), Scratch::name("spool"));
        let watch = Watch::over(directory.path());
        let password = password.to_str().expect("a path of ours is text");
        let spool = directory.path().to_str().expect("a path of ours is text");
        let url = server.url();
        let own = [
            "--influx",
            &url,
            "--influx-db",
            database,
            "--influx-interval",
            "200ms",
            "--influx-spool",
            spool,
            "--influx-user",
            user,
            "--influx-password-file",
            password,
        ];
        let watching = Watching::with(target.pid(), &[&QUIET[..], &own].concat());
        Self { _target: target, directory, watch, watching }
    }

    /// Everything that waited has to arrive now, without a new start.
    fn arrives(self, server: &Influxd, database: &str) {
        until_drained(&self.watching, MENDED);
        assert_eq!(self.watching.get("/-/ready").text(), "profiler is ready\n");
        let finished = self.watching.finish();
        assert!(finished.status.success());
        let told = finished.complaints.iter().filter(|line| line.contains("takes no points")).count();
        assert_eq!(told, 1, "told once: {:#?}", finished.complaints);
        let told = self.watch.end().book;
        assert!(told.points.len() > 20);
        server.everything(database).has_all_of(&told);
        assert!(Spooled::now(self.directory.path()).names.is_empty());
    }
}

fn who_may_not_write_keeps_everything_until_he_may() {
    let Some(mut server) = Influxd::start("auth-enabled = true") else { return };
    server.ask("", "CREATE USER root WITH PASSWORD 'master' WITH ALL PRIVILEGES");
    server.asks_as("root", "master");
    for question in [
        "CREATE DATABASE first",
        "CREATE DATABASE second",
        "CREATE USER writer WITH PASSWORD 'right'",
        "CREATE USER reader WITH PASSWORD 'right'",
        "GRANT ALL ON first TO writer",
        "GRANT READ ON second TO reader",
    ] {
        server.ask("", question);
    }
    let secrets = Scratch::directory("secrets");
    let (wrong, right) = (secrets.path().join("wrong"), secrets.path().join("right"));
    std::fs::write(&wrong, "wrong\n").expect("it can be written");
    std::fs::write(&right, "right\n").expect("it can be written");
    let unknown = Refused::new(&server, "first", "writer", &wrong);
    let without = Refused::new(&server, "second", "reader", &right);
    degraded(&unknown.watching, "401");
    degraded(&without.watching, "403");
    std::fs::write(&wrong, "right\n").expect("it can be written");
    server.ask("", "GRANT ALL ON second TO reader");
    unknown.arrives(&server, "first");
    without.arrives(&server, "second");
}

/// Starts a server without its data. Nothing that waited for it is lost, and people are told what is wrong.
fn a_server_that_comes_back_empty_gets_what_it_has_not_acknowledged() {
    let Some(mut server) = Influxd::with_database("", DATABASE) else { return };
    let (target, directory) = (idle(), Scratch::name("spool"));
    let relay = Relay::to(server.address());
    let watching = push(&target, &relay.url(), directory.path(), "200ms", &[]);
    assert!(within(LONG, || relay.count_acknowledged() >= 5), "points come");
    server.empty();
    let emptied = relay.count_acknowledged();
    let watch = Watch::over(directory.path());
    server.restart();
    until(&watching, LONG, "profiler_influx_requests_total{outcome=\"misconfigured\"}", |count| count >= 1.0);
    let ready = watching.get("/-/ready");
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(text.contains("degraded") && text.contains("404") && text.contains("database"), "{text}");
    std::thread::sleep(Duration::from_secs(3));
    let waiting = Spooled::now(directory.path());
    assert!(waiting.names.len() >= 3, "{:?}", waiting.names);
    server.ask("", &format!("CREATE DATABASE {DATABASE}"));
    until_drained(&watching, MENDED);
    assert_eq!(watching.get("/-/ready").text(), "profiler is ready\n");
    assert!(watching.finish().status.success());
    let there = server.everything(DATABASE);
    there.has_all_of(&watch.end().book);
    for one in relay.written()[emptied..].iter().filter(|one| one.status == Some(204)) {
        let mut told = Book::default();
        told.read(&one.lines);
        there.has_all_of(&told);
    }
    println!("{} points after the server came back empty", there.points.len());
}

#[test]
fn what_somebody_has_to_mend_is_kept_and_sent_once_it_is() {
    std::thread::scope(|scope| {
        scope.spawn(who_may_not_write_keeps_everything_until_he_may);
        scope.spawn(a_server_that_comes_back_empty_gets_what_it_has_not_acknowledged);
    });
}
