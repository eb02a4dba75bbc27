//! Profiles of Go programs for `go tool pprof`: of the heap, as their runtime keeps it, and of their goroutines.

use std::{sync::Arc, time::SystemTime};

use super::{GoProgram, PATIENCE, stack};
use crate::{
    export::{goroutines as export, pprof::go},
    kernel::now_ns,
    runtime::{go::GoError, reader},
    snapshot::GoProcess,
};

/// How a heap profile is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapForm {
    /// Packed; what lives is shown first.
    Live,
    /// Packed; what was allocated is shown first.
    Allocated,
    /// As text.
    Text,
}

/// How goroutines are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoroutineForm {
    /// A packed profile.
    Profile,
    /// Text; equal stacks once.
    Grouped,
    /// Text, as a panic prints it.
    Text,
}

/// The profile that the runtime of a process of a target keeps of its heap, packed.
///
/// # Errors
///
/// If there is none, or it can't be read: in words.
pub fn heap_profile(target: &str, of: &GoProcess, form: HeapForm) -> Result<Vec<u8>, String> {
    let target = target.to_owned();
    ask(of, move |program| {
        let profile = program.heap_profile()?;
        let mut namer = stack::namer(program)?;
        let names = stack::names(program, &mut namer, go::heap_addresses(&profile));
        let whose = (target.as_str(), SystemTime::now());
        Ok(match form {
            HeapForm::Live => go::heap(&profile, &names, "inuse_space", whose),
            HeapForm::Allocated => go::heap(&profile, &names, "alloc_space", whose),
            HeapForm::Text => go::heap_text(&profile, &names).into_bytes(),
        })
    })
}

/// How many goroutines of a process of a target stand where, packed.
///
/// # Errors
///
/// If they can't be read: in words.
pub fn goroutine_profile(target: &str, of: &GoProcess, form: GoroutineForm) -> Result<Vec<u8>, String> {
    let target = target.to_owned();
    ask(of, move |program| {
        let (goroutines, names) = stack::named(program)?;
        let wish = export::Wish { system: false, now_ns: now_ns() };
        Ok(match form {
            GoroutineForm::Profile => go::goroutines(&goroutines, &names, &target, SystemTime::now()),
            GoroutineForm::Grouped => export::grouped(&goroutines, &names, &wish).into_bytes(),
            GoroutineForm::Text => export::text(&goroutines, &names, &wish).into_bytes(),
        })
    })
}

fn ask(
    of: &GoProcess,
    question: impl FnOnce(&mut GoProgram) -> Result<Vec<u8>, GoError> + Send + 'static,
) -> Result<Vec<u8>, String> {
    let (process, image, file) = (Arc::clone(&of.process), Arc::clone(&of.image), of.file);
    reader::once(PATIENCE, move || {
        let answer = GoProgram::open(process, image, file).and_then(|mut program| question(&mut program));
        answer.map_err(|error| error.to_string())
    })?
}
