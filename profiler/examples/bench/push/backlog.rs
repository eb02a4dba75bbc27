//! A backlog that is drained while new windows come; and how dear it is to open a spool with many files.

use std::{
    collections::VecDeque,
    fs,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use flate2::{Compression, write::GzEncoder};
use profiler::{
    config::Push,
    push::{
        Pusher, Source,
        spool::{Limits, Spool},
    },
};
use tokio::sync::watch;

use super::{
    influxd::{Influxd, Temporary},
    meters::{self, mb},
    moments::{CONTEXT, Moments, STEP, Window},
    ways,
};

/// Time between two live windows: the shortest that there is.
const INTERVAL: Duration = Duration::from_secs(1);
/// Live windows go on for this long after the backlog is gone, to compare with.
const AFTERWARDS: Duration = Duration::from_secs(8);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);
/// A backlog that hasn't moved for so long never will.
const STUCK: Duration = Duration::from_secs(60);
const NO_LIMITS: Limits = Limits { bytes: 1 << 40, age: Duration::from_secs(1 << 32) };

/// Puts that many windows into a spool's directory, named as the spool names them, without its fsyncs.
fn fill(directory: &Path, windows: u64, host: &str, first: SystemTime) -> anyhow::Result<u64> {
    fs::create_dir(directory)?;
    let mut moments = Moments::new(host, first);
    let mut points = 0;
    for sequence in 0..windows {
        let Window { time, points: fresh, text } = moments.window();
        let ns = time.duration_since(UNIX_EPOCH)?.as_nanos();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text.as_bytes())?;
        let name = format!("{ns:020}-{sequence:010}-{fresh}.lp.gz");
        fs::write(directory.join(name), packed.finish()?)?;
        points += u64::from(fresh);
        if sequence % 1000 == 0 {
            eprint!("\r{sequence} of {windows} windows made ...");
        }
    }
    eprint!("\r\x1b[K");
    Ok(points)
}

/// How long it takes to open a spool with so many files, and what memory.
pub fn open(files: u64) -> anyhow::Result<()> {
    let temporary = Temporary::new("open")?;
    let directory = temporary.path().join("spool");
    let points = fill(&directory, files, "open", SystemTime::now())?;
    let before = meters::resident()?;
    meters::reset_peak()?;
    let began = Instant::now();
    let spool = Spool::open(&directory, NO_LIMITS)?;
    let took = began.elapsed();
    let (after, peak) = (meters::resident()?, meters::peak()?);
    let figures = spool.figures();
    if (figures.batches, figures.points) != (files, points) {
        bail!("{files} files with {points} points were written, the spool has {figures:?}");
    }
    println!(
        "Opening a spool with {files} files ({points} points, {}; its names in the kernel's cache): {:.0} ms; \
         memory {} -> {}, peak {}\n",
        mb(figures.bytes),
        took.as_secs_f64() * 1e3,
        mb(before),
        mb(after),
        mb(peak)
    );
    Ok(())
}

/// Live windows that influxd doesn't show yet, and how late the others were, in seconds.
#[derive(Default)]
struct Live {
    waiting: VecDeque<SystemTime>,
    late: Vec<f64>,
}

impl Live {
    /// The server shows everything up to this.
    fn seen(&mut self, newest_ns: i64) {
        let seen = |time: &SystemTime| profiler::export::points::unix_ns(*time) <= newest_ns;
        while let Some(time) = self.waiting.front().copied().filter(seen) {
            self.waiting.pop_front();
            self.late.push(time.elapsed().unwrap_or_default().as_secs_f64());
        }
    }

    fn report(&mut self, when: &str) {
        let mut late = std::mem::take(&mut self.late);
        late.sort_by(f64::total_cmp);
        let Some(most) = late.last() else { return };
        println!(
            "| live windows {when}: number, and ms until influxd shows them: median, most | {}, {:.0}, {:.0} |",
            late.len(),
            late[late.len() / 2] * 1e3,
            most * 1e3
        );
    }
}

