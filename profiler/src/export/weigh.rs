//! What a picture of stacks is drawn by, and the names that stand in it.

use std::borrow::Cow;

use crate::{
    leaks::{SiteReport, Verdict},
    stack::{End, Stack},
};

/// Names of one stack that are shown; inlined ones count. What is deeper is left out towards the leaf.
pub const MAX_NAMES: usize = 512;

/// A figure of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// Bytes that live.
    #[default]
    Live,
    /// Bytes per second by which a leaking or growing site grows.
    Lost,
    /// Bytes allocated since attach.
    Allocated,
}

impl Weight {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Live, Self::Lost, Self::Allocated];

    /// One word, for addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Lost => "lost",
            Self::Allocated => "allocated",
        }
    }

    /// What it is, in words.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Live => "live bytes",
            Self::Lost => "growth, bytes per second",
            Self::Allocated => "bytes allocated since attach",
        }
    }

    /// The one with that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|weight| weight.name() == name)
    }

    /// The site's figure: finite and not negative.
    pub fn of(self, site: &SiteReport) -> f64 {
        let value = match self {
            Self::Live => site.live_bytes.value,
            Self::Lost if matches!(site.judgement.verdict, Verdict::Leaking | Verdict::Growing) => {
                site.judgement.rate.map_or(0.0, |rate| rate.value)
            }
            Self::Lost => 0.0,
            Self::Allocated => site.allocated_bytes.value,
        };
        if value.is_finite() { value.max(0.0) } else { 0.0 }
    }
}

/// The names of a stack from the root to the leaf, at most [`MAX_NAMES`]. A stack that doesn't reach its outermost
/// function begins with why.
pub fn names(stack: &Stack) -> Vec<Cow<'_, str>> {
    let mut names = Vec::with_capacity(stack.frames.len() + 1);
    if stack.end != End::Complete {
        names.push(Cow::Owned(format!("[{}]", stack.end.name())));
    }
    for frame in stack.frames.iter().rev() {
        if frame.functions.is_empty() {
            names.extend(frame.names().into_iter().map(Cow::Owned));
        }
        names.extend(frame.functions.iter().rev().map(|function| Cow::Borrowed(&*function.name)));
        if names.len() >= MAX_NAMES {
            names.truncate(MAX_NAMES);
            break;
        }
    }
    names
}

/// Runtime and allocator files: a frame in one of them says little of who asked for memory.
const PLUMBING: [&str; 12] = [
    "libc.so",
    "libc-",
    "libstdc++",
    "libgcc_s",
    "libjemalloc",
    "libtcmalloc",
    "libmimalloc",
    "ld-linux",
    "ld-musl",
    "libc++",
    "libm.so",
    "libpthread",
];

/// The innermost function that isn't the allocator's or the runtime's, and its file: what a site is called in short.
/// Without any such frame, the innermost of all.
pub fn culprit(stack: &Stack) -> Option<(String, &str)> {
    let is_plumbing = |object: &str| {
        let file = object.rsplit('/').next().unwrap_or(object);
        PLUMBING.iter().any(|name| file.starts_with(name))
    };
    let own = stack.frames.iter().find(|frame| !is_plumbing(&frame.object));
    let frame = own.or_else(|| stack.frames.first())?;
    let names = frame.names();
    // What was inlined from the language's own library is the runtime as well.
    let inlined = names.iter().find(|name| !RUNTIME_NAMES.iter().any(|prefix| name.starts_with(prefix)));
    let name = inlined.or_else(|| names.last())?;
    Some((name.clone(), &frame.object))
}

/// How functions of the languages' own libraries begin.
const RUNTIME_NAMES: [&str; 9] =
    ["std::", "<std::", "alloc::", "<alloc::", "core::", "<core::", "__gnu_cxx::", "operator new", "__rust_"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture;

    #[test]
    fn a_site_is_named_by_the_first_function_that_is_not_plumbing() {
        let picture = picture::realistic();
        let of = |target: usize, site: usize| culprit(&picture.targets[target].sites[site].stack).unwrap();
        assert_eq!(of(0, 0), ("cache::Store::remember".to_owned(), "/usr/bin/shop"));
        assert_eq!(of(0, 1).0, "parse_header");
        assert_eq!(of(0, 4).0, "plugin.so+0x4d20");
    }

    #[test]
    fn names_run_from_the_root_and_a_broken_stack_says_so() {
        let picture = picture::realistic();
        let names = names(&picture.targets[0].sites[4].stack);
        assert_eq!(names, ["[lost]", "plugin.so+0x9f10", "plugin.so+0x4d20"]);
    }

    #[test]
    fn only_what_grows_has_a_weight_of_loss() {
        let picture = picture::realistic();
        let sites = &picture.targets[0].sites;
        assert_eq!(Weight::Lost.of(&sites[0]), 10_240.0);
        assert_eq!(Weight::Lost.of(&sites[2]), 0.0, "it is steady");
    }
}
