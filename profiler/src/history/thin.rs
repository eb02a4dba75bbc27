//! What is kept for how long: everything of the last hour, then a picture a minute for a day, one in ten minutes for a week,
//! one an hour; and, where that is too much still, half of the sites, then half of the moments.

use std::{collections::HashSet, sync::Arc};

use redb::{ReadableTable as _, WriteTransaction};

use super::{
    Limits,
    record::{self, Record},
    store::{self, MOMENTS, STACKS},
};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Older than this, one picture in that: both in milliseconds, with the name of the mark up to which it is done.
const TIERS: [(u64, u64, &str); 3] =
    [(HOUR, MINUTE, "thinned-hour"), (DAY, 10 * MINUTE, "thinned-day"), (7 * DAY, HOUR, "thinned-week")];

/// Bytes of records that a file of that size has room for. redb grows a file by doubling it, writes new pages before it frees
/// old ones, and fills pages to two thirds (a test fills files and looks at their size).
pub const fn budget(limits: Limits) -> u64 {
    // The largest power of two in it: what a file that has grown beyond half of the limit would double to is too much.
    let room = 1 << limits.bytes.ilog2();
    room / 10 * 3
}

/// Leaves out moments that have become old enough. The first of each step of time is kept, and the last one in which a target
/// had just ended.
pub fn thin(transaction: &WriteTransaction, now: u64, used: &mut u64) -> Result<(), redb::Error> {
    for (age, step, mark) in TIERS {
        let from = store::number(transaction, mark)?;
        let to = now.saturating_sub(age) / step * step;
        if to <= from {
            continue;
        }
        let mut moments = Vec::new();
        {
            let table = transaction.open_table(MOMENTS)?;
            for entry in table.range((from, 0)..(to, 0))? {
                let (key, bytes) = entry?;
                if let (key, 0) = key.value() {
                    moments.push((key, bytes.value().first().copied().is_some_and(record::is_last)));
                }
            }
        }
        let gone = superfluous(&moments, step);
        for key in &gone {
            store::remove(transaction, *key, used)?;
        }
        store::add(transaction, store::THINNED_MOMENTS, gone.len() as u64)?;
        store::set(transaction, mark, to)?;
    }
    Ok(())
}

/// The moments that aren't kept, given all of them in order and whether a target had just ended.
fn superfluous(moments: &[(u64, bool)], step: u64) -> Vec<u64> {
    moments
        .chunk_by(|(one, _), (other, _)| one / step == other / step)
        .flat_map(|group| {
            let first = group.first().map(|(key, _)| *key);
            let last = group.iter().rev().find(|(_, last)| *last).map(|(key, _)| *key);
            group.iter().map(|(key, _)| *key).filter(move |key| Some(*key) != first && Some(*key) != last)
        })
        .collect()
}

/// The moments that may be made smaller: those older than an hour; if they are few, all but the last.
pub fn old(keys: &[u64]) -> &[u64] {
    const FEW: usize = 8;
    let Some((last, rest)) = keys.split_last() else { return &[] };
    let older = rest.partition_point(|key| *key < last.saturating_sub(HOUR));
    if older >= FEW { &rest[..older] } else { rest }
}

/// Leaves out the smaller half of the sites of these moments; how many sites.
pub fn halve_sites(transaction: &WriteTransaction, keys: &[u64]) -> Result<u64, redb::Error> {
    let mut used = store::used(transaction)?;
    let mut dropped = 0;
    for key in keys {
        let bytes = store::bytes_of(&transaction.open_table(MOMENTS)?, *key)?;
        let damaged = |damage: record::Damage| redb::Error::Corrupted(damage.to_string());
        let (mut record, last) = Record::decode(&bytes).map_err(damaged)?;
        let sites = record.halve_sites();
        if sites > 0 {
            store::remove(transaction, *key, &mut used)?;
            store::insert(transaction, *key, &record.encode(last).map_err(damaged)?, &mut used)?;
            dropped += sites;
        }
    }
    store::add(transaction, store::DROPPED_SITES, dropped)?;
    store::set_used(transaction, used)?;
    Ok(dropped)
}

/// Leaves out these moments.
pub fn drop_moments(transaction: &WriteTransaction, keys: &[u64]) -> Result<(), redb::Error> {
    let mut used = store::used(transaction)?;
    for key in keys {
        store::remove(transaction, *key, &mut used)?;
    }
    store::add(transaction, store::THINNED_MOMENTS, keys.len() as u64)?;
    store::set_used(transaction, used)
}

/// Leaves out the stacks of sites that no moment has; how many.
pub fn drop_stacks(transaction: &WriteTransaction, kept: &HashSet<Arc<str>>) -> Result<u64, redb::Error> {
    let mut used = store::used(transaction)?;
    let mut dropped = 0;
    {
        let mut table = transaction.open_table(STACKS)?;
        for entry in table.extract_if(|id, _| !kept.contains(id))? {
            let (id, bytes) = entry?;
            used = used.saturating_sub(store::stack_bytes(id.value(), bytes.value()));
            dropped += 1;
        }
    }
    store::set_used(transaction, used)?;
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_step_the_first_moment_stays_and_the_last_end() {
        let moments =
            [(5, false), (20, true), (40, true), (59, false), (60, false), (119, false), (300, true)];
        assert_eq!(superfluous(&moments, 60), [20, 59, 119]);
    }

    #[test]
    fn the_last_hour_is_left_alone_unless_it_is_all_there_is() {
        let keys: Vec<u64> = (0..20).map(|i| i * 10 * MINUTE).collect();
        assert_eq!(old(&keys).last(), Some(&(120 * MINUTE)));
        assert_eq!(old(&keys[..4]), &keys[..3]);
        assert_eq!(old(&[7]), &[] as &[u64]);
    }
}
