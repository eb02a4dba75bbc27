//! The layers of a Python interpreter: which places are probed in a process, and whether those are still the right ones.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use profiler_common::alloc::{AllocFunction, AllocSite, ONLY_COUNTED};
use thiserror::Error;

use super::{
    images::FileId,
    placed::{PlacedObject, PlacedSite, in_place, site_info},
};
use crate::{
    binary::{
        Image, Layer, SiteKind,
        python::{Bytes, Current, Domain, Python, PythonHook, table_pointers},
    },
    kernel::{Kernel, KernelError, Placement, SitePlan},
    snapshot::SiteInfo,
    target::{MappedObject, PinnedObject, Process},
    text::clean,
};

/// Probe sites of one Python, on average. Debian's, with copies of its functions at 521 places, needs 80: places at which
/// everything is alike share one.
pub(super) const SITES_PER_PYTHON: u32 = 96;
/// Probe sites of one Python, at most.
pub(super) const MAX_SITES: u32 = 2 * SITES_PER_PYTHON;

/// Places of one Python where probes are placed one by one: taking each away costs about a tenth of a second.
const MAX_SINGLE: usize = 64;

/// Why the layers of a Python aren't counted.
#[derive(Debug, Error)]
enum PythonError {
    /// There are more kinds of places than are counted.
    #[error("they take {sites} probe sites, more than {MAX_SITES}")]
    ManySites {
        /// How many.
        sites: usize,
    },
    /// There are more places than can be probed on this kernel.
    #[error(
        "they are called at {places} places, and this kernel takes probes away one by one, a tenth of a second each \
         (Linux 6.10 takes all away together)"
    )]
    ManyPlaces {
        /// How many.
        places: usize,
    },
    /// The kernel side fails.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// What is known of the Pythons of a process.
#[derive(Default)]
pub(super) struct PythonWatch {
    /// Why a file's layers aren't counted.
    left_out: Option<(FileId, String)>,
    /// The tables that must stay as they were when the places were chosen.
    tables: Vec<Tables>,
    /// Which of them have changed, in words.
    changed: Option<String>,
}

/// The allocators of a Python whose frees are counted in those allocators themselves.
struct Tables {
    id: FileId,
    /// A place in the file, and its virtual address there.
    anchor: (u64, u64),
    /// Where the pointers are and what they were; virtual addresses in the file.
    pointers: Vec<(u64, u64)>,
}

/// A mapped interpreter.
type Interpreter<'a> = (&'a MappedObject, &'a PinnedObject, &'a Image, &'a Python);

impl PythonWatch {
    /// Why Python's layers aren't counted, or not exactly.
    pub fn trouble(&self) -> Option<&str> {
        self.left_out.as_ref().map(|(_, reason)| reason).or(self.changed.as_ref()).map(String::as_str)
    }

    /// Places the probes of an interpreter. If that isn't possible its layers are left out: what the allocator below
    /// counts doesn't suffer.
    pub fn place(
        &mut self,
        kernel: &mut Kernel,
        process: &Process,
        interpreter: Interpreter<'_>,
        slot: u32,
    ) -> Option<PlacedObject> {
        let (object, _, _, python) = interpreter;
        let current = allocators(process, object, python);
        let hooks = python.choose(current);
        match place(kernel, process, interpreter, (&hooks, current), slot) {
            Ok(placed) => {
                self.left_out.take_if(|(id, _)| *id == placed.id);
                if hooks.iter().any(|hook| python.releases.contains(hook)) {
                    self.tables.extend(tables(process, object, python));
                }
                Some(placed)
            }
            Err(error) => {
                let reason = format!("the layers of {} are not counted: {error}", clean(&object.path));
                tracing::warn!("process {}: {reason}", process.pid());
                self.left_out = Some((object.id(), reason));
                None
            }
        }
    }

