//! What runtimes tell of their own heaps, from profile to books.

use std::{hash::BuildHasher, sync::Arc};

use super::{
    chase::{Chase, keep, number, place},
    hunted::Hunted,
};
use crate::{
    leaks::{
        Source,
        ledger::{SiteIndex, Told},
    },
    runtime::go::heap_profile::{HeapProfile, Record, runtime_frames},
    stack::{End, Frame, MAX_FRAMES, RawStack, Stack},
    worker::Worker,
};

impl Chase {
    /// A process's runtime has published a profile, noticed at this moment.
    pub(super) fn profile(&mut self, slot: u32, epoch: u32, profile: &HeapProfile, at_ns: u64) {
        let Some(before) = self.processes.get(&slot).map(|hunted| hunted.epoch) else { return };
        if before.wrapping_sub(epoch).cast_signed() > 0 {
            if let Some(books) = self.books_of(slot) {
                books.lost.late += 1;
            }
            return;
        }
        self.replaced(slot, epoch);
        let Some(hunted) = self.processes.get_mut(&slot) else { return };
        let Some(books) = self.books.iter_mut().find(|books| books.name == hunted.subject.group) else {
            return;
        };
        if books.source != Ok(Source::Runtime) || hunted.subject.source != books.source {
            books.lost.other_source += 1;
            return;
        }
        // Without a rate nothing is sampled, and nobody knows what the counts of before stand for.
        if profile.rate == 0 {
            return;
        }
        books.mean = profile.rate;
        books.lost.records_left_out = books.lost.records_left_out.max(profile.left_out);
        if books.ledger.begin_reading(hunted.pid(), profile.rate, at_ns) {
            let there = books.before.allocator_bytes.unwrap_or(0);
            books.before.allocator_bytes = Some(there.saturating_add(lives(profile)));
        }
        for record in &profile.records {
            let told = Told {
                record: self.record_names.hash_one((record.size, &record.stack)),
                size: record.size,
                weight: profile.weight(record.size),
                allocs: record.allocs,
                frees: record.frees,
            };
            if !books.ledger.is_news(&told) {
                continue;
            }
            if hunted.wants_look(record.stack.first().map_or(0, |address| address.saturating_sub(1))) {
                self.spaces += 1;
                if let Err(error) = hunted.look(&mut self.worker, &mut self.files, self.spaces) {
                    tracing::debug!("{error}");
                }
            }
            let stack = stack(&self.worker, hunted, record);
            let Some(number) = number(&mut self.sites, books, &stack) else { continue };
            let site = SiteIndex(number.0);
            let held = books.ledger.holds(site);
            let placed = books.ledger.tell(&told, site);
            keep(&mut self.sites, number, held, placed);
        }
        books.ledger.end_reading();
    }
}

/// Bytes that live by a profile, as estimated from its samples.
fn lives(profile: &HeapProfile) -> u64 {
    let bytes = |record: &Record| {
        let objects = record.allocs.saturating_sub(record.frees) as f64;
        objects * record.size as f64 * profile.weight(record.size)
    };
    profile.records.iter().map(bytes).sum::<f64>() as u64
}

/// The stack of a record, as far as its addresses lie in code.
fn stack(worker: &Worker, hunted: &Hunted, record: &Record) -> RawStack {
    let frames = record.stack.iter().take(MAX_FRAMES).map_while(|address| hunted.caller(*address));
    let places: Vec<_> = frames.map(|frame| place(worker, &frame)).collect();
    let end = match places.len() {
        all if all == record.stack.len() => End::Complete,
        MAX_FRAMES => End::TooDeep,
        _ => End::Lost,
    };
    RawStack { places, end }
}

/// A stack as Go means it. Each address stands for one function: for every function that was inlined there is an address of
/// its own (Go's src/runtime/traceback.go, `tracebackPCs`), so that of the functions at a place only the innermost is meant.
/// And the runtime's own functions at the inner end are left out, unless there are no others (src/runtime/pprof/protomem.go).
pub(super) fn told_by_go(stack: &Stack) -> Arc<Stack> {
    let one = |frame: &Frame| Frame {
        functions: frame.functions.iter().take(1).cloned().collect(),
        ..frame.clone()
    };
    let frames: Vec<Frame> = stack.frames.iter().map(one).collect();
    let inner = runtime_frames(
        frames.iter().map(|frame| frame.functions.first().map_or("", |function| function.name.as_ref())),
    );
    Arc::new(Stack { frames: frames.into_iter().skip(inner).collect(), end: stack.end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Function, Place};

    fn stack(names: &[&[&str]]) -> Stack {
        let function = |name: &&str| Function { name: (*name).into(), file: None, line: 1 };
        let frame = |names: &&[&str]| Frame {
            place: Place { build: "b".into(), offset: 1 },
            object: "/srv/shop".into(),
            functions: names.iter().map(function).collect(),
        };
        Stack { frames: names.iter().map(frame).collect(), end: End::Complete }
    }

    fn names(stack: &Stack) -> Vec<String> {
        stack.frames.iter().flat_map(Frame::names).collect()
    }

    #[test]
    fn go_names_each_inlined_function_once_and_begins_with_who_asked() {
        // main.main calls main.add, which was inlined; Go tells an address for either.
        let told = stack(&[
            &["runtime.mallocgc"],
            &["internal/runtime/maps.newTable", "internal/runtime/maps.NewMap"],
            &["main.add", "main.main"],
            &["main.main"],
            &["runtime.main"],
        ]);
        assert_eq!(names(&told_by_go(&told)), ["main.add", "main.main", "runtime.main"]);
    }

    #[test]
    fn what_only_the_runtime_does_is_shown_as_it_is() {
        let told = stack(&[&["runtime.malg"], &["runtime.newproc1"]]);
        assert_eq!(names(&told_by_go(&told)), ["runtime.malg", "runtime.newproc1"]);
        assert!(told_by_go(&stack(&[])).frames.is_empty());
        assert_eq!(names(&told_by_go(&stack(&[&[], &["runtime.main"]]))).len(), 2, "nobody knows what it is");
    }

    #[test]
    fn what_lives_is_scaled_as_pprof_does() {
        let record = Record { size: 1024, stack: Vec::new(), allocs: 5, frees: 2 };
        let profile = HeapProfile { rate: 524_288, records: vec![record], ..HeapProfile::default() };
        // 3 objects of 1 KiB: by hand, 3 * 1024 / (1 - exp(-1/512)) = 1,574,400.5.
        assert_eq!(lives(&profile), 1_574_400);
    }
}
