//! Programs that leak and programs that don't.

use crate::{
    loads::{Bursts, Cache, Life, Pool, Queue, Sawtooth, Stream, Table},
    world::{Load, World},
};

/// A kind of program.
pub struct Family {
    pub name: &'static str,
    /// Makes one, with its site of interest first.
    pub make: fn(&mut World) -> Vec<Box<dyn Load>>,
}

/// A kind of program with a leak in its first site.
pub struct Leak {
    pub family: Family,
    /// Bytes per second that are lost, in the long run.
    pub rate: f64,
    /// Seconds watched.
    pub watch: f64,
    /// Whether anybody looks for pointers.
    pub looked: bool,
}

const MIB: f64 = 1_048_576.0;

/// Eight sites as every program has them: some churn, something that was allocated once. They must not be called leaking either.
fn others(world: &mut World) -> Vec<Box<dyn Load>> {
    let mut loads: Vec<Box<dyn Load>> = Vec::new();
    for i in 0..8 {
        let site = world.site();
        let rate = world.chance.between(2e3, 4e5);
        let life = world.chance.between(0.01, 20.0);
        loads.push(match i {
            0 => Box::new(Stream::new(world, site, rate, 4096, Life::Kept).part(|t| (-t / 20.0).exp())),
            1 => Box::new(Stream::new(world, site, rate, 96, Life::Pareto(0.001, 1.2))),
            _ => Box::new(Stream::new(world, site, rate, 200, Life::Exponential(life))),
        });
    }
    loads
}

fn cache(world: &mut World, zipf: bool, fill: (f64, f64), used: impl Fn(f64) -> f64) -> Vec<Box<dyn Load>> {
    let site = world.site();
    let (time, bytes) = (world.chance.between(fill.0, fill.1), world.chance.between(500.0, 20_000.0));
    let capacity = world.chance.between(2_000.0, 30_000.0);
    // Zipf's law: about a third of the requests miss until it is full.
    let requests = capacity / time * if zipf { 3.0 } else { 1.0 };
    let cache = Cache::new(world, site, requests, bytes as u64, capacity as usize, zipf, used(time));
    vec![Box::new(cache)]
}

fn with_others(
    world: &mut World,
    load: impl FnOnce(&mut World, usize) -> Box<dyn Load>,
) -> Vec<Box<dyn Load>> {
    let site = world.site();
    let mut loads = vec![load(world, site)];
    loads.extend(others(world));
    loads
}

fn queue(world: &mut World, last_in_first_out: bool) -> Vec<Box<dyn Load>> {
    with_others(world, |world, site| {
        let bytes = world.chance.between(1e3, 3e5) as u64;
        let per_second = world.chance.between(0.3, 30.0);
        Box::new(Queue { site, per_second, bytes, last_in_first_out, items: Default::default(), next: 0.0 })
    })
}

