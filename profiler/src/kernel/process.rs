//! What happens to whole processes: which ones are watched, and the events that the kernel side sends.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use profiler_common::process::{
    COMM_LENGTH, FOLLOW_FORKS, ProcessEvent, ProcessEventKind, SCOPE_ALL, SCOPE_TARGETS, TargetEntry,
};

use super::{Kernel, KernelError, Probes, Raw, loader::map_error, sys::Point};

/// Whose events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventScope {
    /// Those of watched processes.
    Targets,
    /// Those of all processes.
    All,
}

/// Something has happened to a process. Ids are those of the initial pid namespace; `at_ns` is the time as of
/// [`super::now_ns`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process has made another one.
    Fork {
        /// The process that made it; not its parent if it was asked to be its sibling (`CLONE_PARENT`).
        parent: u32,
        /// The new one.
        child: u32,
        /// When.
        at_ns: u64,
    },
    /// A process has replaced its program (`execve`).
    Exec {
        /// The process.
        pid: u32,
        /// Its new name: `comm`, not checked for what is in it.
        comm: String,
        /// Whether its main thread did. If another thread did, the kernel has left the probes of its links behind: they
        /// have to be placed again.
        by_main_thread: bool,
        /// When.
        at_ns: u64,
    },
    /// The last thread of a process has ended. May come twice on kernels before 6.16.
    Exit {
        /// The process.
        pid: u32,
        /// How, as `wait` tells it: what its last thread ended with.
        status: u32,
        /// When.
        at_ns: u64,
    },
    /// A target has loaded or unloaded objects ([`Kernel::attach_loader`]). None follows before [`Kernel::clear_loaded`].
    Loaded {
        /// The process.
        pid: u32,
        /// Its slot, as told when the probe was placed.
        slot: u32,
        /// When.
        at_ns: u64,
    },
}

impl Event {
    /// Reads an entry of the ring buffer; `None` if it isn't one.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let event = parse(bytes)?;
        let (pid, at_ns) = (event.pid, event.at_ns);
        Some(match ProcessEventKind::from_number(event.kind)? {
            ProcessEventKind::Fork => Self::Fork { parent: event.other, child: pid, at_ns },
            ProcessEventKind::Exec => {
                let end = event.comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LENGTH);
                let comm = String::from_utf8_lossy(&event.comm[..end]).into_owned();
                Self::Exec { pid, comm, by_main_thread: event.other == pid, at_ns }
            }
            ProcessEventKind::Exit => Self::Exit { pid, status: event.other, at_ns },
            ProcessEventKind::Loaded => Self::Loaded { pid, slot: event.slot, at_ns },
        })
    }
}

/// The record, if the bytes are as long as one.
fn parse(bytes: &[u8]) -> Option<ProcessEvent> {
    if bytes.len() != size_of::<ProcessEvent>() {
        return None;
    }
    let (words, comm) = bytes.split_at(size_of::<ProcessEvent>() - COMM_LENGTH);
    let word = |n: usize| Some(u32::from_ne_bytes(words.get(4 * n..4 * n + 4)?.try_into().ok()?));
    Some(ProcessEvent {
        kind: word(0)?,
        pid: word(1)?,
        other: word(2)?,
        slot: word(3)?,
        at_ns: u64::from_ne_bytes(words.get(16..24)?.try_into().ok()?),
        comm: comm.try_into().ok()?,
    })
}

/// Reads the events. Its descriptor can be polled: readable means that there are some.
pub struct EventReader(RingBuf<MapData>);

impl EventReader {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// The next event; `None` if there is none now.
    #[expect(clippy::should_implement_trait, reason = "there may be more after a None")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let entry = self.0.next()?;
            // Never expected to be anything else: the kernel side writes whole records only.
            if let Some(event) = Event::decode(&entry) {
                return Some(event);
            }
        }
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The probe on a process's dynamic linker. It goes away when this is dropped.
#[expect(dead_code, reason = "held, so that the probe stays")]
pub struct LoaderLink(pub(super) Probes);

impl Kernel {
    /// Whether the kernel side tells what happens to processes. If not, [`Kernel::epoch`] stands still, no event ever comes,
    /// and watching a process does nothing.
    pub const fn has_events(&self) -> bool {
        self.events
    }

