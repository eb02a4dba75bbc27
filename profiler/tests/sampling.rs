//! Sampled allocations at the door to the kernel: what is told, against what a program says itself.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{LONG, Scratch, can_observe, helper::Helper, helper::compiled, within};
use profiler::{
    binary::{self, Image},
    kernel::{AllocLink, Kernel, LiveSamples, Plan, Returns, Sample, SampleReader, SitePlan, Sizes},
    target::{MappedObject, Process},
};
use profiler_common::{
    alloc::{AllocFunction, AllocSite, ONLY_COUNTED},
    outcome::Outcome,
    sample::{CERTAIN, LiveKey, STACK_BYTES, SampleHeader, Sampling, weight},
};

/// They load the machine, and count what is lost: one at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not the first slot, so that a mix-up would show.
const SLOT: u32 = 5;

/// The ways in which returns can be taken, and probes be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Session,
    PairMulti,
    PairSingle,
}

impl Way {
    const ALL: [Self; 3] = [Self::Session, Self::PairMulti, Self::PairSingle];

    fn load(self) -> Kernel {
        let plan = Plan {
            alloc: true,
            stalls: false,
            events: true,
            multi: self != Self::PairSingle,
            mappings: false,
            growth: None,
            go_stops: false,
            victims: false,
            samples: true,
            sessions: self == Self::Session,
        };
        let sizes = Sizes { targets: 64, sites: 256 };
        let kernel = Kernel::load(plan, sizes, Duration::from_millis(1), false).expect("it loads");
        let expected = if self == Self::Session { Returns::Session } else { Returns::Probe };
        assert_eq!(*kernel.returns(), expected, "{self:?}");
        kernel
    }
}

/// The C library of a process.
fn libc_of(pid: u32) -> (MappedObject, Image) {
    let objects = Process::open(pid).expect("it runs").mapped_objects().expect("it has maps");
    let is_it = |object: &MappedObject| {
        Path::new(&object.path).file_name().is_some_and(|file| file.to_string_lossy().starts_with("libc.so"))
    };
    let object = objects.into_iter().find(is_it).expect("a C library");
    let bytes = std::fs::read(&object.path).expect("the C library");
    let image = binary::analyse(&bytes, None).expect("an ELF file");
    (object, image)
}

/// Everything about a helper that is sampled.
struct Sampled {
    kernel: Kernel,
    helper: Helper,
    link: AllocLink,
    live: Option<LiveSamples>,
    /// Where calls return to that the allocator makes itself.
    own: HashSet<u64>,
    file: Scratch,
    reading: Arc<AtomicBool>,
    /// Nothing is read as long as this is so.
    held: Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<Vec<Sample>>>,
}

impl Sampled {
    /// Starts the helper, places all probes as a session does, and reads samples from now on.
    fn start(way: Way, mode: &str, threads: u32, steps: u32) -> Option<Self> {
        let program = if can_observe() { compiled("samples.c", &[])? } else { return None };
        let file = Scratch::name("samples");
        let path = file.path().to_str().expect("a path").to_owned();
        let arguments = [mode.to_owned(), threads.to_string(), steps.to_string(), path];
        let mut kernel = way.load();
        let helper = Helper::start(&program, &arguments);
        let pid = helper.pid();
        let (object, image) = libc_of(pid);
        let mut plans = Vec::new();
        let mut own = HashSet::new();
        for hook in &image.hooks {
            let registers = hook.registers.map(|register| register as u8);
            let site = AllocSite { op: hook.op as u8, registers, flags: hook.flags, slot: SLOT, reserved: 0 };
            if !hook.internal_calls.is_empty() {
                let registers = hook.entry_registers.map(|register| register as u8);
                let site = AllocSite { registers, flags: hook.flags | ONLY_COUNTED, ..site };
                let file_offsets = hook.internal_calls.iter().map(|call| call.file_offset).collect();
                plans.push(SitePlan { file_offsets, site, sampled: false });
            }
            let behind = hook.internal_calls.iter().filter_map(|call| call.returns_to);
            own.extend(behind.filter_map(|offset| object.address_of(offset)));
            let sampled = hook.not_sampled.is_none();
            assert_eq!(sampled, hook.function.allocates(), "{hook:?}");
            plans.push(SitePlan { file_offsets: vec![hook.site.file_offset], site, sampled });
        }
        let link = kernel.attach_alloc(pid, &PathBuf::from(&object.path), &plans).expect("probes");
        kernel.watch_process(pid, SLOT, true).expect("it can be watched");
        let (reader, live) = kernel.take_samples().expect("samples");
        assert!(kernel.take_samples().is_none(), "once only");
        let reading = Arc::new(AtomicBool::new(true));
        let held = Arc::new(AtomicBool::new(false));
        let (goes_on, waits) = (Arc::clone(&reading), Arc::clone(&held));
        let reader = std::thread::spawn(move || read(reader, &goes_on, &waits));
        let reader = Some(reader);
        Some(Self { kernel, helper, link, live: Some(live), own, file, reading, held, reader })
    }

