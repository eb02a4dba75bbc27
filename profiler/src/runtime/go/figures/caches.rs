//! What the processors' caches hold back: objects that are allocated and that the runtime counts only when a span leaves its
//! cache (`refill` and `releaseAll` in Go's src/runtime/mcache.go). `ReadMemStats` stops the world and empties all caches first.
//!
//! We can't, so a class of sizes is read like this: the count, the spans that the caches have, then what is allocated in those
//! spans, then the count and the caches again. If neither has changed, no span has left a cache in between, and the sum was
//! right at that moment. Readings between two instructions that belong together are never believed: both must have passed all
//! checks. Classes for which it has changed are read again; all are of some moment within the reading.

use crate::runtime::{Memory, go::GoError, go::attach::GoRuntime, u16_at, u32_at, u64_at};

use super::{
    check::Doubt,
    raw::{Part, Pending, Raw},
    read::{Miss, Processors},
};

/// Readings of what hasn't settled yet.
const ROUNDS: usize = 8;
/// A class has spans of objects with pointers and of objects without: `spanClass` in Go's src/runtime/mheap.go.
const KINDS: usize = 2;
/// Tiny objects share one of the second class (`tinySizeClass` in malloc.go).
const TINY: usize = 2;

/// What all caches refer to at one moment.
#[derive(Debug)]
struct Sight {
    raw: Raw,
    /// By processor, class and kind.
    spans: Vec<u64>,
    tiny: u64,
}

/// A cached span's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    allocated: u16,
    before: u16,
    sweepgen: u32,
}

impl Counts {
    /// Objects that were allocated since it is cached. `None` while it is on its way into a cache or out of it, which its
    /// generation tells: 3 ahead of the sweeper's if it was cached since the sweeper's last start, 1 if before.
    fn pending(self, sweepgen: u32) -> Option<u64> {
        let cached = matches!(self.sweepgen.wrapping_sub(sweepgen), 1 | 3);
        self.allocated.checked_sub(self.before).filter(|_| cached).map(u64::from)
    }
}

impl<M: Memory> GoRuntime<M> {
    /// Everything, and what the caches hold back. The sums are checked by the caller.
    pub(super) fn read_caches(&mut self) -> Result<(Raw, Pending), Miss> {
        let Some(empty) = self.places.globals.emptymspan.map(|address| self.bias.live(address)) else {
            let why = "what the caches hold back can't be counted: where the empty span is isn't known";
            return Err(GoError::Unavailable(why.into()).into());
        };
        let classes = self.places.layout.class_sizes.len();
        // Each class's objects, and behind them the tiny ones, once they have settled.
        let mut settled: Vec<Option<u64>> = vec![None; classes];
        let mut settled_tiny = None;
        let (mut before, _) = self.sight(&[])?;
        let mut before_passed = self.checked(&before.raw).is_ok();
        for _ in 0..ROUNDS {
            let wanted: Vec<(usize, u64)> = cached(&before.spans, classes, empty)
                .filter(|(class, _)| settled.get(*class) == Some(&None))
                .collect();
            let (after, counts) = self.sight(&wanted)?;
            let passed = self.checked(&after.raw).is_ok();
            if !(before_passed && passed) {
                (before, before_passed) = (after, passed);
                continue;
            }
            let mut sums = vec![Some(0u64); classes];
            for ((class, _), counts) in wanted.iter().zip(counts) {
                let pending = counts.pending(after.raw.sweepgen);
                if let Some(sum) = sums.get_mut(*class) {
                    *sum = sum.zip(pending).map(|(sum, pending)| sum + pending);
                }
            }
            let counted = |sight: &Sight, class: usize| sight.raw.heap.small_allocs.get(class).copied();
            for (class, settled) in settled.iter_mut().enumerate().filter(|(_, settled)| settled.is_none()) {
                let same = counted(&before, class) == counted(&after, class)
                    && same_spans(&before, &after, class, classes);
                *settled = counted(&after, class)
                    .zip(sums[class])
                    .filter(|_| same)
                    .map(|(sum, held)| sum.wrapping_add(held));
            }
            if settled_tiny.is_none()
                && before.raw.heap.tiny_allocs == after.raw.heap.tiny_allocs
                && before.tiny <= after.tiny
                && settled[TINY.min(classes - 1)].is_some()
            {
                settled_tiny = Some(after.raw.heap.tiny_allocs.wrapping_add(after.tiny));
            }
            let all = settled.iter().copied().collect::<Option<Vec<u64>>>().zip(settled_tiny);
            if let Some((totals, tiny)) = all {
                let pending = pending_of(&after.raw, &totals, tiny);
                return Ok((after.raw, pending));
            }
            (before, before_passed) = (after, passed);
        }
        Err(Miss::Moving)
    }

