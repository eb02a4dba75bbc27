//! What programs do with memory: the loads that families are made of.

use std::collections::{HashMap, VecDeque};

use crate::world::{Block, Load, World, chosen};

/// How long blocks live, seconds.
#[derive(Clone, Copy)]
pub enum Life {
    Exponential(f64),
    /// At least so long; the tail falls like age to the minus second.
    Pareto(f64, f64),
    Fixed(f64),
    /// To the end of the process, still pointed to.
    Kept,
    /// To the end of the process, pointed to by nothing; one in ten by chance.
    Lost,
}

/// Blocks at a rate that may change with time. Only those that are sampled are made.
pub struct Stream {
    site: usize,
    bytes: u64,
    /// Samples per second at most, and the part of it at a moment.
    most: f64,
    part: Box<dyn Fn(f64) -> f64>,
    life: Life,
    /// This part of the blocks lives so instead.
    except: (f64, Life),
    next: f64,
}

impl Stream {
    /// `rate`: bytes per second.
    pub fn new(world: &mut World, site: usize, rate: f64, bytes: u64, life: Life) -> Self {
        let most = (rate / bytes as f64 * chosen(bytes)).max(1e-12);
        let next = world.now + world.chance.exponential(1.0 / most);
        Self { site, bytes, most, part: Box::new(|_| 1.0), life, except: (0.0, Life::Kept), next }
    }

    pub fn except(self, part: f64, life: Life) -> Self {
        Self { except: (part, life), ..self }
    }

    pub fn part(self, part: impl Fn(f64) -> f64 + 'static) -> Self {
        Self { part: Box::new(part), ..self }
    }
}

impl Load for Stream {
    fn next(&self) -> f64 {
        self.next
    }

    fn step(&mut self, world: &mut World) {
        self.next = world.now + world.chance.exponential(1.0 / self.most);
        if !world.chance.happens((self.part)(world.now)) {
            return;
        }
        let life = if world.chance.happens(self.except.0) { self.except.1 } else { self.life };
        let lost = matches!(life, Life::Lost) && world.chance.happens(0.9);
        let block = world.allocate_chosen(self.site, self.bytes, lost);
        match life {
            Life::Exponential(mean) => {
                let time = world.chance.exponential(mean);
                world.free_after(block, time);
            }
            Life::Pareto(least, tail) => {
                let time = least * world.chance.uniform().powf(-1.0 / tail);
                world.free_after(block, time);
            }
            Life::Fixed(time) => world.free_after(block, time),
            Life::Kept | Life::Lost => {}
        }
    }
}

/// Everything but the leaks is freed at once, every so often: a collector, a pool that is reset.
pub struct Sawtooth {
    pub site: usize,
    pub samples_per_second: f64,
    pub bytes: u64,
    pub period: f64,
    pub next_reset: f64,
    pub next: f64,
    pub young: Vec<Block>,
}

impl Sawtooth {
    pub fn new(world: &mut World, site: usize, rate: f64, bytes: u64, period: f64) -> Self {
        Self {
            site,
            samples_per_second: rate / bytes as f64 * chosen(bytes),
            bytes,
            period,
            next_reset: period * world.chance.uniform(),
            next: 0.0,
            young: Vec::new(),
        }
    }
}

impl Load for Sawtooth {
    fn next(&self) -> f64 {
        self.next.min(self.next_reset)
    }

    fn step(&mut self, world: &mut World) {
        if self.next_reset <= self.next {
            self.next_reset += self.period * (0.8 + 0.4 * world.chance.uniform());
            self.young.drain(..).for_each(|block| world.free(block));
            return;
        }
        self.next = world.now + world.chance.exponential(1.0 / self.samples_per_second);
        self.young.push(world.allocate_chosen(self.site, self.bytes, false));
    }
}

/// Many blocks at once, again and again.
pub struct Bursts {
    pub site: usize,
    pub every: f64,
    pub blocks: u32,
    pub bytes: u64,
    pub life: Life,
    pub next: f64,
}

impl Load for Bursts {
    fn next(&self) -> f64 {
        self.next
    }

    fn step(&mut self, world: &mut World) {
        self.next = world.now + world.chance.exponential(self.every);
        for _ in 0..self.blocks {
            let lost = matches!(self.life, Life::Lost) && world.chance.happens(0.9);
            if let (Some(block), Life::Exponential(mean)) =
                (world.allocate(self.site, self.bytes, lost), self.life)
            {
                let time = world.chance.exponential(mean);
                world.free_after(block, time);
            }
        }
    }
}

