//! What a context switch costs more: two processes throw a byte to and fro through pipes. On one CPU each throw is a switch from one to
//! the other; on two it is a switch from and to idleness, on each.
//!
//! On one CPU, one of the two runs at any time, so that their CPU time is what a round trip takes, without what others have taken
//! in between: limits are judged by it. On two, idleness belongs to it and to nobody's CPU time: there it is the clock on the wall,
//! the median of short parts.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    child::{self, Lines, Running},
    daemon::Profiler,
    meters::{Cpu, family},
    statistics::{Ratio, Verdict, judge, median},
};

/// How the bench is told to throw first, to throw back, to do nothing.
pub const PING: &str = "--ping";
pub const PONG: &str = "--pong";
pub const IDLE: &str = "--idle";

/// Round trips of the first turn, which tells how long they take.
const FIRST: f64 = 20_000.0;
/// A turn of one place takes this long.
const TURN: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(30);
/// What a bystander may lose, as a share.
const LIMIT: f64 = 0.03;

/// The ways, in the order of a round, behind one without profiler.
const WAYS: [(&str, Whom); 3] = [
    ("no profiler, again", Whom::Nobody),
    ("profiler on an idle process: bystanders", Whom::Other),
    ("profiler on the two themselves", Whom::Themselves),
];

/// What profiler is told.
const OPTIONS: [&str; 4] = ["--stalls", "on", "--leaks", "off"];

/// Whom profiler observes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Nobody,
    Other,
    Themselves,
}

/// Parts of a turn, of which the median counts: others disturb some.
const PARTS: u32 = 25;

/// Throws first, at each line `N` N times; answers with the nanoseconds of a round trip. Its partner gets the second CPU.
pub fn ping(cpus: &[String]) -> anyhow::Result<()> {
    let [own, other] = cpus else { bail!("{PING} wants two CPUs") };
    child::pin(Some(own.parse()?))?;
    let mut partner = Partner(
        Command::new(std::env::current_exe()?)
            .args([PONG, other])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let (Some(mut there), Some(mut back)) = (partner.0.stdin.take(), partner.0.stdout.take()) else {
        bail!("the partner has no pipes");
    };
    let mut byte = [0];
    for line in std::io::stdin().lock().lines() {
        let trips: u32 = line?.trim().parse().context("no number of round trips")?;
        let mut took = Vec::new();
        for _ in 0..PARTS {
            let began = Instant::now();
            for _ in 0..trips / PARTS {
                there.write_all(&byte)?;
                back.read_exact(&mut byte)?;
            }
            took.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(trips / PARTS));
        }
        println!("{}", median(&took).context("no round trips")?);
    }
    Ok(())
}

/// Who throws back; it ends as its input does.
struct Partner(Child);