/// Programs that don't leak.
pub fn harmless() -> Vec<Family> {
    let family = |name, make| Family { name, make };
    vec![
        family("cache in sequence, from the start", |w| cache(w, false, (60.0, 14_400.0), |_| 0.0)),
        family("cache by Zipf's law, from the start", |w| cache(w, true, (60.0, 14_400.0), |_| 0.0)),
        family("cache, attached midway", |w| cache(w, false, (60.0, 14_400.0), |time| time / 2.0)),
        family("cache, full and churning", |w| cache(w, true, (30.0, 3_600.0), |time| time * 4.0)),
        family("table that doubles", |w| {
            with_others(w, |w, site| {
                let per_second = w.chance.between(10.0, 1e5);
                Box::new(Table { site, per_second, most: per_second * 7200.0, slots: 1024.0, block: None })
            })
        }),
        family("arena that warms up", |w| {
            with_others(w, |w, site| {
                let (rate, time) = (w.chance.between(1e4, 1e6), w.chance.between(10.0, 1800.0));
                Box::new(Stream::new(w, site, rate, 65_536, Life::Kept).part(move |t| (-t / time).exp()))
            })
        }),
        family("constant number of blocks", |w| {
            with_others(w, |w, site| {
                let life = w.chance.between(10.0, 1800.0);
                Box::new(Stream::new(w, site, 40.0 * MIB / life, 4096, Life::Exponential(life)))
            })
        }),
        family("bursts of connections", |w| {
            with_others(w, |w, site| {
                let (every, life) =
                    (w.chance.between(20.0, 1800.0), Life::Exponential(w.chance.between(2.0, 60.0)));
                Box::new(Bursts { site, every, blocks: 500, bytes: 65_536, life, next: every / 2.0 })
            })
        }),
        family("load by day and night", |w| {
            with_others(w, |w, site| {
                let (phase, life) = (w.chance.uniform(), w.chance.between(10.0, 1800.0));
                let part = move |t: f64| 0.5 + 0.5 * ((t / 86_400.0 + phase) * std::f64::consts::TAU).sin();
                Box::new(Stream::new(w, site, 4e5, 2048, Life::Exponential(life)).part(part))
            })
        }),
        family("lives with a heavy tail", |w| {
            with_others(w, |w, site| {
                let (rate, tail) = (w.chance.between(1e5, 2e6), w.chance.between(0.6, 2.0));
                Box::new(Stream::new(w, site, rate, 512, Life::Pareto(0.01, tail)))
            })
        }),
        family("sessions of 30 minutes", |w| {
            with_others(w, |w, site| {
                let rate = w.chance.between(1e4, 3e5);
                Box::new(Stream::new(w, site, rate, 8192, Life::Fixed(1800.0)))
            })
        }),
        family("queue as long as a random walk", |w| queue(w, false)),
        family("stack as high as a random walk", |w| queue(w, true)),
        family("pool with a high-water mark", |w| {
            with_others(w, |w, site| {
                let (users, time_of_use) = (w.chance.between(20.0, 300.0), w.chance.between(1.0, 60.0));
                Box::new(Pool { site, bytes: 262_144, users, in_use: 0.0, made: 0.0, time_of_use, next: 0.0 })
            })
        }),
        family("without allocations", |w| {
            w.site();
            Vec::new()
        }),
        family("sawtooth of a collector", |w| {
            with_others(w, |w, site| {
                let (rate, period) = (w.chance.between(1e5, 1e6), w.chance.between(10.0, 600.0));
                Box::new(Sawtooth::new(w, site, rate, 256, period))
            })
        }),
        family("collector with generations", |w| {
            let mut loads =
                with_others(w, |w, site| Box::new(Stream::new(w, site, 2e6, 256, Life::Exponential(0.2))));
            let period = w.chance.between(60.0, 600.0);
            loads.push(Box::new(Sawtooth::new(w, 0, 1e5, 256, period)));
            loads
        }),
    ]
}

/// Programs that don't leak and look as if they did: nobody can tell them from leaks by their allocations alone.
pub fn deceptive() -> Vec<Family> {
    let family = |name, make| Family { name, make };
    fn mixed(w: &mut World, part: f64) -> Vec<Box<dyn Load>> {
        let mut loads = cache(w, false, (3600.0, 14_400.0), |_| 0.0);
        let rate = 5e5 / part;
        loads.push(Box::new(Stream::new(w, 0, rate.min(2e7), 4096, Life::Exponential(0.1))));
        loads
    }
    vec![
        family("cache at a site that frees half", |w| mixed(w, 1.0)),
        family("cache at a site that frees nearly all", |w| mixed(w, 0.01)),
        family("cache that takes 8 to 12 h to fill", |w| cache(w, false, (28_800.0, 43_200.0), |_| 0.0)),
        family("sessions of 8 hours", |w| {
            with_others(w, |w, site| Box::new(Stream::new(w, site, 2e4, 8192, Life::Fixed(28_800.0))))
        }),
    ]
}

fn leak(world: &mut World, lost: impl Fn(&mut World, usize) -> Vec<Box<dyn Load>>) -> Vec<Box<dyn Load>> {
    let site = world.site();
    let mut loads = lost(world, site);
    loads.extend(others(world));
    loads
}