/// A cache that gives up what was used longest ago. Keys in sequence, or by Zipf's law.
pub struct Cache {
    site: usize,
    bytes: u64,
    capacity: usize,
    /// Logarithm of the number of keys, for Zipf's law with exponent one; `None`: in sequence.
    zipf: Option<f64>,
    requests: f64,
    entries: HashMap<u64, (Option<Block>, u64)>,
    /// Uses in order; the same key again makes the former entry void.
    used: VecDeque<(u64, u64)>,
    clock: u64,
    next: f64,
}

impl Cache {
    /// `before`: seconds for which it was used before the watch began.
    pub fn new(
        world: &mut World,
        site: usize,
        requests: f64,
        bytes: u64,
        capacity: usize,
        zipf: bool,
        before: f64,
    ) -> Self {
        let keys = (capacity as f64 * 30.0).ln();
        let mut cache = Self {
            site,
            bytes,
            capacity,
            zipf: zipf.then_some(keys),
            requests,
            entries: HashMap::new(),
            used: VecDeque::new(),
            clock: 0,
            next: 0.0,
        };
        for _ in 0..(before * requests) as u64 {
            cache.request(world, false);
        }
        cache
    }

    fn request(&mut self, world: &mut World, watched: bool) {
        self.clock += 1;
        let key = match self.zipf {
            // Density like 1 / rank.
            Some(keys) => (keys * world.chance.uniform()).exp() as u64,
            None => self.clock,
        };
        self.used.push_back((key, self.clock));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.1 = self.clock;
            return;
        }
        let block = if watched { world.allocate(self.site, self.bytes, false) } else { None };
        self.entries.insert(key, (block, self.clock));
        while self.entries.len() > self.capacity {
            let Some((oldest, at)) = self.used.pop_front() else { return };
            if self.entries.get(&oldest).is_some_and(|entry| entry.1 == at)
                && let Some((Some(block), _)) = self.entries.remove(&oldest)
            {
                world.free(block);
            }
        }
    }
}

impl Load for Cache {
    fn next(&self) -> f64 {
        self.next
    }

    fn step(&mut self, world: &mut World) {
        self.next = world.now + world.chance.exponential(1.0 / self.requests);
        self.request(world, true);
    }
}

/// A queue whose producer is as fast as its consumer: its length is a random walk that can't be negative.
pub struct Queue {
    pub site: usize,
    pub per_second: f64,
    pub bytes: u64,
    pub last_in_first_out: bool,
    pub items: VecDeque<Option<Block>>,
    pub next: f64,
}

impl Load for Queue {
    fn next(&self) -> f64 {
        self.next
    }

    fn step(&mut self, world: &mut World) {
        self.next = world.now + world.chance.exponential(0.5 / self.per_second);
        if world.chance.happens(0.5) {
            let block = world.allocate(self.site, self.bytes, false);
            self.items.push_back(block);
        } else {
            let item = if self.last_in_first_out { self.items.pop_back() } else { self.items.pop_front() };
            if let Some(Some(block)) = item {
                world.free(block);
            }
        }
    }
}

/// A table that doubles whenever it is full, until it has room for all it will ever get.
pub struct Table {
    pub site: usize,
    pub per_second: f64,
    pub most: f64,
    pub slots: f64,
    pub block: Option<Block>,
}

impl Load for Table {
    fn next(&self) -> f64 {
        if self.slots >= self.most { f64::INFINITY } else { self.slots / self.per_second }
    }

    fn step(&mut self, world: &mut World) {
        self.slots *= 2.0;
        if let Some(old) = self.block.take() {
            world.free(old);
        }
        self.block = world.allocate(self.site, (self.slots * 16.0) as u64, false);
    }
}

/// A pool that has as many things as were ever in use at once and never gives one back.
pub struct Pool {
    pub site: usize,
    pub bytes: u64,
    pub users: f64,
    pub in_use: f64,
    pub made: f64,
    pub time_of_use: f64,
    pub next: f64,
}

impl Load for Pool {
    fn next(&self) -> f64 {
        self.next
    }

    fn step(&mut self, world: &mut World) {
        let (arrive, leave) = (self.users / self.time_of_use, self.in_use / self.time_of_use);
        self.next = world.now + world.chance.exponential(1.0 / (arrive + leave));
        if world.chance.happens(arrive / (arrive + leave)) {
            self.in_use += 1.0;
            if self.in_use > self.made {
                self.made = self.in_use;
                world.allocate(self.site, self.bytes, false);
            }
        } else {
            self.in_use -= 1.0;
        }
    }
}
