//! A world of sampled blocks: time, chance, and for each site what a ledger would have noted. Written apart from the real
//! ledger on purpose: the judge is tested, not both at once.

use std::{cmp::Reverse, collections::BinaryHeap};

use profiler::leaks::{Evidence, Lifetimes, LiveSample, Sum, Window};

/// Mean distance of samples in bytes: the default.
pub const MEAN: f64 = 524_288.0;
/// Blocks younger than this aren't looked for.
const OLD_ENOUGH: u64 = 30_000_000_000;
/// Blocks that are looked for in memory, at most.
const LOOKED_FOR: usize = 64;
/// When everything begins: not zero, as on a real machine.
const BOOT: u64 = 1_000_000_000_000;

/// Nanoseconds of the clock at a second of the simulation.
pub fn ns(seconds: f64) -> u64 {
    BOOT + (seconds * 1e9) as u64
}

/// Numbers by chance: SplitMix64 (Steele, Lea and Flood 2014).
pub struct Chance(pub u64);

impl Chance {
    /// Uniform, above 0 and below 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    /// Log-uniform between two values.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.uniform())
    }

    /// True with probability `p`.
    pub fn happens(&mut self, p: f64) -> bool {
        self.uniform() < p
    }
}

/// A block that is watched: its site and its place there.
pub type Block = (usize, usize);

/// What is noted of one site.
pub struct Notes {
    begin: u64,
    width: u64,
    closed: Vec<Window>,
    current: Window,
    live: Vec<Option<(LiveSample, bool)>>,
    vacant: Vec<usize>,
    living: Sum,
    lifetimes: Lifetimes,
}

fn add(sum: &mut Sum, bytes: u64, weight: f64, sign: f64) {
    sum.n = if sign > 0.0 { sum.n + 1 } else { sum.n - 1 };
    sum.objects += sign * weight;
    sum.bytes += sign * weight * bytes as f64;
    sum.objects_variance += sign * weight * (weight - 1.0);
    sum.bytes_variance += sign * (bytes as f64).powi(2) * weight * (weight - 1.0);
}

fn merge(a: &Window, b: &Window) -> Window {
    let plus = |mut a: Sum, b: Sum| {
        a.n += b.n;
        a.objects += b.objects;
        a.bytes += b.bytes;
        a.objects_variance += b.objects_variance;
        a.bytes_variance += b.bytes_variance;
        a
    };
    Window {
        begin_ns: a.begin_ns,
        end_ns: b.end_ns,
        allocated: plus(a.allocated, b.allocated),
        surviving: Sum::default(),
        freed: plus(a.freed, b.freed),
        floor: if a.floor.bytes <= b.floor.bytes { a.floor } else { b.floor },
        live_at_end: b.live_at_end,
    }
}

impl Notes {
    fn new() -> Self {
        let begin = ns(0.0);
        Self {
            begin,
            width: 1_000_000_000,
            closed: Vec::new(),
            current: Window { begin_ns: begin, ..Window::default() },
            live: Vec::new(),
            vacant: Vec::new(),
            living: Sum::default(),
            lifetimes: Lifetimes::default(),
        }
    }

    fn advance(&mut self, at: u64) {
        while at >= self.current.begin_ns + self.width {
            let end = self.current.begin_ns + self.width;
            self.current.end_ns = end;
            self.current.live_at_end = self.living;
            self.closed.push(self.current);
            self.current = Window { begin_ns: end, floor: self.living, ..Window::default() };
            if self.closed.len() == 64 {
                self.closed = self.closed.chunks(2).map(|pair| merge(&pair[0], &pair[1])).collect();
                self.width *= 2;
            }
        }
    }

    fn evidence(&mut self, now: u64, looked: bool) -> Evidence {
        self.advance(now);
        let mut windows = self.closed.clone();
        windows.push(Window { end_ns: now, live_at_end: self.living, ..self.current });
        let mut live = Vec::new();
        let mut old = Vec::new();
        for (sample, lost) in self.live.iter().flatten() {
            live.push(*sample);
            add(
                &mut windows[((sample.at_ns - self.begin) / self.width) as usize].surviving,
                sample.bytes,
                sample.weight,
                1.0,
            );
            if sample.at_ns + OLD_ENOUGH <= now {
                old.push((sample.at_ns, *lost));
            }
        }
        old.sort_unstable();
        old.truncate(LOOKED_FOR);
        let lost = old.iter().filter(|(_, lost)| *lost).count() as u32;
        let unreferenced = looked.then_some((old.len() as u32, lost));
        Evidence { windows, live, lifetimes: self.lifetimes.clone(), unreferenced, ..Evidence::default() }
    }
}

