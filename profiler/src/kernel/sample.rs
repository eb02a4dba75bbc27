//! Samples: who is sampled, what the kernel side tells, and the blocks that live.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::Ordering,
};

use aya::maps::{HashMap, MapData, MapError, RingBuf};
use profiler_common::sample::{
    LIVE_FILTER, LiveKey, Registers, STACK_BYTES, STACK_PIECE, SampleHeader, SampleKind, Sampling,
};
use thiserror::Error;

use super::{
    Kernel, KernelError, Raw, alloc::Switchboard, growth::page_threshold, loader::map_error, sys::SharedWords,
};

/// Sampled blocks of all targets together that can live at once; about 80 bytes each.
pub(super) const LIVE_SAMPLES: u32 = 65_536;

/// One thing that the kernel side tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A block was allocated and chosen. Its stack, from `registers.sp` upwards; zeroes stand for what couldn't be read.
    /// Empty: it was left out, as too many samples were waiting.
    Allocated(SampleHeader, Vec<u8>),
    /// A page was touched for the first time and chosen. Its stack likewise.
    Page(SampleHeader, Vec<u8>),
    /// A chosen block was given back.
    Freed(SampleHeader),
    /// A process has been chosen to be killed for memory.
    OutOfMemory {
        /// The process.
        pid: u32,
        /// When: nanoseconds of [`super::now_ns`].
        at_ns: u64,
    },
}

/// What is wrong with an entry of the ring. Never expected: kernel and user side would disagree.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SampleError {
    /// It is too short.
    #[error("an entry of {bytes} bytes is too short for a sample")]
    Short {
        /// How long it is.
        bytes: usize,
    },
    /// Nobody knows what it tells.
    #[error("there is no kind {kind} of samples")]
    Kind {
        /// Its number.
        kind: u32,
    },
    /// Its stack can't be as long as it says.
    #[error("a sample says that {stack_bytes} bytes of stack follow, and {bytes} do")]
    Stack {
        /// What it says.
        stack_bytes: u32,
        /// What is there.
        bytes: usize,
    },
}

/// Reads an entry of the ring.
///
/// # Errors
///
/// If it isn't one.
pub fn decode(bytes: &[u8]) -> Result<Sample, SampleError> {
    let (header, rest) =
        bytes.split_at_checked(size_of::<SampleHeader>()).ok_or(SampleError::Short { bytes: bytes.len() })?;
    let header = parse(header).ok_or(SampleError::Short { bytes: bytes.len() })?;
    let kind = SampleKind::from_number(header.kind).ok_or(SampleError::Kind { kind: header.kind })?;
    let stack = || {
        let wrong = SampleError::Stack { stack_bytes: header.stack_bytes, bytes: rest.len() };
        let length = usize::try_from(header.stack_bytes).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(Vec::new());
        }
        let lead = (header.registers.sp % STACK_PIECE as u64) as usize;
        let stack = rest.get(lead..).and_then(|rest| rest.get(..length));
        stack.filter(|_| length <= STACK_BYTES).map(<[u8]>::to_vec).ok_or(wrong)
    };
    Ok(match kind {
        SampleKind::Allocated => Sample::Allocated(header, stack()?),
        SampleKind::Page => Sample::Page(header, stack()?),
        SampleKind::Freed => Sample::Freed(header),
        SampleKind::OutOfMemory => Sample::OutOfMemory { pid: header.pid, at_ns: header.at_ns },
    })
}

/// The record, from as many bytes as it has.
fn parse(bytes: &[u8]) -> Option<SampleHeader> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mut rest = [0; 5];
    for (index, register) in rest.iter_mut().enumerate() {
        *register = long(104 + 8 * index)?;
    }
    Some(SampleHeader {
        kind: word(0)?,
        slot: word(4)?,
        pid: word(8)?,
        tid: word(12)?,
        at_ns: long(16)?,
        id: long(24)?,
        address: long(32)?,
        bytes: long(40)?,
        threshold: long(48)?,
        replaced: long(56)?,
        epoch: word(64)?,
        site: word(68)?,
        stack_bytes: word(72)?,
        reserved: word(76)?,
        registers: Registers { ip: long(80)?, sp: long(88)?, bp: long(96)?, rest },
    })
}

/// Reads the samples. Its descriptor can be polled: readable means that there are some.
pub struct SampleReader(RingBuf<MapData>);