impl Drop for Partner {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Throws back what comes, until nothing comes any more.
pub fn pong(cpus: &[String]) -> anyhow::Result<()> {
    let [own] = cpus else { bail!("{PONG} wants a CPU") };
    child::pin(Some(own.parse()?))?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut byte = [0];
    while input.read_exact(&mut byte).is_ok() {
        output.write_all(&byte)?;
        output.flush()?;
    }
    Ok(())
}

/// Does nothing until its input ends.
pub fn idle() -> anyhow::Result<()> {
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A pair.
struct Pair {
    name: &'static str,
    process: Running,
    input: ChildStdin,
    output: Lines,
    trips: f64,
    /// How it is judged.
    by: Clock,
    /// By round: without profiler, then each way.
    rounds: Vec<[Trip; WAYS.len() + 1]>,
}

/// Nanoseconds of a round trip.
#[derive(Clone, Copy, Default)]
struct Trip {
    wall: f64,
    cpu: f64,
}

/// One of them.
type Clock = fn(&Trip) -> f64;
const WALL: Clock = |trip| trip.wall;
const CPU: Clock = |trip| trip.cpu;

impl Pair {
    fn start(name: &'static str, cpus: [usize; 2], by: Clock) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([PING.to_owned(), cpus[0].to_string(), cpus[1].to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Its partner ends with it, as the pipe does.
        let mut process = Running::start(&mut command, "ping", Signal::KILL, None)?;
        let (input, output) = (process.input()?, process.output()?);
        let mut pair = Self { name, process, input, output, trips: FIRST, by, rounds: Vec::new() };
        pair.throw()?;
        pair.trips = (TURN.as_secs_f64() * 1e9 / pair.throw()?.wall).max(FIRST / 10.0).round();
        Ok(pair)
    }

    fn throw(&mut self) -> anyhow::Result<Trip> {
        let before = Cpu::of(self.process.pid());
        writeln!(self.input, "{}", self.trips)?;
        let answer = self.output.next(PATIENCE)?.context("ping has ended")?;
        let cpu = Cpu::of(self.process.pid()).since(&before) * 1e9 / self.trips;
        let wall = answer.parse().with_context(|| format!("ping says: {answer}"))?;
        Ok(Trip { wall, cpu })
    }

    fn ratio(&self, way: usize, clock: Clock) -> Option<Ratio> {
        let ratios = self.rounds.iter().map(|round| clock(&round[way]) / clock(&round[0]));
        Ratio::of(&ratios.collect::<Vec<_>>())
    }
}

/// Measures; whether the limit is kept.
pub fn bench(profiler: &Profiler, directory: &Path, seconds: f64) -> anyhow::Result<bool> {
    let [first, last] = child::cpus()?;
    let mut pairs = vec![Pair::start("on one CPU", [last, last], CPU)?];
    if first < last {
        pairs.push(Pair::start("on two CPUs", [first, last], WALL)?);
    } else {
        println!("left out: two CPUs, as there is only one");
    }
    let mut command = Command::new(std::env::current_exe()?);
    let command = command.arg(IDLE).stdin(Stdio::piped());
    let other = Running::start(command, "the idle process", Signal::KILL, None)?;
    let themselves: Vec<u32> = pairs.iter().flat_map(|pair| family(pair.process.pid())).collect();
    let began = Instant::now();
    while pairs[0].rounds.len() < 3 || began.elapsed().as_secs_f64() < seconds {
        let mut round = vec![[Trip::default(); WAYS.len() + 1]; pairs.len()];
        for (at, whom) in std::iter::once(Whom::Nobody).chain(WAYS.map(|(_, whom)| whom)).enumerate() {
            let watching = match whom {
                Whom::Nobody => None,
                Whom::Other => Some(profiler.attach(&[other.pid()], &OPTIONS, directory)?),
                Whom::Themselves => Some(profiler.attach(&themselves, &OPTIONS, directory)?),
            };
            child::pause(Duration::from_millis(100))?;
            for (pair, round) in pairs.iter_mut().zip(&mut round) {
                round[at] = pair.throw()?;
            }
            if let Some(watching) = watching {
                watching.finish()?;
            }
        }
        for (pair, round) in pairs.iter_mut().zip(round) {
            pair.rounds.push(round);
        }
        eprint!("\rround {} ...", pairs[0].rounds.len());
    }
    eprint!("\r\x1b[K");
    Ok(report(&pairs))
}

fn report(pairs: &[Pair]) -> bool {
    println!(
        "A byte to and fro between two processes, ns per round trip (profiler {}):\n",
        OPTIONS.join(" ")
    );
    println!("{:42}{:>8}{:>24}{:>8}{:>24}", "", "wall", "change %, range", "CPU", "change %, range");
    for pair in pairs {
        println!("{}, {} rounds", pair.name, pair.rounds.len());
        let names = std::iter::once("no profiler").chain(WAYS.map(|(name, _)| name));
        for (at, name) in names.enumerate() {
            let cells = [WALL, CPU].map(|clock| {
                let all: Vec<f64> = pair.rounds.iter().map(|round| clock(&round[at])).collect();
                let change =
                    pair.ratio(at, clock).filter(|_| at > 0).map_or_else(String::new, |ratio| ratio.change());
                format!("{:>8.0}{change:>24}", median(&all).unwrap_or(f64::NAN))
            });
            println!("  {name:40}{}", cells.concat());
        }
    }
    println!();
    let mut kept = true;
    for pair in pairs {
        // The first way is the control.
        for (at, _) in WAYS.iter().enumerate().filter(|(_, (_, whom))| *whom == Whom::Other) {
            if let Some((ratio, control)) = pair.ratio(at + 1, pair.by).zip(pair.ratio(1, pair.by)) {
                let what = format!("a bystander's switch {}", pair.name);
                let (line, verdict) = judge(&what, &ratio, &control, LIMIT);
                println!("{line}");
                kept &= verdict != Verdict::Broken;
            }
        }
    }
    kept
}
