//! What is told of the push, at one moment.

use std::time::{Duration, SystemTime};

/// Points and batches: what became of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PushFigures {
    /// The last request was answered as hoped.
    pub up: bool,
    /// What stands in the way, in words, if it takes somebody to mend it: credentials, a database that isn't there.
    pub trouble: Option<String>,
    /// Points that the server has acknowledged. One that is sent again counts again.
    pub stored: u64,
    /// Requests by outcome.
    pub requests: Requests,
    /// Batches that were sent again.
    pub retries: u64,
    /// Points that the server refuses for good: kept in the quarantine file.
    pub quarantined: u64,
    /// Points that were given up.
    pub dropped: Dropped,
    /// What the encoder left out: reason and count. All reasons are listed, also at zero.
    pub left_out: Vec<(&'static str, u64)>,
    /// Points that wait.
    pub backlog_points: u64,
    /// Their size on disk and in memory.
    pub backlog_bytes: u64,
    /// Age of the oldest of them.
    pub backlog_age: Duration,
    /// What waits in memory because the disk doesn't take it (or because there is no spool).
    pub memory_bytes: u64,
    /// How large the spool may get; `None`: there is none.
    pub spool_limit: Option<u64>,
    /// Batches that could not be written to the spool at the first attempt.
    pub spool_failures: u64,
    /// Windows that were not closed in time, or for which there were no new figures: what they would have told isn't known.
    pub missed_windows: u64,
    /// When the server acknowledged something last.
    pub last_success: Option<SystemTime>,
}

/// Requests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Acknowledged.
    pub stored: u64,
    /// The server can't read or doesn't take something in it.
    pub rejected: u64,
    /// Too large for the server.
    pub too_large: u64,
    /// The server is busy.
    pub busy: u64,
    /// Credentials, database, address: somebody must mend it.
    pub misconfigured: u64,
    /// The server failed.
    pub broken: u64,
    /// No answer: nobody there, too slow, torn off.
    pub unreachable: u64,
}

impl Requests {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.rejected += other.rejected;
        self.too_large += other.too_large;
        self.busy += other.busy;
        self.misconfigured += other.misconfigured;
        self.broken += other.broken;
        self.unreachable += other.unreachable;
    }

    /// Names and counts.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("stored", self.stored),
            ("rejected", self.rejected),
            ("too_large", self.too_large),
            ("busy", self.busy),
            ("misconfigured", self.misconfigured),
            ("broken", self.broken),
            ("unreachable", self.unreachable),
        ]
    }
}

/// Points that were given up, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The spool was full: the oldest go first.
    pub spool_full: u64,
    /// Older than the spool keeps.
    pub expired: u64,
    /// What was in the file isn't what was written.
    pub corrupt: u64,
    /// The disk didn't take them and memory was full: the oldest go first.
    pub memory_full: u64,
    /// One window alone is larger than the spool may be.
    pub unfit: u64,
    /// They were refused for good, and the quarantine file was full or could not be written.
    pub quarantine_full: u64,
}

impl Dropped {
    /// Names and counts.
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("spool_full", self.spool_full),
            ("expired", self.expired),
            ("corrupt", self.corrupt),
            ("memory_full", self.memory_full),
            ("unfit", self.unfit),
            ("quarantine_full", self.quarantine_full),
        ]
    }
}