    fn sample(&mut self, sampling: Sampling) {
        self.kernel.sample(SLOT, sampling).expect("a slot");
        self.kernel.count_calls(SLOT, true).expect("a slot");
    }

    fn stop(&mut self) {
        self.kernel.count_calls(SLOT, false).expect("a slot");
    }

    /// All samples that were told, the allocator's own calls left out as nobody's.
    fn told(&mut self) -> Vec<Sample> {
        self.reading.store(false, Ordering::SeqCst);
        let samples = self.reader.take().expect("once").join().expect("a reader");
        let lost = self.kernel.outcomes().expect("outcomes");
        assert!(lost.iter().all(|(_, count)| *count == 0), "{lost:?}");
        let mut dropped = HashSet::new();
        let mut kept = samples;
        kept.retain(|sample| match sample {
            Sample::Allocated(header, _) if self.own.contains(&header.registers.ip) => {
                dropped.insert(header.id);
                false
            }
            Sample::Freed(header) => !dropped.contains(&header.id),
            _ => true,
        });
        for sample in &mut kept {
            if let Sample::Allocated(header, _) = sample
                && dropped.contains(&header.replaced)
            {
                header.replaced = 0;
            }
        }
        kept
    }

    /// What the helper says that it has done: blocks with their sizes, and blocks given back.
    fn list(&mut self) -> (Vec<(u64, u64)>, Vec<u64>) {
        self.helper.tell("write");
        self.helper.answer();
        let text = std::fs::read_to_string(self.file.path()).expect("the helper's list");
        let (mut allocated, mut freed) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().expect("a number");
            match words[0] {
                "A" => allocated.push((number(1), number(2))),
                _ => freed.push(number(1)),
            }
        }
        allocated.sort_unstable();
        freed.sort_unstable();
        (allocated, freed)
    }
}

/// Reads until told to end, and then what is left.
fn read(mut reader: SampleReader, goes_on: &AtomicBool, held: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    loop {
        let last = !goes_on.load(Ordering::SeqCst);
        while held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        while let Some(sample) = reader.next() {
            samples.push(sample);
        }
        if last {
            return samples;
        }
        let mut polled =
            [rustix::event::PollFd::from_borrowed_fd(reader.as_fd(), rustix::event::PollFlags::IN)];
        let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        rustix::event::poll(&mut polled, Some(&moment)).expect("it can be polled");
    }
}

fn allocated(samples: &[Sample]) -> Vec<(&SampleHeader, &[u8])> {
    fn one(sample: &Sample) -> Option<(&SampleHeader, &[u8])> {
        if let Sample::Allocated(header, stack) = sample { Some((header, stack)) } else { None }
    }
    samples.iter().filter_map(one).collect()
}

fn freed(samples: &[Sample]) -> Vec<&SampleHeader> {
    fn one(sample: &Sample) -> Option<&SampleHeader> {
        if let Sample::Freed(header) = sample { Some(header) } else { None }
    }
    samples.iter().filter_map(one).collect()
}

