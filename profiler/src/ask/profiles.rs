//! Profiles of Go programs for `go tool pprof`: of the heap, as their runtime keeps it, and of their goroutines.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use super::{GoProgram, PATIENCE, stack::stacks};
use crate::{
    export::pprof::go,
    runtime::{
        go::{
            heap_profile::runtime_frames,
            names::{CodeAddress, Namer},
        },
        reader,
    },
    snapshot::GoProcess,
    stack::Frame,
    worker::Limits,
};

/// The profile that the runtime of a process keeps of its heap, packed.
///
/// # Errors
///
/// If there is none, or it can't be read: in words.
pub fn heap_profile(of: &GoProcess) -> Result<Vec<u8>, String> {
    ask(of, |program| {
        let profile = program.heap_profile().map_err(|error| error.to_string())?;
        let mut wanted: Vec<CodeAddress> =
            profile.records.iter().flat_map(|record| &record.stack).map(|at| CodeAddress::Return(*at)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let frames = names(program, &wanted)?;
        let stacks: Vec<Vec<Frame>> = profile
            .records
            .iter()
            .map(|record| {
                let all: Vec<Frame> =
                    record.stack.iter().filter_map(|at| frames.get(&CodeAddress::Return(*at)).cloned()).collect();
                let own = runtime_frames(all.iter().map(|frame| {
                    frame.functions.first().map_or("", |function| &*function.name)
                }));
                all.into_iter().skip(own).collect()
            })
            .collect();
        Ok(go::heap(&profile, &stacks, SystemTime::now()))
    })
}

/// How many goroutines of a process stand where, packed.
///
/// # Errors
///
/// If they can't be read: in words.
pub fn goroutine_profile(of: &GoProcess) -> Result<Vec<u8>, String> {
    ask(of, |program| {
        let stacks = stacks(program).map_err(|error| error.to_string())?;
        let mut counts: BTreeMap<Vec<_>, (Vec<Frame>, u64)> = BTreeMap::new();
        for named in stacks.list.into_iter().filter(|named| !named.goroutine.system) {
            let key = named.goroutine.stack.clone();
            counts.entry(key).or_insert_with(|| (named.frames, 0)).1 += 1;
        }
        Ok(go::goroutines(&counts.into_values().collect::<Vec<_>>(), SystemTime::now()))
    })
}

/// Each address with the one function that it stands for: the runtime has taken inlined ones apart.
fn names(program: &GoProgram, wanted: &[CodeAddress]) -> Result<HashMap<CodeAddress, Frame>, String> {
    let mut namer = Namer::new(&program.process, Limits::default()).map_err(|error| error.to_string())?;
    let frames = namer.names(&program.process, wanted).into_iter().map(|mut frame| {
        frame.functions.truncate(1);
        frame
    });
    Ok(wanted.iter().copied().zip(frames).collect())
}

fn ask(
    of: &GoProcess,
    question: impl FnOnce(&mut GoProgram) -> Result<Vec<u8>, String> + Send + 'static,
) -> Result<Vec<u8>, String> {
    let (process, image, file) = (Arc::clone(&of.process), Arc::clone(&of.image), of.file);
    reader::once(PATIENCE, move || {
        let mut program = GoProgram::open(process, image, file).map_err(|error| error.to_string())?;
        question(&mut program)
    })?
}