/// Puts that many points into a spool as windows, and lets the push drain it into influxd as fast as it can.
pub fn drain(influxd: &Influxd, wanted: u64) -> anyhow::Result<()> {
    let temporary = Temporary::new("backlog")?;
    let directory = temporary.path().join("spool");
    let per_window = u64::from(Moments::new("backlog", SystemTime::now()).window().points);
    let windows = wanted.div_ceil(per_window);
    let first = SystemTime::now() - STEP * u32::try_from(windows + 1)?;
    let began = Instant::now();
    let points = fill(&directory, windows, "backlog", first)?;
    let filled = began.elapsed();
    let config = Push {
        server: ways::server(influxd.address()),
        interval: INTERVAL,
        tags: vec![("host".to_owned(), "live".to_owned())],
        prefix: String::new(),
        unsigned: false,
        spool: Some(directory),
        spool_bytes: NO_LIMITS.bytes,
        spool_age: NO_LIMITS.age,
    };
    let before = meters::resident()?;
    meters::reset_peak()?;
    let began = Instant::now();
    let pusher = Pusher::open_with_rate(&config, f64::INFINITY)?;
    let opened = (began.elapsed(), meters::resident()?);
    let live = Arc::new(Mutex::new(Live::default()));
    let (cpu, server_cpu) = (meters::own_cpu(), meters::cpu_of(influxd.pid())?);
    let began = Instant::now();
    let begun = profiler::export::points::unix_ns(SystemTime::now());
    pusher.begin(source(&live))?;
    let lock = || live.lock().unwrap_or_else(PoisonError::into_inner);
    let look = || -> anyhow::Result<()> {
        std::thread::sleep(LOOK);
        if let Some(newest) = influxd.newest("live", begun)? {
            lock().seen(newest);
        }
        Ok(())
    };
    // What is new and waits isn't the backlog.
    let (mut left, mut moved) = (u64::MAX, Instant::now());
    while pusher.figures().backlog_points > 2 * per_window {
        look()?;
        let figures = pusher.figures();
        if figures.backlog_points < left {
            (left, moved) = (figures.backlog_points, Instant::now());
        } else if moved.elapsed() > STUCK {
            bail!("{left} points wait and nothing moves: {figures:?}");
        }
        eprint!("\r{left} points wait ...");
    }
    eprint!("\r\x1b[K");
    let (took, peak) = (began.elapsed().as_secs_f64(), meters::peak()?);
    let figures = pusher.figures();
    let (cpu, server_cpu) = (meters::own_cpu() - cpu, meters::cpu_of(influxd.pid())? - server_cpu);
    let per_10_000 = |cpu: f64| cpu * 1e7 / points as f64;
    println!("| backlog of {points} points in {windows} files, made in {:.0} s | |", filled.as_secs_f64());
    println!("|---|---|");
    println!("| points/s | {:.0} ({took:.1} s) |", points as f64 / took);
    println!("| own CPU, ms per 10,000 points | {:.1} |", per_10_000(cpu));
    println!("| influxd's CPU, ms per 10,000 points | {:.1} |", per_10_000(server_cpu));
    println!(
        "| requests, points per request | {}, {:.0} |",
        figures.requests.stored,
        figures.stored as f64 / figures.requests.stored as f64
    );
    println!("| resident memory before | {} |", mb(before));
    println!("| after opening the spool ({:.0} ms) | {} |", opened.0.as_secs_f64() * 1e3, mb(opened.1));
    println!("| most until the end | {} |", mb(peak));
    lock().report("meanwhile");
    while began.elapsed().as_secs_f64() < took + AFTERWARDS.as_secs_f64() {
        look()?;
    }
    lock().report("afterwards");
    pusher.close(Some(&Moments::new("live", SystemTime::now()).now()));
    println!("| the push's last word | {} |", pusher.finish().unwrap_or_default());
    let there = influxd.moments("backlog")?;
    println!("| windows of the backlog that influxd has | {there} |\n");
    if there == windows { Ok(()) } else { bail!("{} windows are missing", windows - there) }
}

/// Makes a moment whenever the push asks.
fn source(live: &Arc<Mutex<Live>>) -> Source {
    let mut moments = Moments::new("live", SystemTime::now());
    let (send, latest) = watch::channel(Arc::new(moments.now()));
    let (moments, live) = (Mutex::new(moments), Arc::clone(live));
    let ask = move || {
        let now = moments.lock().unwrap_or_else(PoisonError::into_inner).now();
        live.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back(now.taken_at);
        let _nobody = send.send(Arc::new(now));
    };
    Source { latest, ask: Box::new(ask), context: CONTEXT }
}
