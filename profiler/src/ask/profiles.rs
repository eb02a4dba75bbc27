//! Profiles of Go programs for `go tool pprof`: of the heap, as their runtime keeps it, and of their goroutines.

use std::{sync::Arc, time::SystemTime};

use super::{GoProgram, PATIENCE, stack};
use crate::{
    export::pprof::go,
    runtime::{go::GoError, reader},
    snapshot::GoProcess,
};

/// The profile that the runtime of a process of a target keeps of its heap, packed.
///
/// # Errors
///
/// If there is none, or it can't be read: in words.
pub fn heap_profile(target: &str, of: &GoProcess) -> Result<Vec<u8>, String> {
    let target = target.to_owned();
    ask(of, move |program| {
        let profile = program.heap_profile()?;
        let mut namer = stack::namer(program)?;
        let names = stack::names(program, &mut namer, go::heap_addresses(&profile));
        Ok(go::heap(&profile, &names, &target, SystemTime::now()))
    })
}

/// How many goroutines of a process of a target stand where, packed.
///
/// # Errors
///
/// If they can't be read: in words.
pub fn goroutine_profile(target: &str, of: &GoProcess) -> Result<Vec<u8>, String> {
    let target = target.to_owned();
    ask(of, move |program| {
        let (goroutines, names) = stack::named(program)?;
        Ok(go::goroutines(&goroutines, &names, &target, SystemTime::now()))
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