    /// Reads the tables again. Where a program has replaced an allocator, its frees no longer get to the place where they
    /// are counted.
    pub fn look_again(&mut self, process: &Process, objects: &[MappedObject]) {
        let find = |id: &FileId| objects.iter().find(|object| object.id() == *id);
        self.left_out.take_if(|(id, _)| find(id).is_none());
        self.tables.retain(|tables| find(&tables.id).is_some());
        let changed = self.tables.iter().any(|tables| {
            let bias = find(&tables.id).and_then(|object| bias(object, tables.anchor));
            bias.is_some_and(|bias| {
                tables.pointers.iter().any(|&(at, value)| {
                    let now = process.word_at(at.wrapping_add(bias));
                    now.is_some_and(|now| now.wrapping_sub(bias) != value)
                })
            })
        });
        self.changed = changed.then(|| {
            "Python's allocators were replaced while they were observed: unless that was tracemalloc, frees are missing in \
             its layers from then on"
                .to_owned()
        });
    }
}

/// The distance between addresses in memory and in the file.
fn bias(object: &MappedObject, (file_offset, address): (u64, u64)) -> Option<u64> {
    Some(object.address_of(file_offset)?.wrapping_sub(address))
}

fn anchor(python: &Python) -> Option<(u64, u64)> {
    let hook = &python.hooks.first()?.hook;
    Some((hook.site.file_offset, hook.address.wrapping_add(hook.site.offset)))
}

/// The pointers to one function, as they are now in a process: where they lie, and what they say; both as virtual
/// addresses in the file.
fn pointers(
    process: &Process,
    object: &MappedObject,
    python: &Python,
    function: AllocFunction,
) -> Vec<(Domain, u64, u64)> {
    let Some(bias) = anchor(python).and_then(|anchor| bias(object, anchor)) else { return Vec::new() };
    let of_function = table_pointers(python).into_iter().filter(|(_, other, _)| *other == function);
    of_function
        .filter_map(|(domain, _, at)| {
            let value = process.word_at(at.wrapping_add(bias))?;
            Some((domain, at, value.wrapping_sub(bias)))
        })
        .collect()
}

fn tables(process: &Process, object: &MappedObject, python: &Python) -> Option<Tables> {
    let pointers = pointers(process, object, python, AllocFunction::Free);
    let pointers = pointers.into_iter().map(|(_, at, value)| (at, value)).collect();
    Some(Tables { id: object.id(), anchor: anchor(python)?, pointers })
}

/// Which allocators an interpreter has now, in the order of [`Domain::ALL`].
pub fn allocators(process: &Process, object: &MappedObject, python: &Python) -> [Current; 3] {
    let mallocs = pointers(process, object, python, AllocFunction::Malloc);
    Domain::ALL.map(|domain| {
        let pointer = mallocs.iter().find(|(other, ..)| *other == domain);
        pointer.map_or(Current::Other, |&(_, _, malloc)| python.current(domain, malloc))
    })
}

/// Places that count together: everything about them is alike.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    layer: Layer,
    function: AllocFunction,
    op: u8,
    registers: [u8; 3],
    flags: u32,
    bytes: Bytes,
    /// The place itself, where calls of the allocator's own are subtracted.
    alone: Option<u64>,
}

impl Alike {
    fn of(python_hook: &PythonHook) -> Self {
        let PythonHook { hook, bytes, .. } = python_hook;
        let mut registers = hook.registers.map(|register| register as u8);
        // What isn't read makes no difference.
        registers[hook.op.arguments()..].fill(0);
        let alone = (!hook.internal_calls.is_empty()).then_some(hook.site.file_offset);
        let (layer, function) = (hook.layer, hook.function);
        Self { layer, function, op: hook.op as u8, registers, flags: hook.flags, bytes: *bytes, alone }
    }
}

