//! Call sites: every stack is kept once and has a number here, and an id that stays.

use std::{collections::HashMap, sync::Arc};

use crate::stack::{End, Place, RawStack};

/// What all stacks together may take, in bytes. 20,000 stacks of 30 frames are 7 MB.
const MAX_BYTES: usize = 32 << 20;
/// What keeping a stack takes beside its frames: two entries of hash maps, the id, the record.
const OVERHEAD: usize = 200;
/// Different files that stacks go through.
const MAX_BUILDS: usize = 65_535;

/// A number for a site, valid as long as the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteNumber(pub u32);

/// A stack as it is kept: builds by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Compact {
    frames: Box<[(u32, u64)]>,
    end: End,
}

/// All stacks that were ever seen, within a bound.
#[derive(Default)]
pub struct Sites {
    builds: Vec<Arc<str>>,
    build_numbers: HashMap<Arc<str>, u32>,
    numbers: HashMap<Arc<Compact>, SiteNumber>,
    sites: Vec<Option<Entry>>,
    vacant: Vec<SiteNumber>,
    ids: HashMap<Arc<str>, SiteNumber>,
    bytes: usize,
}

/// A stack that is kept.
struct Entry {
    stack: Arc<Compact>,
    id: Arc<str>,
    /// How many books have it.
    holders: u32,
}

impl Sites {
    /// The number of a stack; `None` if it is new and there is no place any more.
    pub fn number(&mut self, stack: &RawStack) -> Option<SiteNumber> {
        let frames: Option<Box<[(u32, u64)]>> =
            stack.places.iter().map(|place| Some((self.build(&place.build)?, place.offset))).collect();
        let compact = Compact { frames: frames?, end: stack.end };
        if let Some(number) = self.numbers.get(&compact) {
            return Some(*number);
        }
        if self.bytes + cost(&compact) > MAX_BYTES {
            return None;
        }
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => SiteNumber(u32::try_from(self.sites.len()).ok()?),
        };
        self.bytes += cost(&compact);
        let mut id = short_id(stack);
        // 48 bits: among 20,000 stacks two alike are met once in a million runs, but a program could be made so.
        let mut more = 2;
        while self.ids.contains_key(id.as_str()) {
            id = format!("{}-{more}", short_id(stack));
            more += 1;
        }
        let (stack, id): (_, Arc<str>) = (Arc::new(compact), id.into());
        self.numbers.insert(Arc::clone(&stack), number);
        self.ids.insert(Arc::clone(&id), number);
        let entry = Some(Entry { stack, id, holders: 0 });
        match self.sites.get_mut(number.0 as usize) {
            Some(place) => *place = entry,
            None => self.sites.push(entry),
        }
        Some(number)
    }

    /// Books have this site from now on.
    pub fn hold(&mut self, number: SiteNumber) {
        if let Some(Some(entry)) = self.sites.get_mut(number.0 as usize) {
            entry.holders += 1;
        }
    }

    /// Books have forgotten this site, or never took it (`held` tells): if nobody else has it, its stack is dropped.
    pub fn release(&mut self, number: SiteNumber, held: bool) {
        let Some(place) = self.sites.get_mut(number.0 as usize) else { return };
        let Some(entry) = place else { return };
        entry.holders = entry.holders.saturating_sub(u32::from(held));
        if entry.holders == 0
            && let Some(entry) = place.take()
        {
            self.bytes = self.bytes.saturating_sub(cost(&entry.stack));
            self.numbers.remove(&entry.stack);
            self.ids.remove(&entry.id);
            self.vacant.push(number);
        }
    }

    fn entry(&self, number: SiteNumber) -> Option<&Entry> {
        self.sites.get(number.0 as usize)?.as_ref()
    }

    fn build(&mut self, build: &Arc<str>) -> Option<u32> {
        if let Some(number) = self.build_numbers.get(build) {
            return Some(*number);
        }
        if self.builds.len() >= MAX_BUILDS {
            return None;
        }
        let number = u32::try_from(self.builds.len()).ok()?;
        self.builds.push(Arc::clone(build));
        self.build_numbers.insert(Arc::clone(build), number);
        self.bytes += build.len() + OVERHEAD;
        Some(number)
    }

    /// The id of a site, as it is shown.
    pub fn id(&self, number: SiteNumber) -> Option<&Arc<str>> {
        self.entry(number).map(|entry| &entry.id)
    }

    /// The stack of a site.
    pub fn stack(&self, number: SiteNumber) -> Option<RawStack> {
        let compact = &self.entry(number)?.stack;
        let place = |&(build, offset): &(u32, u64)| {
            Some(Place { build: Arc::clone(self.builds.get(build as usize)?), offset })
        };
        Some(RawStack { places: compact.frames.iter().map(place).collect::<Option<_>>()?, end: compact.end })
    }
}

