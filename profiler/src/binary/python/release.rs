//! Cheaper places to count what is freed.
//!
//! `PyObject_Free` is usually three instructions, none of which the kernel emulates: move the argument, load the context, jump
//! through the table. Every free would cost two traps. The allocator's own function behind it has an emulated instruction
//! (`test` and `je` for a null pointer). It sees all frees as long as it is in the table or behind a wrapper that is; and
//! those that `realloc` makes itself when it moves a block, which are direct calls and can be told.

use profiler_common::alloc::{AllocFunction, Register};

use super::super::InternalCall;
use super::super::callers::MAX_INTERNAL_CALLS;
use super::super::flow::Flow;
use super::super::site::choose_in;
use super::super::text::Text;
use super::super::{Site, SiteKind};
use super::table::{Table, proven};

/// Where to count what goes through an allocator's own function.
pub(super) struct Release {
    pub address: u64,
    pub site: Site,
    /// Where the block's address is at the site.
    pub register: Register,
    pub internal_calls: Vec<InternalCall>,
}

/// The function that a table has for `free` at first, if it can be probed cheaply and all that enters it is known.
pub(super) fn find(text: &Text<'_>, table: &Table) -> Option<Release> {
    let address = table.initially(AllocFunction::Free)?;
    let (site, register) = site(text, address)?;
    let branches = text.branches_into(address..address.saturating_add(1));
    let places = branches.iter().map(|branch| (branch.source, u64::from(branch.call))).collect();
    let mut internal_calls = Vec::new();
    for (source, call) in proven(text, places) {
        // A jump passes no probe of its own that could tell it from a call through the table.
        if call == 0 || internal_calls.len() == MAX_INTERNAL_CALLS {
            return None;
        }
        internal_calls.push(InternalCall::at(text, source)?);
    }
    let short = text.short_branches_into(address..address.saturating_add(1));
    short.is_empty().then_some(Release { address, site, register, internal_calls })
}

/// An emulated instruction with the second argument intact or copied. The first one is the context, which nobody needs.
fn site(text: &Text<'_>, address: u64) -> Option<(Site, Register)> {
    let (site, places) =
        choose_in(text, &Flow::from(text, address), address, &[Register::Rsi], false).ok()?;
    (site.kind == SiteKind::Emulated).then_some((site, *places.first()?))
}
