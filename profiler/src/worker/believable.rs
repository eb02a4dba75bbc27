//! What an analysis may say, whoever has made it: places inside the file, as many of everything as there can be, texts that
//! disturb nobody.

mod description;

use profiler_common::alloc::{
    BAD_ALIGNMENT_FAILS, NULL_COUNTED_ELSEWHERE, NULL_FAILS, ONLY_COUNTED, POINTER_ALIGNMENT,
    RESULT_IN_MEMORY, SMALL_ALIGNMENT_COUNTED_ELSEWHERE, ZERO_COUNTED_ELSEWHERE, ZERO_RESIZES,
};

use crate::{
    binary::{
        Class, Hook, Image, LeftOut, LeftOutReason, MAX_INTERNAL_CALLS, Site, SiteError,
        python::{Domain, MAX_HOOKS, Python, PythonHook},
    },
    text::clean_to,
};

pub use description::believable as believable_description;

/// Functions of a file's allocators, with a hook or without: some hundred names are known, some with prefixes.
const FUNCTIONS: usize = 2048;
/// Texts of one kind.
const TEXTS: usize = 1024;
/// Longest text that is kept, bytes.
const TEXT_LIMIT: usize = 1024;
/// Program headers that are read.
const SEGMENTS: usize = 256;
/// Digits of a build id that are read.
const DIGITS: usize = 128;
/// Of each table of symbols there is one at most.
const SOURCES: usize = 4;

/// Every bit that a hook may have.
const FLAGS: u32 = NULL_COUNTED_ELSEWHERE
    | ZERO_COUNTED_ELSEWHERE
    | SMALL_ALIGNMENT_COUNTED_ELSEWHERE
    | BAD_ALIGNMENT_FAILS
    | POINTER_ALIGNMENT
    | ZERO_RESIZES
    | NULL_FAILS
    | RESULT_IN_MEMORY
    | ONLY_COUNTED;

/// The analysis of a file of so many bytes with its texts cleaned; `None` if no analysis says such things.
pub fn believable(mut image: Image, size: u64) -> Option<Image> {
    let digits = |id: &String| id.len() <= DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fine = image.build_id.as_ref().is_none_or(digits)
        && image.segments.len() <= SEGMENTS
        && image.hooks.len() + image.left_out.len() <= FUNCTIONS
        && image.symbols.len() <= SOURCES
        && image.hooks.iter_mut().all(|hook| fine_hook(hook, size))
        && image.left_out.iter_mut().all(fine_left_out)
        && image.loader.as_mut().is_none_or(|loader| fine_site(&mut loader.site, loader.address, size))
        && image.python.as_mut().is_none_or(|python| fine_python(python, size))
        && fine_texts(&mut image.symbol_problems);
    if let Class::Other { description } = &mut image.class {
        tidy(description);
    }
    image.soname.iter_mut().for_each(tidy);
    fine.then_some(image)
}

fn fine_python(python: &mut Python, size: u64) -> bool {
    let fine = |hooks: &mut Vec<PythonHook>| {
        hooks.len() <= MAX_HOOKS + FUNCTIONS && hooks.iter_mut().all(|hook| fine_hook(&mut hook.hook, size))
    };
    fine(&mut python.hooks)
        && fine(&mut python.releases)
        && python.tables.len() <= Domain::ALL.len()
        && python.left_out.len() <= FUNCTIONS
        && python.left_out.iter_mut().all(fine_left_out)
        && fine_texts(&mut python.notes)
}

fn fine_hook(hook: &mut Hook, size: u64) -> bool {
    hook.flags & !FLAGS == 0
        && fine_site(&mut hook.site, hook.address, size)
        && hook.internal_calls.len() <= MAX_INTERNAL_CALLS
        && hook.internal_calls.iter_mut().all(|call| {
            tidy(&mut call.instruction);
            call.file_offset < size && call.returns_to.is_none_or(|place| place <= size)
        })
        && fine_texts(&mut hook.names)
        && fine_texts(&mut hook.notes)
}

fn fine_site(site: &mut Site, entry: u64, size: u64) -> bool {
    tidy(&mut site.instruction);
    tidy(&mut site.reason);
    site.file_offset < size && entry.checked_add(site.offset).is_some()
}

fn fine_left_out(left: &mut LeftOut) -> bool {
    tidy(&mut left.name);
    match &mut left.reason {
        LeftOutReason::StandsOn(text) | LeftOutReason::NoSite(SiteError::Refused { instruction: text }) => {
            tidy(text);
        }
        LeftOutReason::Missing
        | LeftOutReason::SameAddressAs(_)
        | LeftOutReason::WrapperOf(_)
        | LeftOutReason::Forwards
        | LeftOutReason::MayForward
        | LeftOutReason::Client
        | LeftOutReason::NoSite(_) => {}
    }
    true
}

fn fine_texts(texts: &mut [String]) -> bool {
    texts.iter_mut().for_each(tidy);
    texts.len() <= TEXTS
}

fn tidy(text: &mut String) {
    let cleaned = clean_to(text, TEXT_LIMIT);
    if *text != cleaned {
        *text = cleaned;
    }
}

#[cfg(test)]
mod tests;