#[test]
fn with_a_point_in_every_byte_each_block_is_told_once_with_its_address_size_and_end() {
    let _turn = turn();
    for way in Way::ALL {
        for threads in [1, 3] {
            let mut tries = 20;
            let (mut sampled, told, before, after) = loop {
                let Some(mut sampled) = Sampled::start(way, "exact", threads, 1500) else { return };
                sampled.sample(Sampling::with_mean(1));
                let before = profiler::kernel::now_ns();
                sampled.helper.work();
                sampled.stop();
                let after = profiler::kernel::now_ns();
                let told = sampled.told();
                // On a busy machine the ring isn't read soon enough, and not every block is chosen.
                let whole = allocated(&told).iter().all(|(header, _)| header.threshold == CERTAIN);
                tries -= 1;
                assert!(whole || tries > 0, "{way:?} {threads}: never was the ring read soon enough");
                if whole {
                    break (sampled, told, before, after);
                }
            };
            let (blocks, gone) = sampled.list();
            let pid = sampled.helper.pid();

            let mut seen: Vec<_> =
                allocated(&told).iter().map(|(header, _)| (header.address, header.bytes)).collect();
            seen.sort_unstable();
            assert_eq!(seen.len(), blocks.len(), "{way:?} {threads}");
            assert_eq!(seen, blocks, "{way:?} {threads}");
            let mut ended: Vec<_> = freed(&told).iter().map(|header| header.address).collect();
            ended.sort_unstable();
            assert_eq!(ended, gone, "{way:?} {threads}");

            // Every end belongs to a block that was told before, once.
            let mut alive: HashMap<u64, LiveKey> = HashMap::new();
            let mut ids = HashSet::new();
            let mut threads_seen = BTreeSet::new();
            for sample in &told {
                let (Sample::Allocated(header, _) | Sample::Freed(header)) = sample else {
                    panic!("{sample:?}")
                };
                let key = LiveKey { slot: header.slot, epoch: header.epoch, address: header.address };
                assert_eq!((header.slot, header.pid, header.epoch), (SLOT, pid, 0), "{way:?}");
                assert!((before..after).contains(&header.at_ns), "{way:?}");
                if let Sample::Allocated(header, stack) = sample {
                    threads_seen.insert(header.tid);
                    assert!(ids.insert(header.id) && header.id != 0, "{way:?}: an id was given twice");
                    assert_eq!((header.threshold, header.replaced), (CERTAIN, 0), "{way:?} {header:?}");
                    assert!(!stack.is_empty() && stack.len() <= STACK_BYTES, "{way:?}");
                    assert!(alive.insert(header.id, key).is_none());
                } else {
                    assert_eq!(alive.remove(&header.id), Some(key), "{way:?} {threads}");
                }
            }
            assert_eq!(threads_seen.len(), threads as usize, "{way:?}");
            // What is left is what the kernel side knows to be alive.
            let live = sampled.live.take().expect("once");
            let known: BTreeMap<u64, u64> =
                live.entries().expect("a map").iter().map(|(key, id)| (*id, key.address)).collect();
            let left: BTreeMap<u64, u64> = alive.iter().map(|(id, key)| (*id, key.address)).collect();
            assert_eq!(known, left, "{way:?} {threads}");
            assert!(!left.is_empty());
            drop(sampled.link);
        }
    }
}

