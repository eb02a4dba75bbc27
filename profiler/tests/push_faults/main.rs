//! Pushing to servers that refuse, fail, lie, stall and break off: nothing that was acknowledged is missing, nothing is stored
//! twice with other values, and no good line is set aside. Servers are played after what the real ones were seen to do.

#[path = "../common/fault_server/mod.rs"]
mod fault_server;

mod doubtful;
mod finding_out;
mod rows;
mod threads;
mod tls;
mod transport;

use std::time::{Duration, Instant};

use fault_server::{FaultServer, Play, Role};
use profiler::push::{
    client::{Api, Client, Credentials, Secret, Server, Timeouts},
    delivery::{Delivered, Delivery, Outcome, Wire},
    policy::Answer,
};

/// Long enough for a loaded machine, short enough for tests of silence.
const PATIENCE: Timeouts = Timeouts { connect: Duration::from_secs(5), total: Duration::from_secs(20) };

/// What speaks to a played server, as somebody who knows what it is.
fn server(url: String, play: Play) -> Server {
    let (api, org) = match play {
        Play::V1 { .. } => (Api::V1, None),
        Play::V2 => (Api::V2, Some("a company".to_owned())),
        Play::V3 => (Api::V3, None),
    };
    Server {
        url,
        api: Some(api),
        database: "leak hunt/1".to_owned(),
        org,
        credentials: Credentials::default(),
    }
}

fn token(text: &str) -> Credentials {
    Credentials { token: Some(Secret::Value(text.to_owned())), ..Credentials::default() }
}

fn user(name: &str, password: &str) -> Credentials {
    let password = Some(Secret::Value(password.to_owned()));
    Credentials { user: Some(name.to_owned()), password, token: None }
}

/// A server, a client of it, and what was set aside.
struct Push {
    server: FaultServer,
    client: Client,
    delivery: Delivery,
    /// Line and reason.
    aside: Vec<(String, String)>,
    /// How long has been waited without waiting.
    waited: Duration,
}

/// A client whose clock is ahead.
struct Ahead<'a>(&'a mut Client, Duration);

impl Wire for Ahead<'_> {
    fn write(&mut self, lines: &str) -> Answer {
        self.0.write(lines)
    }

    fn api(&self) -> Option<Api> {
        Wire::api(self.0)
    }

    fn now(&self) -> Instant {
        Instant::now() + self.1
    }
}

impl Push {
    fn to(play: Play) -> Self {
        Self::with(Role::new(play), |_| {}, PATIENCE)
    }

    fn with(role: Role, change: impl FnOnce(&mut Server), timeouts: Timeouts) -> Self {
        let play = role.play;
        let fault_server = FaultServer::start(role);
        let mut server = server(fault_server.url(), play);
        change(&mut server);
        let client = Client::new(server, timeouts).unwrap();
        let (delivery, aside) = (Delivery::default(), Vec::new());
        Self { server: fault_server, client, delivery, aside, waited: Duration::ZERO }
    }

    fn impatient(play: Play) -> Self {
        let total = Duration::from_millis(500);
        Self::with(Role::new(play), |_| {}, Timeouts { connect: total, total })
    }

    fn deliver(&mut self, text: &str) -> Delivered {
        let aside = &mut self.aside;
        let mut quarantine = |line: &str, reason: &str| aside.push((line.to_owned(), reason.to_owned()));
        let mut wire = Ahead(&mut self.client, self.waited);
        let delivered = self.delivery.deliver(&mut wire, text, &mut quarantine, &|| true);
        self.is_true(text, &delivered);
        delivered
    }

    /// Delivers, and what is left again, with something new, without the pauses.
    fn deliver_all(&mut self, text: &str) -> u64 {
        let began = Instant::now();
        let (mut rest, mut requests) = (text.to_owned(), 0);
        loop {
            let delivered = self.deliver(&rest);
            requests += delivered.requests;
            match delivered.outcome {
                Outcome::Done => return requests,
                Outcome::Later { rest: left, .. } => rest = left,
                Outcome::Doubtful { rest: left, .. } => {
                    self.waited += Duration::from_secs(60);
                    rest = format!("{left}\nother v=1i {requests}");
                }
                Outcome::Misconfigured { reason, .. } => panic!("{reason}"),
            }
            assert!(began.elapsed() < Duration::from_secs(60), "never done");
        }
    }

    /// Each line is stored, set aside or left; what is said to be stored is.
    fn is_true(&self, text: &str, delivered: &Delivered) {
        let rest: Vec<&str> = match &delivered.outcome {
            Outcome::Done => Vec::new(),
            Outcome::Later { rest, .. }
            | Outcome::Doubtful { rest, .. }
            | Outcome::Misconfigured { rest, .. } => rest.split('\n').collect(),
        };
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
        let aside = |line: &str| self.aside.iter().any(|(aside, _)| aside == line);
        let gone: Vec<&&str> = lines.iter().filter(|line| !rest.contains(line)).collect();
        for line in &gone {
            assert!(aside(line) || self.server.store(|store| store.has(line)), "lost: {line}");
        }
        assert_eq!(delivered.stored + delivered.quarantined, gone.len() as u64);
        assert_eq!(self.server.store(|store| store.contradictions.clone()), Vec::<String>::new());
    }

    fn aside(&self) -> Vec<&str> {
        self.aside.iter().map(|(line, _)| line.as_str()).collect()
    }
}

/// Good lines of several measurements.
fn good(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("m{},pid={} v={at}i {}", at % 3, at % 7, 1_000_000 + at)).collect()
}

/// Why nothing is tried for a minute.
fn misconfigured(delivered: &Delivered) -> &str {
    match &delivered.outcome {
        Outcome::Misconfigured { reason, .. } => reason,
        outcome => panic!("{outcome:?}"),
    }
}
