//! What the description of a program may say, whoever has made it: addresses that programs can have, as many of everything
//! as there can be, texts that disturb nobody.

use crate::{
    binary::{
        describe::Description,
        go::{BuildInfo, Found, Globals, GoImage, Layout, Module, Places, Span, build_info},
    },
    text::clean_to,
};

/// Modules of a Go program, as many as are read. Large ones have some hundreds.
const MODULES: usize = build_info::MAX_MODULES;
/// Settings of a build, as many as are read: about twenty are known.
const SETTINGS: usize = build_info::MAX_SETTINGS;
/// Crates of a Rust program, as many as are read.
const CRATES: usize = 10_000;
/// Damages that are told.
const TROUBLES: usize = 64;
/// Longest text that is kept, bytes: paths and flags of compilers can be long. What is cut ends with an ellipsis.
const TEXT_LIMIT: usize = 1024;
/// Longest version, name of a crate, checksum: bytes.
const NAME_LIMIT: usize = 200;
/// What a goroutine waits for: about 45 reasons are known.
const REASONS: usize = 128;
/// Longest reason, bytes.
const REASON_LIMIT: usize = 64;
/// Size classes of Go's allocator (Go's src/runtime/sizeclasses.go): the same since 2011.
const CLASSES: usize = 68;
/// Bytes of the largest one.
const LARGEST_CLASS: u16 = 32768;
/// Starts of goroutines that are told.
const STARTS: usize = 64;
/// Addresses of a program are less (x86-64 and arm64 with four levels of page tables).
const ADDRESS_LIMIT: u64 = 1 << 48;
/// Offsets in structures of the runtime are less; the largest known is 92,320.
const OFFSET_LIMIT: u64 = 1 << 20;

/// The description of a file of so many bytes with its texts cleaned; `None` if no program is described so.
pub fn believable(mut description: Description, size: u64) -> Option<Description> {
    let fine = description.trouble.len() <= TROUBLES
        && description.crates.len() <= CRATES
        && description.go.as_mut().is_none_or(|go| fine_go(go, size));
    if !fine {
        return None;
    }
    description.trouble.iter_mut().for_each(|text| tidy(text, TEXT_LIMIT));
    for (name, version) in &mut description.crates {
        tidy(name, NAME_LIMIT);
        tidy(version, NAME_LIMIT);
    }
    Some(description)
}

fn fine_go(go: &mut GoImage, size: u64) -> bool {
    tidy(&mut go.version, NAME_LIMIT);
    let build = match &mut go.build {
        Ok(build) => fine_build(build),
        Err(words) => {
            tidy(words, TEXT_LIMIT);
            true
        }
    };
    let runtime = match &mut go.runtime {
        Ok(places) => fine_places(places, size),
        Err(words) => {
            tidy(words, TEXT_LIMIT);
            true
        }
    };
    build && runtime
}

fn fine_build(build: &mut BuildInfo) -> bool {
    if build.dependencies.len() > MODULES || build.settings.len() > SETTINGS {
        return false;
    }
    tidy(&mut build.path, TEXT_LIMIT);
    build.main.iter_mut().chain(&mut build.dependencies).for_each(tidy_module);
    for (key, value) in &mut build.settings {
        tidy(key, NAME_LIMIT);
        tidy(value, TEXT_LIMIT);
    }
    true
}

fn tidy_module(module: &mut Module) {
    // What stands for it has nothing in its own place: see `Module::replace`.
    let replaced = module.replace.as_deref_mut();
    for (text, limit) in replaced.into_iter().flat_map(texts) {
        tidy(text, limit);
    }
    for (text, limit) in texts(module) {
        tidy(text, limit);
    }
}

fn texts(module: &mut Module) -> [(&mut String, usize); 3] {
    [(&mut module.path, TEXT_LIMIT), (&mut module.version, NAME_LIMIT), (&mut module.sum, NAME_LIMIT)]
}

fn fine_places(places: &mut Places, size: u64) -> bool {
    tidy(&mut places.table, NAME_LIMIT);
    // The code is in the file, and of the code it is what is told.
    let code = fine_span(places.text) && places.text.end - places.text.start <= size;
    let inside =
        |span: Span| fine_span(span) && span.start >= places.text.start && span.end <= places.text.end;
    let worlds = places.worlds.is_none_or(|(stop, start)| inside(stop) && inside(start));
    let sites = places.world_sites.is_none_or(|(stop, start)| stop < size && start < size);
    let found = match places.found {
        Found::Symbols => true,
        Found::References { same, of } => same <= of,
    };
    code && worlds
        && sites
        && found
        && places.base < ADDRESS_LIMIT
        && places.user_starts.len() <= STARTS
        && places.user_starts.iter().all(|start| *start < ADDRESS_LIMIT)
        && fine_globals(&places.globals)
        && fine_layout(&mut places.layout)
}

const fn fine_span(span: Span) -> bool {
    span.start <= span.end && span.end < ADDRESS_LIMIT
}

fn fine_globals(globals: &Globals) -> bool {
    // Taken apart, so that none is forgotten.
    let Globals {
        memstats,
        mheap,
        gc_controller,
        sched,
        allp,
        allglen,
        allgs,
        gomaxprocs,
        ncpu,
        emptymspan,
        mbuckets,
        mprof_cycle,
        mem_profile_rate,
    } = *globals;
    let sure = [memstats, mheap, gc_controller, sched, allp, allglen, allgs, gomaxprocs];
    let maybe = [ncpu, emptymspan, mbuckets, mprof_cycle, mem_profile_rate];
    sure.into_iter().chain(maybe.into_iter().flatten()).all(|address| address < ADDRESS_LIMIT)
}

fn fine_layout(layout: &mut Layout) -> bool {
    let fine = layout.class_sizes.len() == CLASSES
        && layout.class_sizes.iter().all(|size| *size <= LARGEST_CLASS)
        && layout.wait_reasons.len() <= REASONS
        && layout.is_below(OFFSET_LIMIT);
    if fine {
        layout.wait_reasons.iter_mut().for_each(|reason| tidy(reason, REASON_LIMIT));
    }
    fine
}

fn tidy(text: &mut String, limit: usize) {
    let cleaned = clean_to(text, limit);
    if *text != cleaned {
        *text = cleaned;
    }
}

#[cfg(test)]
mod tests;