/// What keeping a stack takes.
fn cost(stack: &Compact) -> usize {
    OVERHEAD + size_of_val(&*stack.frames)
}

/// 12 hexadecimal digits that depend on nothing but the stack: FNV-1a over 64 bits of its builds and offsets, folded to 48
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>).
fn short_id(stack: &RawStack) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for place in &stack.places {
        eat(place.build.as_bytes());
        eat(&[0]);
        eat(&place.offset.to_le_bytes());
    }
    eat(stack.end.name().as_bytes());
    format!("{:012x}", (hash >> 48) ^ (hash & 0xffff_ffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(offsets: &[u64]) -> RawStack {
        let place = |&offset| Place { build: "abc".into(), offset };
        RawStack { places: offsets.iter().map(place).collect(), end: End::Complete }
    }

    #[test]
    fn equal_stacks_are_one_site_and_come_back_as_they_were() {
        let mut sites = Sites::default();
        let one = sites.number(&stack(&[1, 2])).unwrap();
        let other = sites.number(&stack(&[1, 3])).unwrap();
        assert_ne!(one, other);
        assert_eq!(sites.number(&stack(&[1, 2])), Some(one));
        assert_eq!(sites.stack(one), Some(stack(&[1, 2])));
        assert_ne!(sites.id(one), sites.id(other));
    }

    #[test]
    fn an_id_depends_on_the_stack_alone() {
        let mut sites = Sites::default();
        sites.number(&stack(&[7]));
        let number = sites.number(&stack(&[1, 2])).unwrap();
        // As computed by hand-written Python from the published description of the hash.
        assert_eq!(sites.id(number).unwrap().as_ref(), "3f1a2784cebb");
    }

    #[test]
    fn what_nobody_holds_makes_place() {
        let mut sites = Sites::default();
        let one = sites.number(&stack(&[1])).unwrap();
        sites.hold(one);
        sites.hold(one);
        sites.release(one, true);
        assert_eq!(sites.number(&stack(&[1])), Some(one));
        let bytes = sites.bytes;
        let passing = sites.number(&stack(&[2, 3])).unwrap();
        sites.release(passing, false);
        assert_eq!((sites.bytes, sites.id(passing)), (bytes, None));
        sites.release(one, true);
        assert_eq!(sites.stack(one), None);
        let other = sites.number(&stack(&[9])).unwrap();
        assert_eq!(sites.stack(other), Some(stack(&[9])), "numbers are used again");
    }

    #[test]
    fn a_million_stacks_stay_within_the_bound() {
        let mut sites = Sites::default();
        let kept = (0..1_000_000_u64).filter(|&n| sites.number(&stack(&[n, n + 1, 5])).is_some()).count();
        assert!(kept > 100_000 && kept < 1_000_000, "{kept}");
        assert!(sites.bytes <= MAX_BYTES);
        assert!(sites.number(&stack(&[0, 1, 5])).is_some(), "what is known stays");
    }
}