#[test]
fn a_sample_has_the_registers_and_the_stack_of_the_caller() {
    const MARKED: u64 = 4321;
    const MARK: [u8; 8] = 0x51_5745_4554_u64.to_ne_bytes();
    let _turn = turn();
    for way in Way::ALL {
        let Some(mut sampled) = Sampled::start(way, "exact", 1, 1500) else { return };
        sampled.sample(Sampling::with_mean(1));
        sampled.helper.work();
        sampled.stop();
        let objects = Process::open(sampled.helper.pid()).expect("it runs").mapped_objects().expect("maps");
        let program = objects.iter().find(|object| object.path.contains("samples_c")).expect("the program");
        let inside = |ip: u64| program.ranges.iter().any(|range| (range.start..range.end).contains(&ip));
        let told = sampled.told();
        let marked: Vec<_> =
            allocated(&told).into_iter().filter(|(header, _)| header.bytes == MARKED).collect();
        assert!(marked.len() > 10, "{way:?}: {}", marked.len());
        for (header, stack) in marked {
            assert!(inside(header.registers.ip), "{way:?}: {header:x?}");
            assert_eq!(header.registers.sp % 8, 0);
            assert!(stack.windows(8).any(|bytes| bytes == MARK), "{way:?}: the caller's caller is missing");
        }
    }
}

#[test]
fn with_a_mean_of_4096_the_weights_add_up_to_what_was_asked_for() {
    let _turn = turn();
    for way in Way::ALL {
        let Some(mut sampled) = Sampled::start(way, "plenty", 2, 20_000) else { return };
        sampled.sample(Sampling::with_mean(4096));
        let bytes = sampled.helper.work()["bytes"].as_f64().expect("a number");
        sampled.stop();
        let told = sampled.told();
        let (mut sum, mut variance) = (0.0, 0.0);
        for (header, _) in allocated(&told) {
            let weight = weight(header.threshold);
            let size = header.bytes as f64;
            sum += weight * size;
            variance += size * size * weight * (weight - 1.0);
        }
        // Of five thousand such runs, one may fail.
        let tolerance = 3.7 * variance.sqrt();
        assert!((sum - bytes).abs() < tolerance, "{way:?}: {sum} of {bytes}, tolerance {tolerance}");
        assert!(tolerance < 0.06 * bytes, "{way:?}: that would prove nothing");
        let most: u64 = freed(&told).iter().map(|header| header.id).collect::<HashSet<_>>().len() as u64;
        assert_eq!(most, freed(&told).len() as u64, "no end is told twice");
    }
}

#[test]
fn nothing_is_told_while_sampling_is_off_and_counts_are_the_same() {
    let _turn = turn();
    for way in Way::ALL {
        let mut counts = Vec::new();
        for sampling in [Sampling::default(), Sampling::with_mean(4096)] {
            let Some(mut sampled) = Sampled::start(way, "plenty", 1, 10_000) else { return };
            sampled.sample(sampling);
            sampled.helper.work();
            sampled.stop();
            let sites = sampled.link.sites().to_vec();
            counts.push(
                sites.iter().map(|id| sampled.kernel.alloc_counts(*id).expect("counts")).collect::<Vec<_>>(),
            );
            let told = sampled.told();
            assert_eq!(told.is_empty(), sampling == Sampling::default(), "{way:?}");
            let numbers: BTreeSet<u32> = sites.iter().map(|id| id.number()).collect();
            assert!(allocated(&told).iter().all(|(header, _)| numbers.contains(&header.site)), "{way:?}");
        }
        assert_eq!(counts[0], counts[1], "{way:?}");
    }
}

#[test]
fn a_flood_that_nobody_reads_is_thinned_out_and_nothing_of_it_is_lost() {
    let _turn = turn();
    for way in Way::ALL {
        let (mut sum, mut truth, mut variance) = (0.0, 0.0, 0.0);
        let (mut certain, mut left_out, mut ends) = (0, 0, 0);
        for _round in 0..3 {
            let Some(mut sampled) = Sampled::start(way, "plenty", 2, 4000) else { return };
            // Nobody reads while it works.
            sampled.held.store(true, Ordering::SeqCst);
            sampled.sample(Sampling::with_mean(1));
            truth += sampled.helper.work()["bytes"].as_f64().expect("a number");
            sampled.stop();
            sampled.held.store(false, Ordering::SeqCst);
            let told = sampled.told();
            for (header, stack) in allocated(&told) {
                let (weight, size) = (weight(header.threshold), header.bytes as f64);
                sum += weight * size;
                variance += size * size * weight * (weight - 1.0);
                certain += u32::from(header.threshold == CERTAIN);
                left_out += u32::from(stack.is_empty());
            }
            ends += freed(&told).len();
        }
        println!("{way:?}: {certain} certain, {left_out} stacks left out, {ends} ends, {sum} of {truth}");
        let tolerance = 5.0 * f64::sqrt(variance);
        assert!((sum - truth).abs() < tolerance, "{way:?}: {sum} of {truth}, tolerance {tolerance}");
        assert!(certain > 100 && ends > 100, "{way:?}");
    }
}