fn place(
    kernel: &mut Kernel,
    process: &Process,
    (object, pinned, image, python): Interpreter<'_>,
    (hooks, current): (&[&PythonHook], [Current; 3]),
    slot: u32,
) -> Result<PlacedObject, PythonError> {
    let mut groups: BTreeMap<Alike, Vec<&PythonHook>> = BTreeMap::new();
    for hook in hooks {
        groups.entry(Alike::of(hook)).or_default().push(hook);
    }
    let mut plans = Vec::new();
    for (alike, members) in &groups {
        let Alike { op, registers, flags, .. } = *alike;
        // Its blocks stand on the allocator below, where they are sampled.
        let site = AllocSite { op, registers, flags: flags | ONLY_COUNTED, slot, reserved: 0 };
        // The allocator's own calls first: one that is seen at the function only would be taken for the program's.
        if alike.alone.is_some() {
            let calls = members.iter().flat_map(|member| &member.hook.internal_calls);
            // There the arguments are where the function expects them.
            let registers = members[0].hook.entry_registers.map(|register| register as u8);
            let file_offsets = calls.map(|call| call.file_offset).collect();
            plans.push(SitePlan { file_offsets, site: AllocSite { registers, ..site }, sampled: false });
        }
        let file_offsets = members.iter().map(|member| member.hook.site.file_offset).collect();
        plans.push(SitePlan { file_offsets, site, sampled: false });
    }
    if plans.len() > MAX_SITES as usize {
        return Err(PythonError::ManySites { sites: plans.len() });
    }
    let file_offsets: Vec<u64> = plans.iter().flat_map(|plan| &plan.file_offsets).copied().collect();
    if kernel.placement() == Placement::Single && file_offsets.len() > MAX_SINGLE {
        return Err(PythonError::ManyPlaces { places: file_offsets.len() });
    }
    let link = kernel.attach_alloc(process.pid(), &pinned.path(), &plans)?;
    let mut ids = link.sites().iter().copied();
    let mut sites = Vec::with_capacity(groups.len());
    let mut infos: BTreeMap<(Layer, AllocFunction), Arc<SiteInfo>> = BTreeMap::new();
    for alike in groups.keys() {
        let internal = if alike.alone.is_some() { ids.next() } else { None };
        let Some(own) = ids.next() else { break };
        let key = (alike.layer, alike.function);
        let info = infos.entry(key).or_insert_with(|| {
            let of_function =
                hooks.iter().copied().filter(|hook| (hook.hook.layer, hook.hook.function) == key);
            let mut info = info(process, object, image, &of_function.collect::<Vec<_>>());
            info.notes.extend(notes(python, current));
            Arc::new(info)
        });
        sites.push(PlacedSite::new(Arc::clone(info), own, internal, alike.bytes));
    }
    Ok(PlacedObject { id: object.id(), placed: Instant::now(), link, file_offsets, sites })
}

/// All places of a function in one.
fn info(process: &Process, object: &MappedObject, image: &Image, hooks: &[&PythonHook]) -> SiteInfo {
    let first = &hooks[0].hook;
    // The kernel has placed all of them or none.
    let seen = object.address_of(first.site.file_offset);
    let seen = seen.and_then(|address| in_place(process, address, first));
    let mut info = site_info(object, image, first, seen);
    if hooks.len() == 1 {
        return info;
    }
    let emulated = hooks.iter().filter(|hook| hook.hook.site.kind == SiteKind::Emulated).count();
    info.names = hooks.iter().flat_map(|hook| &hook.hook.names).map(|name| clean(name)).collect();
    info.names.sort_unstable();
    info.names.dedup();
    info.places = hooks.len();
    info.offset = 0;
    info.instruction = format!("{} places", hooks.len());
    info.kind = if emulated == hooks.len() { SiteKind::Emulated } else { SiteKind::SingleStepped };
    info.reason = format!(
        "wherever the interpreter's table of allocators is used: {emulated} of {} at instructions that the kernel emulates",
        hooks.len()
    );
    info.internal_calls = hooks.iter().map(|hook| hook.hook.internal_calls.len()).sum();
    info.notes = hooks.iter().flat_map(|hook| &hook.hook.notes).cloned().collect();
    info.notes.sort_unstable();
    info.notes.dedup();
    info
}

/// What isn't exact in an interpreter, and what the layers stand on.
fn notes(python: &Python, current: [Current; 3]) -> impl Iterator<Item = String> {
    let allocators = Domain::ALL.into_iter().zip(current).map(|(domain, current)| {
        format!("{} when the probes were placed: {}", domain.name(), current.meaning())
    });
    python.notes.iter().cloned().chain(allocators)
}