    /// The events, once. `None` the second time, or without [`Kernel::has_events`].
    pub const fn take_events(&mut self) -> Option<EventReader> {
        self.event_reader.take()
    }

    /// Chooses whose events are told. Before, nobody's are: a ring that nobody reads would only fill.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn scope_events(&mut self, scope: EventScope) -> Result<(), KernelError> {
        let number = match scope {
            EventScope::Targets => SCOPE_TARGETS,
            EventScope::All => SCOPE_ALL,
        };
        self.event_scope.set(0, number, 0).map_err(|source| map_error("EVENT_SCOPE", source))
    }

    /// From now on this process is a target: its events are told (forks if asked for), `execve` moves the epoch of `slot`,
    /// and threads that it starts are followed under `slot`. Ends with the process.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn watch_process(&mut self, pid: u32, slot: u32, follow_forks: bool) -> Result<(), KernelError> {
        if !self.events {
            return Ok(());
        }
        let entry = TargetEntry { slot, flags: if follow_forks { FOLLOW_FORKS } else { 0 } };
        self.targets.insert(pid, Raw(entry), 0).map_err(|source| map_error("TARGETS_BY_PID", source))
    }

    /// This process is no longer a target, if it still is one under this slot: its id may belong to another one by now.
    pub fn unwatch_process(&mut self, pid: u32, slot: u32) {
        if self.targets.get(&pid, 0).is_ok_and(|entry| entry.0.slot == slot) {
            // Not there is as good as removed.
            let _removed = self.targets.remove(&pid);
        }
    }

    /// Places a probe on the function that a process's dynamic linker calls when it has changed the list of loaded objects
    /// (`_dl_debug_state`): [`Event::Loaded`] will come with this slot.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn attach_loader(
        &mut self,
        pid: u32,
        file: &Path,
        file_offset: u64,
        slot: u32,
    ) -> Result<LoaderLink, KernelError> {
        self.clear_loaded(slot)?;
        let point = Point { file_offset, cookie: u64::from(slot) };
        self.place("loaded", pid, file, &[point]).map(LoaderLink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as the kernel side lays it out: four words, a long one, sixteen bytes.
    fn entry(words: [u32; 4], at_ns: u64, comm: &[u8; 16]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.extend(at_ns.to_ne_bytes());
        bytes.extend(comm);
        bytes
    }

    #[test]
    fn every_kind_of_event_is_read_as_it_was_written() {
        let zeroes = [0; 16];
        let cases = [
            (entry([1, 12, 7, 0], 5, &zeroes), Event::Fork { parent: 7, child: 12, at_ns: 5 }),
            (
                entry([2, 12, 12, 0], 6, b"redis-server\0\0\0\0"),
                Event::Exec { pid: 12, comm: "redis-server".to_owned(), by_main_thread: true, at_ns: 6 },
            ),
            (
                entry([2, 12, 15, 0], 6, b"sixteen-letters!"),
                Event::Exec { pid: 12, comm: "sixteen-letters!".to_owned(), by_main_thread: false, at_ns: 6 },
            ),
            (
                entry([3, 12, 139, 0], u64::MAX, &zeroes),
                Event::Exit { pid: 12, status: 139, at_ns: u64::MAX },
            ),
            (entry([4, 12, 0, 3], 8, &zeroes), Event::Loaded { pid: 12, slot: 3, at_ns: 8 }),
        ];
        for (bytes, event) in cases {
            assert_eq!(Event::decode(&bytes), Some(event));
        }
    }

    #[test]
    fn what_is_no_event_is_left_out() {
        let good = entry([1, 12, 7, 0], 5, &[0; 16]);
        for length in 0..good.len() {
            assert_eq!(Event::decode(&good[..length]), None, "{length} bytes");
        }
        assert_eq!(Event::decode(&[good, vec![0]].concat()), None);
        for kind in [0, 5, u32::MAX] {
            assert_eq!(Event::decode(&entry([kind, 1, 1, 1], 5, &[0; 16])), None, "kind {kind}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_no_trouble() {
        let bytes = entry([2, 1, 1, 0], 5, &[0xff; 16]);
        assert!(
            matches!(Event::decode(&bytes), Some(Event::Exec { comm, .. }) if comm.chars().count() == 16)
        );
    }
}