#[test]
fn what_nobody_ever_reads_fills_no_ring_and_the_live_blocks_stay_true() {
    let _turn = turn();
    let Some(mut sampled) = Sampled::start(Way::Session, "plenty", 2, 4000) else { return };
    // Nobody reads from now on.
    sampled.reading.store(false, Ordering::SeqCst);
    let before = sampled.reader.take().expect("once").join().expect("a reader");
    assert!(before.is_empty());
    sampled.sample(Sampling::with_mean(1));
    sampled.helper.work();
    sampled.stop();
    let lost = sampled.kernel.outcomes().expect("outcomes");
    let full = lost.iter().find(|(outcome, _)| *outcome == Outcome::SamplesFull).expect("an outcome").1;
    assert_eq!(full, 0, "{lost:?}");
    // Two threads with 64 blocks each.
    let mut live = sampled.live.take().expect("once");
    assert!(live.entries().expect("a map").len() <= 128);
    let left = live.entries().expect("a map");
    if let Some((key, id)) = left.first() {
        assert_eq!(live.get(key).expect("a map"), Some(*id));
        live.remove(key, *id + 1).expect("a map");
        assert_eq!(live.get(key).expect("a map"), Some(*id), "another sample's");
        live.remove(key, *id).expect("a map");
        assert_eq!(live.get(key).expect("a map"), None);
    }
    for (key, id) in live.entries().expect("a map") {
        live.remove(&key, id).expect("a map");
    }
    assert!(live.entries().expect("a map").is_empty());
}

#[test]
fn without_samples_planned_nothing_is_taken_but_calls_are_counted() {
    let _turn = turn();
    let program = if can_observe() { compiled("samples.c", &[]) } else { return };
    let Some(program) = program else { return };
    let plan = Plan {
        alloc: true,
        stalls: false,
        events: true,
        multi: true,
        mappings: false,
        growth: None,
        go_stops: false,
        victims: false,
        samples: false,
        sessions: false,
    };
    let sizes = Sizes { targets: 64, sites: 256 };
    let mut kernel = Kernel::load(plan, sizes, Duration::from_millis(1), false).expect("it loads");
    assert!(matches!(kernel.returns(), Returns::None(_)) && kernel.take_samples().is_none());
    let file = Scratch::name("samples");
    let path = file.path().to_str().expect("a path").to_owned();
    let mut helper = Helper::start(&program, &["plenty".to_owned(), "1".into(), "1000".into(), path]);
    let (object, image) = libc_of(helper.pid());
    let hook = image.hooks.iter().find(|hook| hook.function == AllocFunction::Malloc).expect("a hook");
    let registers = hook.registers.map(|register| register as u8);
    let site = AllocSite { op: hook.op as u8, registers, flags: hook.flags, slot: SLOT, reserved: 0 };
    let plans = [SitePlan { file_offsets: vec![hook.site.file_offset], site, sampled: true }];
    let link = kernel.attach_alloc(helper.pid(), Path::new(&object.path), &plans).expect("a probe");
    kernel.sample(SLOT, Sampling::with_mean(1)).expect("a slot");
    kernel.count_calls(SLOT, true).expect("a slot");
    let began = Instant::now();
    helper.work();
    assert!(within(LONG, || kernel.alloc_counts(link.sites()[0]).expect("counts")[0].allocations == 1000));
    assert!(began.elapsed() < LONG);
}
