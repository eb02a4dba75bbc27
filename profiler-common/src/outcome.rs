//! Everything that can be lost or go wrong in the kernel, one counter each.

/// One slot of the `OUTCOMES` map. Exported as `profiler_events_lost_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// A probe fired with a cookie that names no site. Never expected; means kernel and user side disagree.
    UnknownSite = 0,
    /// The `THREADS` map was full: a new thread of a target is missing from the ledger.
    ThreadsFull = 1,
    /// An event's timestamp lay before the thread's last one (clocks of two CPUs disagree); taken as zero length.
    ClockBackwards = 2,
    /// A thread left a CPU although no event had shown it coming: its wait before is counted as running.
    SwitchNotSeen = 4,
    /// A thread ended but the sums of its target could not be found.
    RetiredUnknown = 3,
    /// The `PROCESS_EVENTS` ring was full: a fork, a replaced program or an end wasn't told.
    EventsFull = 5,
    /// A program break was moved, but where it was before had not been kept: the call began before its process was
    /// followed, or `BREAKS` was full. It is missing from the counts of `brk`.
    BreakUnknown = 6,
    /// The `SAMPLES` ring was full: a sample wasn't told, or the end of one. What has ended all the same isn't in
    /// `LIVE_SAMPLES` any more.
    SamplesFull = 7,
    /// `LIVE_SAMPLES` was full: a block that was chosen isn't sampled.
    LiveSamplesFull = 8,
    /// A stop of a Go program's world was seen without its beginning or without its end: it isn't counted. One may be when
    /// the probes are placed.
    StopUnpaired = 9,
}

impl Outcome {
    /// Every outcome, in the order of its slots.
    pub const ALL: [Self; 10] = [
        Self::UnknownSite,
        Self::ThreadsFull,
        Self::ClockBackwards,
        Self::RetiredUnknown,
        Self::SwitchNotSeen,
        Self::EventsFull,
        Self::BreakUnknown,
        Self::SamplesFull,
        Self::LiveSamplesFull,
        Self::StopUnpaired,
    ];

    /// The value of the `reason` label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::UnknownSite => "unknown_site",
            Self::ThreadsFull => "threads_full",
            Self::ClockBackwards => "clock_backwards",
            Self::RetiredUnknown => "retired_unknown",
            Self::SwitchNotSeen => "switch_not_seen",
            Self::EventsFull => "events_full",
            Self::BreakUnknown => "break_unknown",
            Self::SamplesFull => "samples_full",
            Self::LiveSamplesFull => "live_samples_full",
            Self::StopUnpaired => "stop_unpaired",
        }
    }
}
