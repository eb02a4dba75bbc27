//! What the session tells the hunt for leaks, and what it does for it: switching sampling on and off.

use std::{collections::HashSet, sync::Arc, time::Duration};

use profiler_common::sample::Sampling;

use super::{SessionError, process::Watched};
use crate::{
    hunt::{Death, Handle, Order, Subject},
    kernel::{Kernel, Returns},
    leaks::{Picture, Source},
    snapshot::AllocState,
    target::{Process, ProcessFacts, ProgramCache, Runtime},
    worker,
};

/// The picture at the end is worth this wait: functions are named for it.
const LAST_PICTURE: Duration = Duration::from_secs(30);

/// What samples are wanted.
#[derive(Clone, Copy, Debug)]
pub struct HuntWish {
    /// Of allocations, where that can be done.
    pub allocations: bool,
    /// Of pages, for processes whose allocations aren't sampled.
    pub growth: bool,
    /// One sample per so many bytes.
    pub sample_bytes: u64,
}

/// The line to the hunt; nobody is there at first.
#[derive(Default)]
pub(super) struct HuntLine {
    joined: Option<(Handle, HuntWish)>,
    /// Slots whose allocations are sampled: as often as is wished, unless the hunt wants less.
    sampled: HashSet<u32>,
    programs: ProgramCache,
    /// The last picture, once it has been made.
    last: Option<Arc<Picture>>,
}

impl HuntLine {
    pub fn join(&mut self, handle: Handle, wish: HuntWish) {
        self.joined = Some((handle, wish));
    }

    pub fn tell(&self, order: Order) {
        if let Some((handle, _)) = &self.joined {
            handle.tell(order);
        }
    }

    /// A process is observed from now on: says so, and switches sampling on.
    pub fn begin(&mut self, kernel: &mut Kernel, watched: &Watched) -> Result<(), SessionError> {
        let Some((handle, wish)) = &self.joined else { return Ok(()) };
        let source = source(*wish, kernel, watched, &mut self.programs);
        let epoch = kernel.epoch(watched.slot)?;
        handle.tell(Order::Begin(Subject {
            slot: watched.slot,
            epoch,
            process: Arc::clone(&watched.process),
            group: Arc::clone(&watched.group),
            source: source.clone(),
        }));
        if source == Ok(Source::Allocator) {
            // Afterwards: nobody would know whose the first samples are.
            kernel.sample(watched.slot, Sampling::with_mean(wish.sample_bytes))?;
            self.sampled.insert(watched.slot);
        }
        Ok(())
    }

    /// A process is not observed any more.
    pub fn end(&mut self, kernel: &mut Kernel, watched: &mut Watched) -> Result<(), SessionError> {
        if self.sampled.remove(&watched.slot) {
            kernel.sample(watched.slot, Sampling::default())?;
        }
        let death = watched.has_ended().then(|| watched.end().unwrap_or(Death::Unknown));
        self.tell(Order::End(watched.slot, death));
        Ok(())
    }

    /// Everything stands still: the picture of this moment is the last one.
    pub fn last_look(&mut self) {
        if let Some((handle, _)) = &self.joined {
            self.last = Some(handle.fresh(LAST_PICTURE));
        }
    }

    /// What the worker has been through.
    pub fn worker(&self) -> Option<worker::Figures> {
        self.joined.as_ref().map(|(handle, _)| handle.worker())
    }

    /// The newest picture.
    pub fn picture(&self) -> Option<Arc<Picture>> {
        let (handle, _) = self.joined.as_ref()?;
        Some(self.last.as_ref().map_or_else(|| handle.latest(), Arc::clone))
    }
}

/// Where the samples of a process come from, or why there are none.
fn source(
    wish: HuntWish,
    kernel: &Kernel,
    watched: &Watched,
    programs: &mut ProgramCache,
) -> Result<Source, String> {
    let obstacle = obstacle(wish, kernel, watched, programs);
    match obstacle {
        None => Ok(Source::Allocator),
        Some(_) if wish.growth => Ok(Source::Growth),
        Some(reason) => Err(reason),
    }
}

/// What is in the way of sampling allocations.
fn obstacle(
    wish: HuntWish,
    kernel: &Kernel,
    watched: &Watched,
    programs: &mut ProgramCache,
) -> Option<String> {
    if !wish.allocations {
        return Some("allocations are not sampled: not asked for".to_owned());
    }
    if let Returns::None(reason) = kernel.returns() {
        return Some(format!("allocations can't be sampled here: {reason}"));
    }
    match watched.alloc.state() {
        AllocState::Counting | AllocState::Partly(_) => (),
        AllocState::Off => return Some("allocations are not counted: not asked for".to_owned()),
        AllocState::NotCounting(reason) => return Some(reason.clone()),
    }
    if is_go(&watched.process, programs) {
        return Some("Go moves stacks, so that the returns of functions can't be observed there".to_owned());
    }
    has_shadow_stack(&watched.process, kernel)
}

/// A return address that isn't the one on the shadow stack ends the process, unless the kernel changes both (since 6.11).
fn has_shadow_stack(process: &Process, _kernel: &Kernel) -> Option<String> {
    let has_one = process.has_shadow_stack().unwrap_or(false);
    (has_one && crate::kernel::Facts::gather().version() < (6, 11)).then(|| {
        "it runs with a shadow stack, which this kernel can't observe the returns of functions with (Linux 6.11 can)"
            .to_owned()
    })
}

fn is_go(process: &Process, programs: &mut ProgramCache) -> bool {
    let Ok(mut facts) = ProcessFacts::read(process.pid()) else { return false };
    let program = facts.program(programs);
    let objects = process.mapped_objects().unwrap_or_default();
    matches!(facts.runtime(program.as_ref(), &objects), Runtime::Go(_))
}
