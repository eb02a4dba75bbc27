//! What happens to whole processes: they fork, replace their program, load libraries, end.

use crate::{Record, sample::Sampling};

/// What has happened. Number of [`ProcessEvent::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ProcessEventKind {
    /// A process has made another one.
    Fork = 1,
    /// A process has replaced its program (`execve`).
    Exec = 2,
    /// The last thread of a process has ended.
    Exit = 3,
    /// The dynamic linker of a target has changed the list of loaded objects (`dlopen`, `dlclose`).
    Loaded = 4,
}

impl ProcessEventKind {
    /// The kind with this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Fork),
            2 => Some(Self::Exec),
            3 => Some(Self::Exit),
            4 => Some(Self::Loaded),
            _ => None,
        }
    }
}

/// The length of a thread's name in the kernel, with the zero at its end (`TASK_COMM_LEN`).
pub const COMM_LENGTH: usize = 16;

/// One entry of the ring buffer `PROCESS_EVENTS`. Process and thread ids are those of the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessEvent {
    /// A [`ProcessEventKind`] as number.
    pub kind: u32,
    /// The process. Fork: the new one.
    pub pid: u32,
    /// Fork: the process that made it. Exec: the id that the calling thread had before, which differs from `pid` if it
    /// wasn't the main thread. Exit: how it ended, as `wait` tells it. Else zero.
    pub other: u32,
    /// Loaded: the target's slot. Else zero.
    pub slot: u32,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Exec: the new name, padded with zeroes. Else zeroes.
    pub comm: [u8; COMM_LENGTH],
}

/// `EVENT_SCOPE`: nothing is told, as nobody reads it.
pub const SCOPE_NOBODY: u32 = 0;
/// `EVENT_SCOPE`: events of processes in `TARGETS_BY_PID` only.
pub const SCOPE_TARGETS: u32 = 1;
/// `EVENT_SCOPE`: forks, replaced programs and ends of all processes.
pub const SCOPE_ALL: u32 = 2;

/// A process that is a target. Value of the `TARGETS_BY_PID` map; the key is the process id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TargetEntry {
    /// The target's slot.
    pub slot: u32,
    /// Bits: [`FOLLOW_FORKS`].
    pub flags: u32,
}

/// The forks of this process are told although not everybody's are.
pub const FOLLOW_FORKS: u32 = 1 << 0;

/// A target's switches. Value of the `SWITCHES` map; the key is the slot.
///
/// The user side has the map in its memory and writes single members, so neither side overwrites what the other has
/// written meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Switches {
    /// 1 while calls are counted. Written by the user side.
    pub on: u32,
    /// How often a process of this slot has replaced its program: counts go to bank `epoch & 1`. Written by the kernel side,
    /// when no other thread of the process exists.
    pub epoch: u32,
    /// 1 from a [`ProcessEventKind::Loaded`] event until the user side has begun to handle it; no further one meanwhile.
    pub loaded: u32,
    /// First touches of its pages are sampled: one is chosen if 32 random bits are below this; zero: none, [`u32::MAX`]: all
    /// are. Written by the user side.
    pub growth: u32,
    /// How its allocations are sampled. Written by the user side, one member after the other: in between, blocks are sampled
    /// with another probability for an instant, which is told with each sample. The kernel side sets the rate to zero when the
    /// process replaces its program: nobody has judged the new one.
    pub sampling: Sampling,
}

// SAFETY: all are repr(C) of integers without padding (see the assertions).
unsafe impl Record for ProcessEvent {}
// SAFETY: as above.
unsafe impl Record for TargetEntry {}
// SAFETY: as above.
unsafe impl Record for Switches {}

const _: () = assert!(size_of::<ProcessEvent>() == 40);
const _: () = assert!(size_of::<TargetEntry>() == 8);
const _: () = assert!(size_of::<Switches>() == 32);