    /// Where each processor has its cache. That is also how the processors' own fields are checked, which no sum does: no cache
    /// ever has a span of the first class, which is that of large objects, but refers to the empty span there.
    pub(super) fn learn_caches(&mut self, processors: &[u64]) -> Result<Vec<u64>, Miss> {
        // While their number changes, processors are made or ended one behind the other (`procresize`).
        let changing = || Doubt::Torn("its processors have no caches".into());
        let layout = &self.places.layout;
        let (offset, alloc) = (layout.p.mcache, layout.mcache.alloc);
        if processors.contains(&0) {
            return Err(changing().into());
        }
        let parts: Vec<Part> = processors.iter().map(|p| (p.wrapping_add(offset), 8)).collect();
        let bytes = self.fetch(&parts)?;
        let caches: Vec<u64> = bytes.chunks_exact(8).map(|word| u64_at(word, 0)).collect();
        if caches.contains(&0) {
            return Err(changing().into());
        }
        let parts: Vec<Part> = caches.iter().map(|cache| (cache.wrapping_add(alloc), 8 * KINDS)).collect();
        let strange = |what: &str| Doubt::Wrong(format!("what should be the caches of processors {what}"));
        let bytes = match self.fetch(&parts) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Or the process has ended: then this fails, too.
                self.fetch(&[self.plan.allp()])?;
                return Err(strange(&format!("isn't there: {error}")).into());
            }
        };
        let empty =
            self.places.globals.emptymspan.map_or_else(|| u64_at(&bytes, 0), |empty| self.bias.live(empty));
        let all_empty = empty != 0 && bytes.chunks_exact(8).all(|word| u64_at(word, 0) == empty);
        if all_empty {
            Ok(caches)
        } else {
            Err(strange("has small objects in the class of large ones").into())
        }
    }

    /// One call: the counts of some spans first, then what the caches refer to, and everything else.
    fn sight(&mut self, spans: &[(usize, u64)]) -> Result<(Sight, Vec<Counts>), Miss> {
        let layout = &self.places.layout;
        let (span, cache) = (&layout.mspan, &layout.mcache);
        let fields = [span.alloc_count, span.alloc_count_before_cache, span.sweepgen];
        let from = fields.into_iter().min().unwrap_or(0);
        let length = fields.into_iter().max().unwrap_or(0).saturating_sub(from) + 4;
        let length = usize::try_from(length).ok().filter(|length| *length <= 256);
        let length =
            length.ok_or_else(|| GoError::Unavailable("its table has spans of strange size".into()))?;
        let at = |offset: u64| usize::try_from(offset - from).unwrap_or(usize::MAX);
        let (allocated, before, sweepgen) =
            (at(span.alloc_count), at(span.alloc_count_before_cache), at(span.sweepgen));
        let array = layout.class_sizes.len() * KINDS * 8;
        let mut parts: Vec<Part> =
            spans.iter().map(|(_, address)| (address.wrapping_add(from), length)).collect();
        for (p, cache_address) in self.processors.addresses.iter().zip(&self.processors.caches) {
            parts.push((p.wrapping_add(layout.p.mcache), 8));
            parts.push((cache_address.wrapping_add(cache.alloc), array));
            parts.push((cache_address.wrapping_add(cache.tiny_allocs), 8));
        }
        let (raw, bytes) = self.read_with(&mut parts)?;
        let (counts, mut rest) = bytes.split_at(spans.len() * length);
        let counts = counts
            .chunks_exact(length)
            .map(|bytes| Counts {
                allocated: u16_at(bytes, allocated),
                before: u16_at(bytes, before),
                sweepgen: u32_at(bytes, sweepgen),
            })
            .collect();
        let (mut spans, mut tiny) = (Vec::new(), 0u64);
        for cache in &self.processors.caches {
            if u64_at(rest, 0) != *cache {
                self.processors = Processors::default();
                return Err(Miss::Stale);
            }
            rest = rest.get(8..).unwrap_or_default();
            let (words, behind) = rest.split_at(array.min(rest.len()));
            spans.extend(words.chunks_exact(8).map(|word| u64_at(word, 0)));
            tiny = tiny.saturating_add(u64_at(behind, 0));
            rest = behind.get(8..).unwrap_or_default();
        }
        Ok((Sight { raw, spans, tiny }, counts))
    }
}

/// The spans that are cached, with their classes.
fn cached(spans: &[u64], classes: usize, empty: u64) -> impl Iterator<Item = (usize, u64)> {
    let by_class =
        spans.iter().enumerate().map(move |(number, span)| (number % (classes * KINDS) / KINDS, *span));
    by_class.filter(move |(_, span)| *span != 0 && *span != empty)
}

/// Whether all caches have the same spans of a class.
fn same_spans(before: &Sight, after: &Sight, class: usize, classes: usize) -> bool {
    let of_class = |sight: &Sight| -> Vec<u64> {
        let caches = sight.spans.chunks_exact(classes * KINDS);
        caches.flat_map(|cache| cache[class * KINDS..][..KINDS].iter().copied()).collect()
    };
    of_class(before) == of_class(after)
}

/// What is to be added to the counts of `raw`, so that they become the totals. A class that settled before `raw` was read can
/// have been counted on since: then what is counted is nearer to now.
fn pending_of(raw: &Raw, totals: &[u64], tiny: u64) -> Pending {
    let small = totals.iter().zip(&raw.heap.small_allocs);
    Pending {
        small_allocs: small.map(|(total, counted)| total.saturating_sub(*counted)).collect(),
        tiny_allocs: tiny.saturating_sub(raw.heap.tiny_allocs),
    }
}
