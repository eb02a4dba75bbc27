//! What the threads hand to each other.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::push::spool::BatchId;

/// Points of one window, encoded: whole lines.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// When the window was closed.
    pub time: SystemTime,
    /// It isn't sent from memory before that.
    pub after: Option<Instant>,
    /// Points: lines.
    pub points: u32,
    /// The lines.
    pub text: String,
}

/// What goes out in one go: batches that are on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Which.
    pub ids: Vec<BatchId>,
    /// Their points.
    pub points: u64,
    /// Their lines.
    pub text: String,
    /// The server fails on each of them: they go out beside others only, or it can't be told whose fault that is.
    pub doubtful: bool,
}

/// What the disk is to do for the sender, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Lines that the server refuses for good, and why.
    SetAside(Vec<(String, String)>),
    /// These are acknowledged.
    Remove(Vec<BatchId>),
    /// Of these, only the rest is to be sent. It is written before the others go.
    Replace(Vec<BatchId>, Batch),
}

/// What the disk is to do next.
#[derive(Debug)]
pub enum Work {
    /// An order of the sender.
    Carry(Order),
    /// Write this batch.
    Append(Arc<Batch>),
    /// Read what of the backlog goes out next; but not these.
    Read(Vec<BatchId>),
    /// Nothing for so long: look after the spool.
    Tend,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Far.
    #[default]
    Running,
    /// The last window is to be closed.
    Closing,
    /// The last window is closed: it is to be kept and sent, until then at most.
    Draining(Instant),
    /// Sending is over.
    Over,
}
