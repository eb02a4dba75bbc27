//! What the session tells the hunt for leaks, and what it does for it: deciding where each process's samples come from, and
//! switching them on and off.
//!
//! A process is judged when its observation begins, and again whenever its program or what is known of its allocators has
//! changed. In between, an `execve` leaves it without samples of allocations: the kernel side switches them off at that very
//! moment, because the new program may be one whose returns must not be taken, and they come again with the first look at
//! the program that finds an allocator (1, 4 or 16 ms later). That a program has none is believed after 64 ms only.
//!
//! Without process events (in a pid namespace) nobody tells of an `execve`: sampling goes on as it was, and is judged again
//! when a look at the mapped files (every 30 seconds) finds something else. That is safe where returns are taken by choice:
//! probes sit in the C library's functions, which Go's programs call on stacks that are never moved.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
#[derive(Clone, Debug)]
pub struct HuntWish {
    /// Of allocations, where that can be done: one sample per `sample_bytes`.
    pub allocations: bool,
    /// Of pages, for processes whose allocations aren't sampled: one sample per so many bytes. Or why not; empty if nobody
    /// has asked for that.
    pub growth: Result<u64, String>,
    /// One sample per so many bytes.
    pub sample_bytes: u64,
    /// Where it may do harm, too, it was asked for: functions that throw when there is no memory (such an exception ends the
    /// program, if it comes out of a call that was chosen), and on kernels that take all returns of a function or none.
    pub risky: bool,
}

impl HuntWish {
    /// One sample per so many bytes, from this source.
    fn mean(&self, source: Source) -> u64 {
        match source {
            Source::Allocator | Source::Runtime => self.sample_bytes,
            Source::Growth => *self.growth.as_ref().unwrap_or(&self.sample_bytes),
        }
    }
}

/// A process, and what is sampled of it.
struct Judged {
    /// What it was judged by: its program, what is known of that, and whether its runtime tells of its own heap.
    by: Option<(u32, AllocState, bool)>,
    /// The program, and the cycle of its runtime's last profile, that was told.
    told: Option<(u32, u32)>,
    source: Result<Source, String>,
    not_sampled: Vec<&'static str>,
}

