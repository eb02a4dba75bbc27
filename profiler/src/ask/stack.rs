//! `profiler stack`: what every goroutine does, as a panic would print it.

use std::{
    collections::{BTreeSet, HashMap},
    process::ExitCode,
};

use serde::Serialize;

use super::{GoProgram, ask, go_program, print, print_json};
use crate::{
    export::goroutines::{self as export, Named},
    kernel::now_ns,
    runtime::go::{
        GoError,
        goroutines::{self, Goroutine},
        names::{CodeAddress, Namer},
    },
    stack::Frame,
    worker::Limits,
};

/// Starts that are users' although their names begin as the runtime's own do (Go's src/runtime/traceback.go,
/// `isSystemGoroutine`).
const USER_STARTS: [&str; 3] = ["runtime.main", "runtime.handleAsyncEvent", "runtime.corostart"];

/// How goroutines are shown.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Equal stacks once.
    pub group: bool,
    /// The runtime's own, too.
    pub system: bool,
    /// For programs.
    pub json: bool,
}

/// All goroutines of a process, named, at one moment.
pub struct Stacks {
    /// By id.
    pub list: Vec<Named>,
    /// The runtime's clock then.
    pub now_ns: u64,
    torn: u64,
    left_out: u64,
}

/// Prints the stacks of a Go program's goroutines.
///
/// # Errors
///
/// If the process is no Go program, or its goroutines can't be read.
pub fn stack(pid: u32, wish: Wish) -> anyhow::Result<ExitCode> {
    let (version, stacks) = ask(pid, move || {
        let program = go_program(pid)?;
        Ok((program.image.version.clone(), stacks(&program)?))
    })?;
    let Stacks { list, now_ns, torn, left_out } = stacks;
    if wish.json {
        #[derive(Serialize)]
        struct Answer<T> {
            pid: u32,
            version: String,
            goroutines: T,
            torn: u64,
            left_out: u64,
        }
        let goroutines = export::told(&list, now_ns, wish.system);
        return print_json(&Answer { pid, version, goroutines, torn, left_out });
    }
    let mut text = if wish.group {
        export::grouped(&list, now_ns, wish.system)
    } else {
        export::text(&list, now_ns, wish.system)
    };
    if left_out > 0 {
        text.push_str(&format!("and {left_out} more, which were not read\n"));
    }
    Ok(print(&text))
}

/// Reads and names all goroutines.
///
/// # Errors
///
/// If they can't be read.
pub fn stacks(program: &GoProgram) -> Result<Stacks, GoError> {
    let runtime = &program.runtime;
    let now = now_ns();
    let mut read = goroutines::read(runtime.memory(), runtime.places(), runtime.bias())?;
    let gone = |error: crate::target::TargetError| GoError::Memory(error.to_string());
    let mut namer = Namer::new(&program.process, Limits::default()).map_err(gone)?;
    let wanted: BTreeSet<CodeAddress> = read.list.iter().flat_map(addresses).collect();
    let wanted: Vec<CodeAddress> = wanted.into_iter().collect();
    let frames = namer.names(&program.process, &wanted);
    let names: HashMap<CodeAddress, Frame> = wanted.into_iter().zip(frames).collect();
    let name = |address: CodeAddress| names.get(&address).cloned();
    for goroutine in &mut read.list {
        goroutine.system = name(CodeAddress::Exact(goroutine.start)).is_some_and(|frame| is_system(&frame));
    }
    let named = |goroutine: Goroutine| Named {
        frames: stack_of(&goroutine).filter_map(name).collect(),
        created: goroutine.created_by.and_then(|(at, _)| name(CodeAddress::Return(at))),
        goroutine,
    };
    let list = read.list.into_iter().map(named).collect();
    Ok(Stacks { list, now_ns: now, torn: read.torn, left_out: read.left_out })
}

fn stack_of(goroutine: &Goroutine) -> impl Iterator<Item = CodeAddress> {
    let exact = goroutine.first_is_exact;
    let address = move |(number, address): (usize, &u64)| {
        if number == 0 && exact { CodeAddress::Exact(*address) } else { CodeAddress::Return(*address) }
    };
    goroutine.stack.iter().enumerate().map(address)
}

fn addresses(goroutine: &Goroutine) -> impl Iterator<Item = CodeAddress> {
    let created = goroutine.created_by.map(|(at, _)| CodeAddress::Return(at));
    stack_of(goroutine).chain(created).chain([CodeAddress::Exact(goroutine.start)])
}

/// By the name of its first function.
fn is_system(start: &Frame) -> bool {
    let Some(function) = start.functions.last() else { return false };
    function.name.starts_with("runtime.") && !USER_STARTS.contains(&&*function.name)
}
