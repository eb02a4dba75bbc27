//! Ways of getting points to InfluxDB, measured in turns.

use std::{net::SocketAddr, path::Path, time::Instant};

use anyhow::{Context as _, bail};
use profiler::push::{
    client::{Api, Client, Credentials, Server, Timeouts},
    delivery::{Delivery, Outcome},
    spool::{BatchId, Limits, Spool},
};

use super::{
    influxd::{DATABASE, Influxd, Temporary},
    meters,
    moments::{Moments, Window},
    relay,
};

/// Points of a request that sends what has waited, at most; as the push has it.
const MANY: u32 = 5_000;
/// As many as nobody reaches.
const LIMITS: Limits = Limits { bytes: 1 << 40, age: std::time::Duration::from_secs(1 << 32) };

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Lines,
    Spooled,
    Live,
    Backlog,
    Plain,
    PlainMany,
    EachLine,
}

impl Way {
    pub const ALL: [Self; 7] =
        [Self::Lines, Self::Spooled, Self::Live, Self::Backlog, Self::Plain, Self::PlainMany, Self::EachLine];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines made",
            Self::Spooled => "lines made, spooled (fsync)",
            Self::Live => "**our way, live**: lines, spool, gzip, a request per window, removed",
            Self::Backlog => "**our way, backlog**: the same, 5,000 points per request",
            Self::Plain => "lines, a request per window; no spool, no gzip",
            Self::PlainMany => "lines, 5,000 points per request; no spool, no gzip",
            Self::EachLine => "lines, a request per line; no spool, no gzip",
        }
    }

    /// Windows of one turn: fewer where each is dear.
    const fn windows(self) -> usize {
        match self {
            Self::Lines => 400,
            Self::Spooled | Self::Live | Self::Plain => 80,
            Self::Backlog | Self::PlainMany => 250,
            Self::EachLine => 20,
        }
    }

    const fn has_spool(self) -> bool {
        matches!(self, Self::Spooled | Self::Live | Self::Backlog)
    }
}

/// What a turn has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub points: f64,
    pub requests: f64,
    pub seconds: f64,
    pub own_cpu: f64,
    pub server_cpu: f64,
}

/// What all ways need.
pub struct Ways {
    moments: Moments,
    directory: Temporary,
    client: Client,
    delivery: Delivery,
    agent: ureq::Agent,
    url: String,
    turn: u64,
}

impl Ways {
    /// To a server, or to who stands before it.
    pub fn new(address: SocketAddr, moments: Moments) -> anyhow::Result<Self> {
        let agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(1).proxy(None);
        Ok(Self {
            moments,
            directory: Temporary::new(&format!("spools-{}", address.port()))?,
            client: Client::new(server(address), Timeouts::default())?,
            delivery: Delivery::default(),
            agent: agent.build().into(),
            url: format!("http://{address}/write?db={DATABASE}&precision=ns"),
            turn: 0,
        })
    }

    /// One turn.
    pub fn measure(&mut self, way: Way, influxd: &Influxd) -> anyhow::Result<Cost> {
        self.turn += 1;
        let path = self.directory.path().join(self.turn.to_string());
        let spool = way.has_spool().then(|| Spool::open(&path, LIMITS)).transpose()?;
        let server_before = meters::cpu_of(influxd.pid())?;
        let (began, own_before) = (Instant::now(), meters::own_cpu());
        let (points, requests) = self.turn(way, spool.as_ref())?;
        let (own_cpu, seconds) = (meters::own_cpu() - own_before, began.elapsed().as_secs_f64());
        let server_cpu = meters::cpu_of(influxd.pid())? - server_before;
        Ok(Cost { points: f64::from(points), requests: f64::from(requests), seconds, own_cpu, server_cpu })
    }

    fn turn(&mut self, way: Way, spool: Option<&Spool>) -> anyhow::Result<(u32, u32)> {
        let (mut points, mut requests) = (0, 0);
        let mut together = String::new();
        let mut waiting = 0;
        for window in 0..way.windows() {
            let last = window + 1 == way.windows();
            let Window { time, points: fresh, text } = self.moments.window();
            points += fresh;
            waiting += fresh;
            let kept = spool.map(|spool| spool.append(time, fresh, &text)).transpose()?;
            match (way, spool) {
                (Way::Lines | Way::Spooled, _) => {}
                (Way::Live, Some(spool)) => {
                    requests += self.deliver(spool, &kept.into_iter().collect::<Vec<_>>())?;
                }
                (Way::Backlog, Some(spool)) if last || waiting + fresh > MANY => {
                    requests += self.deliver(spool, &spool.ids(usize::MAX))?;
                    waiting = 0;
                }
                (Way::Plain, _) => requests += self.post(&text)?,
                (Way::PlainMany, _) => {
                    together.push_str(&text);
                    if last || waiting + fresh > MANY {
                        requests += self.post(&std::mem::take(&mut together))?;
                        waiting = 0;
                    }
                }
                (Way::EachLine, _) => {
                    for line in text.split_inclusive('\n') {
                        requests += self.post(line)?;
                    }
                }
                (Way::Live | Way::Backlog, _) => {}
            }
        }
        Ok((points, requests))
    }