impl SampleReader {
    /// The next sample; `None` if there is none now.
    #[expect(clippy::should_implement_trait, reason = "there may be more after a None")]
    pub fn next(&mut self) -> Option<Sample> {
        loop {
            let entry = self.0.next()?;
            match decode(&entry) {
                Ok(sample) => return Some(sample),
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
}

impl AsFd for SampleReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The sampled blocks that live, as the kernel side knows them. What isn't among them any more was given back, also where
/// the ring was too full to tell.
pub struct LiveSamples {
    map: HashMap<MapData, Raw<LiveKey>, u64>,
    /// How many of them have each value of [`LiveKey::filter`], in 8 bytes each.
    filter: SharedWords,
}

impl LiveSamples {
    /// The sample that is known at a place.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn get(&self, key: &LiveKey) -> Result<Option<u64>, KernelError> {
        match self.map.get(&Raw(*key), 0) {
            Ok(id) => Ok(Some(id)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("LIVE_SAMPLES", source)),
        }
    }

    /// Nobody is to be told any more when this sample's block is given back. (If another one takes its place in this very
    /// moment, that one is forgotten as well.)
    ///
    /// # Errors
    ///
    /// If the map can't be read or written.
    pub fn remove(&mut self, key: &LiveKey, id: u64) -> Result<(), KernelError> {
        if self.get(key)? != Some(id) {
            return Ok(());
        }
        self.take_out(key)
    }

    fn take_out(&mut self, key: &LiveKey) -> Result<(), KernelError> {
        match self.map.remove(&Raw(*key)) {
            Ok(()) => {
                // Whoever has taken it out counts it down. There are less than 2^32, so that the lower half is all of it.
                if let Some(entries) = self.filter.word(8 * key.filter() as usize) {
                    entries.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(())
            }
            Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(map_error("LIVE_SAMPLES", source)),
        }
    }

    /// All of them. Blocks that come and go meanwhile may be missing, also such that have been there before: ask
    /// [`LiveSamples::get`] for one before taking it for gone.
    ///
    /// # Errors
    ///
    /// If the map can't be read.
    pub fn entries(&self) -> Result<Vec<(LiveKey, u64)>, KernelError> {
        let mut entries = Vec::new();
        // Bounded, as a walk begins again whenever the entry is gone that it stands at.
        for entry in self.map.iter().take(2 * LIVE_SAMPLES as usize) {
            match entry {
                Ok((key, id)) => entries.push((key.0, id)),
                Err(MapError::KeyNotFound) => (),
                Err(source) => return Err(map_error("LIVE_SAMPLES", source)),
            }
        }
        entries.sort_unstable_by_key(|(key, _)| (key.slot, key.epoch, key.address));
        entries.dedup_by_key(|(key, _)| *key);
        Ok(entries)
    }
}

/// Changes how often targets are sampled that are sampled.
#[derive(Clone)]
pub struct SampleControl(Switchboard);

impl SampleControl {
    /// From now on the target of this slot is sampled so, if it is sampled at all: what was switched off stays off. False if it
    /// isn't.
    pub fn change(&self, slot: u32, sampling: Sampling) -> bool {
        let Ok(words) = self.0.sampling(slot) else { return false };
        let present = words.rate.load(Ordering::SeqCst);
        if present == 0 || sampling.rate == 0 {
            return false;
        }
        if present == sampling.rate {
            return true;
        }
        words.certain.store(sampling.certain, Ordering::SeqCst);
        words.rate.compare_exchange(present, sampling.rate, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl SampleControl {
    /// The same for pages: one in so many bytes.
    pub fn change_pages(&self, slot: u32, mean: u64) -> bool {
        let Ok(word) = self.0.growth(slot) else { return false };
        let present = word.load(Ordering::SeqCst);
        let new = page_threshold(mean);
        present != 0 && word.compare_exchange(present, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// What is handed out once.
pub(super) struct Samples {
    pub ring: RingBuf<MapData>,
    pub live: LiveSamples,
}

impl LiveSamples {
    pub(super) fn new(
        map: HashMap<MapData, Raw<LiveKey>, u64>,
        filter: &MapData,
    ) -> Result<Self, KernelError> {
        let filter = SharedWords::map(filter.fd(), 8 * LIVE_FILTER as usize)
            .map_err(|source| KernelError::System { path: "the BPF map `LIVE_FILTER`".to_owned(), source })?;
        Ok(Self { map, filter })
    }
}

impl Kernel {
    /// Chooses how a target's allocations are sampled from now on; [`Sampling::default`] ends it: blocks that were chosen
    /// before are not followed any more then. Only sites that were placed as sampled take part.
    ///
    /// # Errors
    ///
    /// If there is no such slot.
    pub fn sample(&mut self, slot: u32, sampling: Sampling) -> Result<(), KernelError> {
        let words = self.switches.sampling(slot)?;
        // A rate without the limit that belongs to it would choose everything.
        if sampling.rate == 0 {
            words.rate.store(0, Ordering::SeqCst);
            words.certain.store(sampling.certain, Ordering::SeqCst);
        } else {
            words.certain.store(sampling.certain, Ordering::SeqCst);
            words.rate.store(sampling.rate, Ordering::SeqCst);
        }
        Ok(())
    }

    /// For whoever looks after the number of samples, on whatever thread.
    pub fn sample_control(&self) -> SampleControl {
        SampleControl(self.switches.clone())
    }

    /// How a target's allocations are sampled at present: as by [`Kernel::sample`], unless the target has replaced its program
    /// since then.
    ///
    /// # Errors
    ///
    /// If there is no such slot.
    pub fn sampling(&self, slot: u32) -> Result<Sampling, KernelError> {
        let words = self.switches.sampling(slot)?;
        let (rate, certain) = (words.rate.load(Ordering::SeqCst), words.certain.load(Ordering::SeqCst));
        Ok(Sampling { rate, certain })
    }

    /// What may do harm is done (or not): functions that throw exceptions are sampled as well, and returns are taken where
    /// it is all or none ([`Returns::Probe`](super::Returns)), if their probes are placed from now on. An exception that comes
    /// out of a call whose return is taken ends the program: the unwinder finds the kernel's address where that of the caller
    /// was (`tests/sources.rs`).
    pub fn take_risks(&mut self, on: bool) {
        self.throwing = on;
        if !on {
            self.take_no_returns_unasked();
        }
    }

    pub(crate) const fn samples_throwing(&self) -> bool {
        self.throwing
    }

    /// The samples and the blocks that live, once, for whatever thread wants to read them. `None` the second time, or if none
    /// are planned.
    pub fn take_samples(&mut self) -> Option<(SampleReader, LiveSamples)> {
        self.samples.take().map(|Samples { ring, live }| (SampleReader(ring), live))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as the kernel side lays it out: every member of the record another value.
    const SP: u64 = 14;

    fn entry(kind: u32, stack_bytes: u32, behind: usize) -> Vec<u8> {
        let words = |values: &[u32]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>();
        let longs = |values: &[u64]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>();
        let mut bytes = words(&[kind, 2, 3, 4]);
        bytes.extend(longs(&[5, 6, 7, 8, 9, 10]));
        bytes.extend(words(&[11, 12, stack_bytes, 0]));
        bytes.extend(longs(&[13, SP, 15, 16, 17, 18, 19, 20]));
        if behind > 0 {
            bytes.extend([99; SP as usize]);
        }
        bytes.extend((0..behind).map(|at| at as u8));
        bytes
    }

    fn header(kind: u32, stack_bytes: u32) -> SampleHeader {
        SampleHeader {
            kind,
            slot: 2,
            pid: 3,
            tid: 4,
            at_ns: 5,
            id: 6,
            address: 7,
            bytes: 8,
            threshold: 9,
            replaced: 10,
            epoch: 11,
            site: 12,
            stack_bytes,
            reserved: 0,
            registers: Registers { ip: 13, sp: SP, bp: 15, rest: [16, 17, 18, 19, 20] },
        }
    }

    #[test]
    fn every_kind_of_sample_is_read_as_it_was_written() {
        assert_eq!(decode(&entry(1, 3, 8)), Ok(Sample::Allocated(header(1, 3), vec![0, 1, 2])));
        assert_eq!(decode(&entry(3, 0, 8)), Ok(Sample::Page(header(3, 0), Vec::new())));
        assert_eq!(decode(&entry(1, 0, 0)), Ok(Sample::Allocated(header(1, 0), Vec::new())), "left out");
        assert_eq!(decode(&entry(2, 0, 0)), Ok(Sample::Freed(header(2, 0))));
        assert_eq!(decode(&entry(4, 0, 0)), Ok(Sample::OutOfMemory { pid: 3, at_ns: 5 }));
    }

    #[test]
    fn a_full_stack_is_read_to_its_end() {
        let most = u32::try_from(STACK_BYTES).unwrap();
        let Ok(Sample::Allocated(_, stack)) = decode(&entry(1, most, STACK_BYTES)) else {
            panic!("no sample")
        };
        assert_eq!(stack.len(), STACK_BYTES);
        assert_eq!(stack.last(), Some(&255));
    }

    #[test]
    fn entries_that_are_none_are_refused() {
        for length in 0..size_of::<SampleHeader>() {
            assert_eq!(decode(&entry(1, 0, 0)[..length]), Err(SampleError::Short { bytes: length }));
        }
        assert_eq!(decode(&entry(0, 0, 0)), Err(SampleError::Kind { kind: 0 }));
        assert_eq!(decode(&entry(5, 0, 0)), Err(SampleError::Kind { kind: 5 }));
        let behind = |bytes| bytes + SP as usize;
        assert_eq!(decode(&entry(1, 9, 8)), Err(SampleError::Stack { stack_bytes: 9, bytes: behind(8) }));
        assert_eq!(decode(&entry(1, 1, 0)), Err(SampleError::Stack { stack_bytes: 1, bytes: 0 }));
        let long = STACK_BYTES + 1;
        let says = u32::try_from(long).unwrap();
        assert_eq!(
            decode(&entry(1, says, long)),
            Err(SampleError::Stack { stack_bytes: says, bytes: behind(long) })
        );
        assert_eq!(
            decode(&entry(3, u32::MAX, 8)),
            Err(SampleError::Stack { stack_bytes: u32::MAX, bytes: behind(8) })
        );
    }
}