/// Programs that leak.
pub fn leaking() -> Vec<Leak> {
    let of = |name, rate, watch, looked, make| Leak { family: Family { name, make }, rate, watch, looked };
    vec![
        of("all of a site, 20 KB/s", 20e3, 1200.0, true, |w| {
            leak(w, |w, site| vec![Box::new(Stream::new(w, site, 20e3, 256, Life::Lost))])
        }),
        of("1 in 10,000 of 50 MB/s", 5e3, 3600.0, true, |w| {
            leak(w, |w, site| {
                let stream = Stream::new(w, site, 50e6, 1000, Life::Exponential(0.5));
                vec![Box::new(stream.except(1e-4, Life::Lost))]
            })
        }),
        of("64 B at 10 KB/s beside 50 MB/s elsewhere", 10e3, 1800.0, true, |w| {
            leak(w, |w, site| {
                let churn = w.site();
                vec![
                    Box::new(Stream::new(w, site, 10e3, 64, Life::Lost)),
                    Box::new(Stream::new(w, churn, 50e6, 64, Life::Exponential(0.5))),
                ]
            })
        }),
        of("64 B at 10 KB/s under 50 MB/s there", 10e3, 1800.0, true, |w| {
            leak(w, |w, site| {
                let stream = Stream::new(w, site, 50e6, 64, Life::Exponential(0.5));
                vec![Box::new(stream.except(2e-4, Life::Lost))]
            })
        }),
        of("under a sawtooth of 10 s to 10 min", 8e3, 5400.0, true, |w| {
            leak(w, |w, site| {
                let period = w.chance.between(10.0, 600.0);
                vec![
                    Box::new(Stream::new(w, site, 8e3, 256, Life::Lost)),
                    Box::new(Sawtooth::new(w, site, 2e6, 256, period)),
                ]
            })
        }),
        of("begins after 10 minutes", 20e3, 2400.0, true, |w| {
            leak(w, |w, site| {
                let late = |t: f64| f64::from(u8::from(t > 600.0));
                vec![
                    Box::new(Stream::new(w, site, 20e3, 256, Life::Lost).part(late)),
                    Box::new(Stream::new(w, site, 1e6, 256, Life::Exponential(2.0))),
                ]
            })
        }),
        of("in bursts", 20e3, 5400.0, true, |w| {
            leak(w, |_, site| {
                vec![Box::new(Bursts {
                    site,
                    every: 60.0,
                    blocks: 300,
                    bytes: 4000,
                    life: Life::Lost,
                    next: 1.0,
                })]
            })
        }),
        of("few large blocks", 16.0 * MIB / 120.0, 2400.0, true, |w| {
            leak(w, |_, site| {
                let bytes = 16 * MIB as u64;
                vec![Box::new(Bursts { site, every: 120.0, blocks: 1, bytes, life: Life::Lost, next: 60.0 })]
            })
        }),
        of("among lives with a heavy tail", 20e3, 3600.0, true, |w| {
            leak(w, |w, site| {
                let stream = Stream::new(w, site, 1e6, 512, Life::Pareto(0.01, 1.5));
                vec![Box::new(stream.except(0.02, Life::Lost))]
            })
        }),
        of("1 in 10,000 of 50 MB/s, nobody looks", 5e3, 7200.0, false, |w| {
            leak(w, |w, site| {
                let stream = Stream::new(w, site, 50e6, 1000, Life::Exponential(0.5));
                vec![Box::new(stream.except(1e-4, Life::Lost))]
            })
        }),
        of("under a sawtooth, nobody looks", 8e3, 10_800.0, false, |w| {
            leak(w, |w, site| {
                let period = w.chance.between(10.0, 600.0);
                vec![
                    Box::new(Stream::new(w, site, 8e3, 256, Life::Lost)),
                    Box::new(Sawtooth::new(w, site, 2e6, 256, period)),
                ]
            })
        }),
        of("all of a site, nobody looks, 8 h", 4e3, 28_800.0, false, |w| {
            leak(w, |w, site| vec![Box::new(Stream::new(w, site, 4e3, 256, Life::Kept))])
        }),
    ]
}
