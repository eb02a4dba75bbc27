//! The list of buckets. What identifies a bucket never changes, and buckets are never taken away: each is read once.

use std::collections::HashSet;

use crate::{
    binary::go::Layout,
    runtime::{Memory, go::GoError, u64_at},
};

/// Parts that are read at once.
pub(super) const PARTS: usize = 1024;
/// Buckets that are kept.
const MOST_BUCKETS: usize = 262_144;
/// A longer list is none: it goes round in circles.
const LONGEST_LIST: usize = 1 << 20;
/// Frames of a stack (`maxProfStackDepth` from Go 1.23; 32 before).
const DEEPEST: u64 = 1024;
/// Frames of all stacks together that are kept: 64 MiB.
const MOST_FRAMES: usize = 8 << 20;
/// Bytes of stacks that are read at once.
const AT_ONCE: usize = 4 << 20;
/// `runtime.memProfile`, of the kinds of buckets.
const MEM_PROFILE: u64 = 1;
/// Larger than any structure that is read here; what says otherwise is no table of ours.
const LARGEST: u64 = 4096;

/// What never changes of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Where its counts are.
    pub record: u64,
    /// Bytes of one object.
    pub size: u64,
    /// Where its stack begins among the kept frames, and how long it is.
    stack: (usize, usize),
}

/// The buckets of one process that have been read, so that only new ones need be. Belongs to one process as long as it runs
/// the same program.
#[derive(Clone, Debug, Default)]
pub struct BucketCache {
    /// First of the list when it was last followed.
    head: u64,
    /// In the order in which they were found.
    buckets: Vec<Bucket>,
    frames: Vec<u64>,
    left_out: u64,
}

/// A bucket whose stack hasn't been read.
struct Header {
    address: u64,
    size: u64,
    depth: usize,
}

impl BucketCache {
    pub(super) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    pub(super) fn stack(&self, bucket: &Bucket) -> &[u64] {
        let (start, depth) = bucket.stack;
        self.frames.get(start..start + depth).unwrap_or_default()
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Follows the list from its head to what is known already: new buckets are put in front.
    pub(super) fn follow(&mut self, memory: &impl Memory, layout: &Layout, head: u64) -> Result<(), GoError> {
        if head == self.head {
            return Ok(());
        }
        let (mut headers, met) = headers(memory, layout, head, self.head)?;
        if !met {
            *self = Self::default();
        }
        let room = MOST_BUCKETS.saturating_sub(self.buckets.len());
        // The oldest first, so that what is kept doesn't depend on how often was read.
        headers.reverse();
        self.left_out += headers.len().saturating_sub(room) as u64;
        headers.truncate(room);
        let mut rest = headers.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |header: &&Header| {
                bytes += header.depth * 8;
                bytes <= AT_ONCE
            };
            let count = rest.iter().take(PARTS).take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count);
            self.keep(memory, layout, batch)?;
            rest = later;
        }
        self.head = head;
        Ok(())
    }

    fn keep(&mut self, memory: &impl Memory, layout: &Layout, headers: &[Header]) -> Result<(), GoError> {
        let behind = |header: &Header| header.address.wrapping_add(layout.bucket.size);
        let parts: Vec<_> = headers.iter().map(|header| (behind(header), header.depth * 8)).collect();
        let bytes = memory.read(&parts)?;
        let mut words = bytes.chunks_exact(8).map(|word| u64_at(word, 0));
        for header in headers {
            let stack: Vec<u64> = words.by_ref().take(header.depth).collect();
            if self.frames.len() + stack.len() > MOST_FRAMES {
                self.left_out += 1;
                continue;
            }
            self.buckets.push(Bucket {
                record: behind(header).wrapping_add(header.depth as u64 * 8),
                size: header.size,
                stack: (self.frames.len(), stack.len()),
            });
            self.frames.extend(stack);
        }
        Ok(())
    }
}

/// The list from `head` to `known`, and whether that was met.
fn headers(
    memory: &impl Memory,
    layout: &Layout,
    head: u64,
    known: u64,
) -> Result<(Vec<Header>, bool), GoError> {
    let wrong = |what: String| Err(GoError::Contradiction(what));
    let at = &layout.bucket;
    let sizes = [at.size, layout.record.size, layout.cycle.size];
    if sizes.iter().any(|size| *size == 0 || *size > LARGEST) {
        return wrong(format!("a bucket of the heap profile has {sizes:?} bytes"));
    }
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut address = head;
    while address != 0 {
        if address == known {
            return Ok((found, true));
        }
        if !address.is_multiple_of(8) {
            return wrong(format!("a bucket of the heap profile lies at {address:#x}"));
        }
        if found.len() >= LONGEST_LIST || !seen.insert(address) {
            return wrong("the list of the heap profile has no end".to_owned());
        }
        let bytes = memory.read(&[(address, at.size as usize)])?;
        let word = |offset: u64| u64_at(&bytes, offset as usize);
        let (kind, depth) = (word(at.typ), word(at.nstk));
        if kind != MEM_PROFILE || depth > DEEPEST {
            return wrong(format!("a bucket of the heap profile is of kind {kind} and {depth} frames deep"));
        }
        found.push(Header { address, size: word(at.bytes), depth: depth as usize });
        address = word(at.allnext);
    }
    Ok((found, false))
}
