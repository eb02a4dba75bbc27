//! Finds the runtime's globals in programs without a symbol table: the functions that every program has refer to them in
//! the same order as in the program that the table was made from, and every reference votes for an address.

use std::collections::{BTreeMap, HashMap};

use super::Span;
use super::image::GoFile;
use super::layout::Table;
use super::references::{Reference, references};

/// Functions that must be there.
const MIN_FUNCTIONS: u32 = 10;
/// Of 100 functions, how many must refer to data in just the way that the table says. Otherwise the compiler was another or did
/// something else than usual, and what was aligned can be wrong.
const MIN_SAME: u32 = 60;
/// Of 100 votes, how many must be for the address.
const MIN_VOTES: u32 = 80;
/// Up to so many votes, all must be for it, and one of them from a function that is just as in the table.
const FEW: u32 = 2;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Addresses by name; only those on which the votes agree.
    pub globals: BTreeMap<String, u64>,
    /// Functions whose references were all as in the table.
    pub same: u32,
    /// Functions that were compared.
    pub of: u32,
}

/// Votes for an address: from functions that are as in the table, and from others.
#[derive(Clone, Copy, Default)]
struct Votes {
    same: u32,
    aligned: u32,
}

/// Compares the program's functions with the table's.
///
/// # Errors
///
/// In words, if they aren't alike enough.
pub fn recover(
    file: &GoFile<'_>,
    functions: &HashMap<&str, Span>,
    data: &[Span],
    table: &Table,
) -> Result<Recovered, String> {
    let mut votes: BTreeMap<&str, BTreeMap<u64, Votes>> = BTreeMap::new();
    let mut found = Recovered::default();
    for (name, known) in &table.code {
        let Some(&function) = functions.get(name.as_str()) else { continue };
        if known.is_empty() {
            continue;
        }
        let here = references(file, function, data);
        let same = known.iter().map(|(signature, ..)| signature).eq(here.iter().map(|here| &here.signature));
        found.of += 1;
        found.same += u32::from(same);
        let pairs = if same { known.iter().zip(&here).collect() } else { align(known, &here) };
        for ((_, global, offset), here) in pairs {
            let Some(global) = global else { continue };
            let address = here.target.wrapping_sub(offset.cast_unsigned());
            let votes = votes.entry(global).or_default().entry(address).or_default();
            if same { votes.same += 1 } else { votes.aligned += 1 }
        }
    }
    let (same, of) = (found.same, found.of);
    if of < MIN_FUNCTIONS {
        return Err(format!("only {of} of the runtime's functions were found"));
    }
    if same * 100 < of * MIN_SAME {
        return Err(format!(
            "only {same} of {of} of the runtime's functions are as they should be: another compiler or other options"
        ));
    }
    let agreed = votes.into_iter().filter_map(|(name, votes)| Some((name.to_owned(), agreed(&votes, data)?)));
    found.globals = agreed.collect();
    Ok(found)
}

/// The address on which the votes agree.
fn agreed(votes: &BTreeMap<u64, Votes>, data: &[Span]) -> Option<u64> {
    let all: u32 = votes.values().map(|votes| votes.same + votes.aligned).sum();
    let (&address, most) = votes.iter().max_by_key(|(_, votes)| votes.same + votes.aligned)?;
    let (count, same) = (most.same + most.aligned, most.same);
    let enough = if count > FEW { count * 100 >= all * MIN_VOTES } else { same > 0 && count == all };
    (enough && data.iter().any(|span| (span.start..span.end).contains(&address))).then_some(address)
}

/// A reference of the table.
type Known = (String, Option<String>, i64);

/// The longest common subsequence by signature (the textbook's table, at most 1024 by 1024).
fn align<'k, 'h>(known: &'k [Known], here: &'h [Reference]) -> Vec<(&'k Known, &'h Reference)> {
    let width = here.len() + 1;
    let mut lengths = vec![0_u16; (known.len() + 1) * width];
    let at =
        |lengths: &[u16], row: usize, column: usize| lengths.get(row * width + column).copied().unwrap_or(0);
    for (row, (signature, ..)) in known.iter().enumerate().rev() {
        for (column, reference) in here.iter().enumerate().rev() {
            let longest = if *signature == reference.signature {
                at(&lengths, row + 1, column + 1) + 1
            } else {
                at(&lengths, row + 1, column).max(at(&lengths, row, column + 1))
            };
            if let Some(slot) = lengths.get_mut(row * width + column) {
                *slot = longest;
            }
        }
    }
    let (mut row, mut column, mut pairs) = (0, 0, Vec::new());
    while let (Some(one), Some(other)) = (known.get(row), here.get(column)) {
        if one.0 == other.signature {
            pairs.push((one, other));
            (row, column) = (row + 1, column + 1);
        } else if at(&lengths, row + 1, column) >= at(&lengths, row, column + 1) {
            row += 1;
        } else {
            column += 1;
        }
    }
    pairs
}