/// Time, chance, sites and what will be freed when.
pub struct World {
    /// Seconds since the watch began.
    pub now: f64,
    pub chance: Chance,
    sites: Vec<Notes>,
    ends: BinaryHeap<Reverse<(u64, Block)>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) + 1);
        chance.uniform();
        Self { now: 0.0, chance, sites: Vec::new(), ends: BinaryHeap::new() }
    }

    /// One more site.
    pub fn site(&mut self) -> usize {
        self.sites.push(Notes::new());
        self.sites.len() - 1
    }

    /// A block is allocated now; it may be sampled.
    pub fn allocate(&mut self, site: usize, bytes: u64, lost: bool) -> Option<Block> {
        let p = chosen(bytes);
        self.chance.happens(p).then(|| self.allocate_chosen(site, bytes, lost))
    }

    /// A block that was chosen is allocated now.
    pub fn allocate_chosen(&mut self, site: usize, bytes: u64, lost: bool) -> Block {
        let at_ns = ns(self.now);
        let notes = &mut self.sites[site];
        notes.advance(at_ns);
        let weight = 1.0 / chosen(bytes);
        add(&mut notes.current.allocated, bytes, weight, 1.0);
        add(&mut notes.living, bytes, weight, 1.0);
        let entry = Some((LiveSample { at_ns, bytes, weight }, lost));
        let place = notes.vacant.pop().unwrap_or_else(|| {
            notes.live.push(None);
            notes.live.len() - 1
        });
        notes.live[place] = entry;
        (site, place)
    }

    /// A block is freed now.
    pub fn free(&mut self, (site, place): Block) {
        let at_ns = ns(self.now);
        let notes = &mut self.sites[site];
        notes.advance(at_ns);
        let Some((sample, _)) = notes.live[place].take() else { return };
        notes.vacant.push(place);
        add(&mut notes.current.freed, sample.bytes, sample.weight, 1.0);
        add(&mut notes.living, sample.bytes, sample.weight, -1.0);
        if notes.living.bytes < notes.current.floor.bytes {
            notes.current.floor = notes.living;
        }
        let age = (at_ns - sample.at_ns).max(1);
        add(&mut notes.lifetimes.freed[age.ilog2() as usize], sample.bytes, sample.weight, 1.0);
    }

    /// A block will be freed after so many seconds.
    pub fn free_after(&mut self, block: Block, seconds: f64) {
        self.ends.push(Reverse((ns(self.now + seconds.min(1e8)), block)));
    }

    /// All sites' evidence.
    pub fn evidence(&mut self, looked: bool) -> Vec<Evidence> {
        let now = ns(self.now);
        self.sites.iter_mut().map(|site| site.evidence(now, looked)).collect()
    }
}

/// The probability that a block is sampled.
pub fn chosen(bytes: u64) -> f64 {
    -(-(bytes as f64) / MEAN).exp_m1()
}

/// Something that allocates.
pub trait Load {
    /// The second at which it does something next.
    fn next(&self) -> f64;
    /// It does it.
    fn step(&mut self, world: &mut World);
}

/// Lets time pass until a moment.
pub fn run(world: &mut World, loads: &mut [Box<dyn Load>], until: f64) {
    loop {
        let next = (loads.iter().enumerate())
            .map(|(i, load)| (load.next(), i))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(at, _)| *at <= until);
        let end =
            world.ends.peek().map(|Reverse((at, _))| (at - BOOT) as f64 / 1e9).filter(|at| *at <= until);
        match (next, end) {
            (load, Some(end)) if load.is_none_or(|(at, _)| end <= at) => {
                world.now = world.now.max(end);
                if let Some(Reverse((_, block))) = world.ends.pop() {
                    world.free(block);
                }
            }
            (Some((at, load)), _) => {
                world.now = world.now.max(at);
                loads[load].step(world);
            }
            (None, _) => break,
        }
    }
    world.now = until;
}