    /// As the push does it.
    fn deliver(&mut self, spool: &Spool, ids: &[BatchId]) -> anyhow::Result<u32> {
        let mut text = String::new();
        for id in ids {
            text.push_str(&spool.read(*id)?.context("a batch has gone")?);
        }
        let delivered = self.delivery.deliver(&mut self.client, &text, &mut |_, _| {}, &|| true);
        if delivered.outcome != Outcome::Done || delivered.quarantined > 0 {
            bail!("influxd takes no points: {:?}", delivered.outcome);
        }
        for id in ids {
            spool.remove(*id)?;
        }
        Ok(u32::try_from(delivered.requests)?)
    }

    fn post(&self, text: &str) -> anyhow::Result<u32> {
        let mut answer = self.agent.post(&self.url).send(text)?;
        answer.body_mut().read_to_vec()?;
        if answer.status() != 204 {
            bail!("influxd answers {}", answer.status());
        }
        Ok(1)
    }
}

/// The server, for a client.
pub fn server(address: SocketAddr) -> Server {
    Server {
        url: format!("http://{address}"),
        api: Some(Api::V1),
        database: DATABASE.to_owned(),
        org: None,
        credentials: Credentials::default(),
    }
}

/// All ways in turns, for so many seconds and three rounds at least; a table of it.
pub fn compare(influxd: &Influxd, seconds: f64) -> anyhow::Result<()> {
    let first = std::time::SystemTime::now() - std::time::Duration::from_secs(300 * 86_400);
    let mut ways = Ways::new(influxd.address(), Moments::new("ways", first))?;
    // Once, so that the series are there and everybody is warm.
    ways.measure(Way::Live, influxd)?;
    let mut costs = vec![Vec::new(); Way::ALL.len()];
    let began = Instant::now();
    while costs[0].len() < 3 || began.elapsed().as_secs_f64() < seconds {
        for (way, costs) in Way::ALL.into_iter().zip(&mut costs) {
            costs.push(ways.measure(way, influxd)?);
        }
        eprint!("\rround {} ...", costs[0].len());
    }
    eprint!("\r\x1b[K");
    let wire = wire(influxd)?;
    report(&costs, &wire);
    spools_are_left_alone(ways.directory.path())
}

/// A turn that leaves nothing behind but what it is to leave.
fn spools_are_left_alone(directory: &Path) -> anyhow::Result<()> {
    let there = std::fs::read_dir(directory)?.count();
    if there == 0 { bail!("nothing was spooled") } else { Ok(()) }
}

/// Bytes of requests and of answers per point, by way.
fn wire(influxd: &Influxd) -> anyhow::Result<Vec<(f64, f64)>> {
    let (address, bytes) = relay::start(influxd.address())?;
    let first = std::time::SystemTime::now() - std::time::Duration::from_secs(100 * 86_400);
    let mut ways = Ways::new(address, Moments::new("ways", first))?;
    let mut all = Vec::new();
    for way in Way::ALL {
        let before = bytes.read();
        let points = ways.measure(way, influxd)?.points;
        let after = bytes.read();
        all.push(((after.0 - before.0) as f64 / points, (after.1 - before.1) as f64 / points));
    }
    Ok(all)
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut sorted: Vec<f64> = costs.iter().map(of).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn report(costs: &[Vec<Cost>], wire: &[(f64, f64)]) {
    let per_10_000 = |cost: &Cost, cpu: f64| cpu * 1e3 * 1e4 / cost.points;
    let live = &costs[Way::ALL.iter().position(|way| *way == Way::Live).unwrap_or(0)];
    let windows = Way::Live.windows() as f64;
    println!(
        "{:.0} points per window; medians of {} turns each, all ways in turns; CPU in ms per 10,000 points, \
         ratios to our way, live:\n",
        live[0].points / windows,
        live.len()
    );
    println!(
        "| way | points/s | least | most | own CPU | ratio | influxd's CPU | ratio | points/request | bytes/point sent | answered |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for ((way, costs), (there, back)) in Way::ALL.into_iter().zip(costs).zip(wire) {
        let rates = || costs.iter().map(|cost| cost.points / cost.seconds);
        let own = |costs: &[Cost]| median(costs, |cost| per_10_000(cost, cost.own_cpu));
        // Its clock has ticks of 10 ms: the sum is more exact than a median of turns.
        let server = |costs: &[Cost]| {
            let sum = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>();
            sum(|cost| cost.server_cpu) * 1e7 / sum(|cost| cost.points)
        };
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {:.1} | {:.2} | {:.0} | {there:.1} | {back:.1} |",
            way.name(),
            median(costs, |cost| cost.points / cost.seconds),
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
            own(costs),
            own(costs) / own(live),
            server(costs),
            server(costs) / server(live),
            median(costs, |cost| if cost.requests > 0.0 { cost.points / cost.requests } else { 0.0 }),
        );
    }
    println!();
}