/// The line to the hunt; nobody is there at first.
#[derive(Default)]
pub(super) struct HuntLine {
    joined: Option<(Handle, HuntWish)>,
    /// By slot.
    judged: HashMap<u32, Judged>,
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
        let Some((handle, _)) = &self.joined else { return Ok(()) };
        let source = Err("its program has not been looked at yet".to_owned());
        handle.tell(Order::Begin(Subject {
            slot: watched.slot,
            epoch: kernel.epoch(watched.slot)?,
            process: Arc::clone(&watched.process),
            group: Arc::clone(&watched.group),
            source: source.clone(),
        }));
        let judged = Judged { by: None, told: None, source, not_sampled: Vec::new() };
        self.judged.insert(watched.slot, judged);
        // Afterwards: nobody would know whose the first samples are.
        self.judge(kernel, watched)
    }

    /// Decides (again) where a process's samples come from, if anything has changed that this depends on.
    pub fn judge(&mut self, kernel: &mut Kernel, watched: &Watched) -> Result<(), SessionError> {
        let (Some((handle, wish)), Some(judged)) = (&self.joined, self.judged.get_mut(&watched.slot)) else {
            return Ok(());
        };
        let slot = watched.slot;
        let epoch = kernel.epoch(slot)?;
        let Some(state) = watched.alloc.known(epoch) else { return Ok(()) };
        let tells = watched.go.heap_profile().is_some_and(Result::is_ok);
        let by = (epoch, state.clone(), tells);
        if judged.by.as_ref() == Some(&by) {
            return Ok(());
        }
        let mut source = if tells {
            // Every allocation of the program's own language; what cgo allocates isn't in it.
            Ok(Source::Runtime)
        } else {
            source(wish, kernel, (&watched.process, state), &mut self.programs)
        };
        if let Ok(Source::Growth) = source
            && let Err(error) = kernel.sample_pages(slot, Some(wish.mean(Source::Growth)))
        {
            source = Err(error.to_string());
        }
        let not_sampled = match source {
            Ok(Source::Allocator) => watched.alloc.not_sampled(),
            _ => Vec::new(),
        };
        if judged.source != source || judged.not_sampled != not_sampled {
            handle.tell(Order::Source(slot, source.clone(), not_sampled.clone()));
        }
        // After that, as above. The kernel side has switched it off if the program is another one.
        let sampling = match source {
            Ok(Source::Allocator) => Sampling::with_mean(wish.mean(Source::Allocator)),
            _ => Sampling::default(),
        };
        sample(kernel, slot, epoch, sampling)?;
        if source != Ok(Source::Growth) {
            kernel.sample_pages(slot, None)?;
        }
        judged.by = Some(by);
        (judged.source, judged.not_sampled) = (source, not_sampled);
        Ok(())
    }

    /// Tells of the heap profile that a process's runtime keeps, whenever it has published another one.
    pub fn tell_profile(&mut self, kernel: &mut Kernel, watched: &Watched) -> Result<(), SessionError> {
        self.judge(kernel, watched)?;
        let (Some((handle, _)), Some(judged)) = (&self.joined, self.judged.get_mut(&watched.slot)) else {
            return Ok(());
        };
        if let (Ok(Source::Runtime), Some(Ok(profile))) = (&judged.source, watched.go.heap_profile()) {
            let epoch = kernel.epoch(watched.slot)?;
            if judged.told.replace((epoch, profile.cycle)) == Some((epoch, profile.cycle)) {
                return Ok(());
            }
            handle.tell(Order::Profile(watched.slot, epoch, Arc::clone(profile), crate::kernel::now_ns()));
        }
        Ok(())
    }

    /// A process is not observed any more.
    pub fn end(&mut self, kernel: &mut Kernel, watched: &mut Watched) -> Result<(), SessionError> {
        if self.judged.remove(&watched.slot).is_some() {
            kernel.sample(watched.slot, Sampling::default())?;
            kernel.sample_pages(watched.slot, None)?;
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

/// Samples the allocations of one program, not those of the next one that takes its place in this very moment.
fn sample(kernel: &mut Kernel, slot: u32, epoch: u32, sampling: Sampling) -> Result<(), SessionError> {
    if kernel.epoch(slot)? == epoch {
        kernel.sample(slot, sampling)?;
        if kernel.epoch(slot)? != epoch {
            kernel.sample(slot, Sampling::default())?;
        }
    }
    Ok(())
}

/// Where the samples of a process come from, or why there are none.
fn source(
    wish: &HuntWish,
    kernel: &Kernel,
    (process, state): (&Process, &AllocState),
    programs: &mut ProgramCache,
) -> Result<Source, String> {
    let Some(reason) = obstacle(wish, kernel, (process, state), programs) else {
        return Ok(Source::Allocator);
    };
    match &wish.growth {
        Ok(_) => match kernel.obstacle_to_growth() {
            None => Ok(Source::Growth),
            Some(why) => Err(format!("{reason}; pages can't be sampled instead: {why}")),
        },
        Err(why) if why.is_empty() => Err(reason),
        Err(why) => Err(format!("{reason}; {why}")),
    }
}

/// What is in the way of sampling allocations.
fn obstacle(
    wish: &HuntWish,
    kernel: &Kernel,
    (process, state): (&Process, &AllocState),
    programs: &mut ProgramCache,
) -> Option<String> {
    if !wish.allocations {
        return Some("allocations are not sampled: not asked for".to_owned());
    }
    if let Returns::None(reason) = kernel.returns() {
        return Some(format!("allocations can't be sampled here: {reason}"));
    }
    match state {
        AllocState::Counting | AllocState::Partly(_) => (),
        AllocState::Off => return Some("allocations are not counted: not asked for".to_owned()),
        AllocState::NotCounting(reason) => return Some(reason.clone()),
    }
    harm_of_returns(process, programs)
}

/// Why no return of any function of a process may be taken.
pub(super) fn harm_of_returns(process: &Process, programs: &mut ProgramCache) -> Option<String> {
    if is_go(process, programs) {
        return Some("Go moves stacks, so that the returns of functions can't be observed there".to_owned());
    }
    shadow_stack(process)
}

/// A return address that isn't the one on the shadow stack ends the process, unless the kernel changes both (since 6.11).
fn shadow_stack(process: &Process) -> Option<String> {
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
