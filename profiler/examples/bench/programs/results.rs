//! What has come out: a turn, a round, and the table.

use super::{
    load::Workload,
    statistics::{Ratio, Verdict, judge, median},
    ways::Way,
};

/// A turn: what was done, and what it took.
#[derive(Clone, Copy)]
pub struct Turn {
    pub operations: f64,
    pub seconds: f64,
    pub p99_us: f64,
    /// CPU seconds of the target, all its processes.
    pub cpu: f64,
    /// What profiler has said, if it was there.
    pub told: Option<Told>,
}

/// What profiler has said of a turn.
#[derive(Clone, Copy)]
pub struct Told {
    pub hits: f64,
    /// CPU seconds that it says it has cost the target.
    pub overhead: Option<f64>,
    /// Its own CPU seconds.
    pub own_cpu: f64,
}

impl Turn {
    pub fn rate(&self) -> f64 {
        self.operations / self.seconds
    }

    /// CPU seconds of an operation.
    pub fn cpu_each(&self) -> f64 {
        self.cpu / self.operations
    }
}

/// All ways once, with a turn without profiler before and behind.
pub struct Round {
    pub none: [Turn; 2],
    pub ways: Vec<Turn>,
}

impl Round {
    /// Without profiler: the mean of both ends, so that a machine that becomes slower or faster within a round disturbs little.
    fn base(&self, of: fn(&Turn) -> f64) -> f64 {
        (of(&self.none[0]) + of(&self.none[1])) / 2.0
    }
}

/// All rounds of a program.
pub struct Results<'a> {
    pub workload: &'a Workload,
    pub rounds: Vec<Round>,
}

/// Widths of the table: what a line is about, and a way.
const LABEL: usize = 14;
const WIDTH: usize = 110 - LABEL;

impl Results<'_> {
    fn ratio(&self, way: usize, of: fn(&Turn) -> f64) -> Option<Ratio> {
        Ratio::of(&self.each(way, |turn, round| of(turn) / round.base(of)))
    }

    fn each(&self, way: usize, value: impl Fn(&Turn, &Round) -> f64) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| Some(value(round.ways.get(way)?, round))).collect()
    }

    /// The second turn without profiler by the first.
    fn control(&self, of: fn(&Turn) -> f64) -> Option<Ratio> {
        Ratio::of(
            &self.rounds.iter().map(|round| of(&round.none[1]) / of(&round.none[0])).collect::<Vec<_>>(),
        )
    }

    /// CPU ns that a hit has cost, by what was measured: of an operation, more CPU time than without profiler, by its hits.
    fn cost_of_hit(&self, way: usize) -> Option<f64> {
        let costs = self.each(way, |turn, round| {
            let hits = turn.told.map_or(0.0, |told| told.hits) / turn.operations;
            (turn.cpu_each() - round.base(Turn::cpu_each)) / hits * 1e9
        });
        median(&costs).filter(|cost| cost.is_finite())
    }

    /// The CPU time that profiler says it costs, by what was measured. None if it doesn't say, or costs too little to be compared.
    fn told_by_measured(&self, way: usize) -> Option<Ratio> {
        let ratios = self.each(way, |turn, round| {
            let told = turn.told.and_then(|told| told.overhead).unwrap_or(f64::NAN) / turn.operations;
            told / (turn.cpu_each() - round.base(Turn::cpu_each))
        });
        let cost = self.ratio(way, Turn::cpu_each)?;
        let can_be_compared =
            cost.median - 1.0 > 2.0 * cost.noise && ratios.iter().all(|ratio| ratio.is_finite());
        Ratio::of(&ratios).filter(|_| can_be_compared)
    }

    /// The lines of this program.
    pub fn print(&self, ways: &[&Way], told: bool) {
        let Workload { name, about, unit, .. } = self.workload;
        println!("\n{name}: {about}");
        let none = |of: fn(&Turn) -> f64| {
            median(&self.rounds.iter().map(|round| round.base(of)).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let again = |of| self.control(of).map_or_else(String::new, |ratio| ratio.change());
        println!(
            "  none: {:.0} {unit} a second, p99 {:.3} ms, {:.2} us of CPU each; {} rounds",
            none(Turn::rate),
            none(|turn| turn.p99_us) / 1e3,
            none(Turn::cpu_each) * 1e6,
            self.rounds.len()
        );
        println!(
            "  none again, %: throughput {}, p99 {}, CPU {}",
            again(Turn::rate),
            again(|turn| turn.p99_us),
            again(Turn::cpu_each)
        );
        let change = |of: fn(&Turn) -> f64| move |way| self.ratio(way, of).map(|ratio: Ratio| ratio.change());
        row("throughput %", ways.len(), change(Turn::rate));
        row("p99 %", ways.len(), change(|turn| turn.p99_us));
        row("CPU each %", ways.len(), change(Turn::cpu_each));
        row("hits each", ways.len(), |way| {
            let hits = self.each(way, |turn, _| turn.told.map_or(0.0, |told| told.hits) / turn.operations);
            median(&hits).filter(|hits| *hits > 0.0).map(|hits| format!("{hits:.3}"))
        });
        row("ns per hit", ways.len(), |way| self.cost_of_hit(way).map(|cost| format!("{cost:.0}")));
        if told {
            row("told/measured", ways.len(), |way| {
                let ratio = self.told_by_measured(way)?;
                Some(format!("{:.2} {:.2}..{:.2}", ratio.median, ratio.least, ratio.most))
            });
        }
        row("profiler CPU %", ways.len(), |way| {
            let shares = self
                .each(way, |turn, _| turn.told.map_or(f64::NAN, |told| told.own_cpu) / turn.seconds * 100.0);
            median(&shares).map(|share| format!("{share:.1}"))
        });
    }

    /// Says of each limit whether it is kept; false if one is broken.
    pub fn judge(&self, ways: &[&Way]) -> bool {
        let mut kept = true;
        for (at, way) in ways.iter().enumerate() {
            let ratios = self.ratio(at, Turn::cpu_each).zip(self.control(Turn::cpu_each));
            if let (Some(limit), Some((ratio, control))) = (way.limit, ratios) {
                let what = format!("{}: {}", self.workload.name, way.name);
                let (line, verdict) = judge(&what, &ratio, &control, limit);
                println!("{line}");
                kept &= verdict != Verdict::Broken;
            }
        }
        kept
    }
}

/// The names of the ways, above all.
pub fn head(ways: &[&Way]) {
    row("", ways.len(), |way| ways.get(way).map(|way| way.name.to_owned()));
}

fn row(label: &str, ways: usize, cell: impl Fn(usize) -> Option<String>) {
    let width = WIDTH / ways.max(1);
    let cells: String =
        (0..ways).map(|way| format!("{:>width$}", cell(way).unwrap_or_else(|| "-".into()))).collect();
    println!("{label:LABEL$}{cells}");
}
