//! A batch until every line of it is stored or set aside.
//!
//! What is set aside (quarantined) was refused by itself, or named or counted as refused by a server of which all lines of a
//! request were refused. A line is sent again rather than believed to be stored: the same series and time overwrite.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    time::Duration,
};

use super::policy::{Answer, Api, Meaning, meaning};

mod pieces;

use pieces::Piece;

/// Lines of one request (what InfluxData recommends for v1 and v2).
pub const MOST_LINES: usize = 5_000;
/// Bytes of one request before it is compressed.
pub const MOST_BYTES: usize = 1_000_000;
/// Requests of one delivery. What isn't done by then is handed back, so that others have their turn.
pub const MOST_REQUESTS: u64 = 200;
/// So often the server may fail (500) on the same lines before they are suspected.
const BROKEN_TRIES: u32 = 5;
/// So often in a row a delivery lets the server fail while it looks for the line that is to blame.
const BROKEN_IN_A_ROW: u32 = 32;
/// After so many refusals in a row lines are sent one by one.
const ALL_BAD: u32 = 16;
/// Of so many batches and lines is remembered that the server failed on them.
const REMEMBERED: usize = 1_024;

/// Who can send lines. [`super::client::Client`] in earnest, a model in tests.
pub trait Wire {
    /// Sends lines, LF between them, nothing after the last.
    fn write(&mut self, lines: &str) -> Answer;
    /// What the last answer was written in. `None`: nothing was sent.
    fn api(&self) -> Option<Api>;
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Lines that were acknowledged.
    pub stored: u64,
    /// Lines that were set aside.
    pub quarantined: u64,
    /// Requests that were made.
    pub requests: u64,
    /// Lines that were sent again: of requests that were halved, bisected or broken off.
    pub resent: u64,
    /// What is left to do.
    pub outcome: Outcome,
}

/// What is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Done,
    /// To deliver `rest`.
    Later {
        /// After a while.
        wait: Wait,
        /// For people.
        reason: String,
        /// The lines that are neither acknowledged nor set aside, in their order. Deliver these: who delivers the whole batch again
        /// loses nothing, but sets the same lines aside once more.
        rest: String,
    },
    /// Nothing but lines on which the server fails, while it stores others: these are tried again in a minute, among others.
    Doubtful {
        /// For people.
        reason: String,
        /// These lines.
        rest: String,
    },
    /// To mend a setting, and to deliver `rest`, at [`super::policy::MISCONFIGURED`] intervals.
    Misconfigured {
        /// For people, with the way out.
        reason: String,
        /// As above.
        rest: String,
    },
}

/// When to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At once, after others had their turn: it worked, it wasn't finished.
    No,
    /// As [`super::policy::Backoff`] says, and not before this.
    Backoff(Option<Duration>),
}

/// What is remembered from one batch to the next.
#[derive(Debug)]
pub struct Delivery {
    /// Bytes of a request that the server takes, as far as is known.
    size: usize,
    /// Lines acknowledged, ever.
    stored: u64,
    /// By hash: what the server failed on, how often, and what was acknowledged by then.
    broken: HashMap<u64, (u32, u64)>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { size: MOST_BYTES, stored: 0, broken: HashMap::new() }
    }
}

/// One call of [`Delivery::deliver`].
struct Run<'a> {
    lines: Vec<&'a str>,
    /// Whether a line was sent before.
    sent: Vec<bool>,
    /// What is to be sent; the last one is next.
    pieces: Vec<Piece>,
    /// Single lines that the server failed on.
    doubtful: Vec<usize>,
    /// The server fails on the batch as a whole, often enough to look for the line.
    suspected: bool,
    broken_in_a_row: u32,
    /// Refusals, since something was stored.
    refused_in_a_row: u32,
    /// How often a request was broken off, since something was stored.
    broke_off: u32,
    stored: u64,
    quarantined: u64,
    requests: u64,
    resent: u64,
}

/// Why a run ends.
enum End {
    Later(Wait, String),
    Misconfigured(String),
}

impl Delivery {
    /// Delivers lines: splits what is more than one request, halves what is too large, bisects what is refused. Blank lines are
    /// nothing. `quarantine` gets a line and why; `progress` says, before each request, whether to go on.
    pub fn deliver(
        &mut self,
        wire: &mut dyn Wire,
        text: &str,
        quarantine: &mut dyn FnMut(&str, &str),
        progress: &dyn Fn() -> bool,
    ) -> Delivered {
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.trim().is_empty()).collect();
        let whole = hash(Of::Batch, &lines.join("\n"));
        let pieces = if lines.is_empty() { Vec::new() } else { vec![Piece::all(lines.len())] };
        let mut run = Run {
            sent: vec![false; lines.len()],
            pieces,
            lines,
            doubtful: Vec::new(),
            suspected: self.broken.get(&whole).is_some_and(|&(tries, _)| tries + 1 >= BROKEN_TRIES),
            broken_in_a_row: 0,
            refused_in_a_row: 0,
            broke_off: 0,
            stored: 0,
            quarantined: 0,
            requests: 0,
            resent: 0,
        };
        let end = self.work(&mut run, whole, wire, quarantine, progress);
        self.close(run, whole, end)
    }

    /// Until nothing is left, or there is a reason to stop.
    fn work(
        &mut self,
        run: &mut Run<'_>,
        whole: u64,
        wire: &mut dyn Wire,
        quarantine: &mut dyn FnMut(&str, &str),
        progress: &dyn Fn() -> bool,
    ) -> Option<End> {
        let size_before = self.size;
        while let Some(piece) = run.pieces.pop() {
            let (first, rest) = piece.limited(&run.lines, MOST_LINES, self.size);
            run.pieces.extend(rest);
            if !progress() || run.requests >= MOST_REQUESTS {
                run.pieces.push(first);
                // Who has only refused so far gets a rest.
                let only_refused = run.requests > 0 && run.stored == 0;
                let wait = if only_refused { Wait::Backoff(None) } else { Wait::No };
                return Some(End::Later(wait, "stopped before it was done".to_owned()));
            }
            let sent = first.lines(&run.lines);
            let answer = run.send(wire, &first, &sent);
            // An answer that nobody asked for in any dialect can't be an acknowledgement.
            let api = wire.api().unwrap_or(Api::V1);
            match meaning(api, &answer, &sent) {
                Meaning::Stored => {
                    run.acknowledge(sent.len());
                    self.stored += sent.len() as u64;
                    self.grow(first.bytes(&run.lines));
                    if first.len() == 1 {
                        self.broken.remove(&hash(Of::Line, sent[0]));
                    }
                }
                Meaning::Rejected { all, reason, .. } if all || first.len() == 1 => {
                    run.set_aside(&first, &reason, quarantine);
                }
                Meaning::Rejected { lines: None, .. } if run.all_are_bad(&first) => {
                    run.pieces.extend(first.singles());
                }
                Meaning::Rejected { lines, .. } => run.pieces.extend(first.without(lines, &run.lines)),
                Meaning::TooLarge { reason } if first.len() == 1 => {
                    run.set_aside(&first, &reason, quarantine);
                }
                Meaning::TooLarge { .. } => {
                    self.size = (first.bytes(&run.lines) / 2).max(1);
                    run.pieces.push(first);
                }
                // An idle connection that had been closed; then, something on the way that takes only a little.
                Meaning::Later { broke_off: true, reason, at_least } => {
                    run.broke_off += 1;
                    match run.broke_off {
                        1 => {}
                        2 if first.len() > 1 => self.size = (first.bytes(&run.lines) / 8).max(1),
                        _ => {
                            self.size = if run.stored == 0 { size_before } else { self.size };
                            run.pieces.push(first);
                            return Some(End::Later(Wait::Backoff(at_least), reason));
                        }
                    }
                    run.pieces.push(first);
                }
                Meaning::Later { at_least, reason, .. } => {
                    run.pieces.push(first);
                    return Some(End::Later(Wait::Backoff(at_least), reason));
                }
                Meaning::Misconfigured { reason } => {
                    run.pieces.push(first);
                    return Some(End::Misconfigured(reason));
                }
                Meaning::Broken { reason } => {
                    if let Some(end) = self.broken(run, first, whole, reason, quarantine) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    /// The server failed. Once it has failed often enough on the batch, the line that is to blame is looked for.
    fn broken(
        &mut self,
        run: &mut Run<'_>,
        piece: Piece,
        whole: u64,
        reason: String,
        quarantine: &mut dyn FnMut(&str, &str),
    ) -> Option<End> {
        run.broken_in_a_row += 1;
        let single = piece.single();
        if let Some(line) = single {
            // A failure counts if the server was well in between: it stored something since the last one.
            let tries = self.count_if_well(hash(Of::Line, run.lines[line]));
            if tries >= BROKEN_TRIES {
                self.broken.remove(&hash(Of::Line, run.lines[line]));
                run.set_aside(&piece, &reason, quarantine);
                return None;
            }
        }
        if !run.suspected && run.lines.len() > 1 {
            self.count(whole);
            run.pieces.push(piece);
            return Some(End::Later(Wait::Backoff(None), reason));
        }
        if run.broken_in_a_row >= BROKEN_IN_A_ROW {
            run.pieces.push(piece);
            return Some(End::Later(Wait::Backoff(None), reason));
        }
        match single {
            Some(line) => run.doubtful.push(line),
            None => run.pieces.extend(piece.without(None, &run.lines)),
        }
        None
    }

    fn count(&mut self, what: u64) {
        self.make_room();
        self.broken.entry(what).or_insert((0, self.stored)).0 += 1;
    }

    fn count_if_well(&mut self, what: u64) -> u32 {
        self.make_room();
        let entry = self.broken.entry(what).or_insert((0, u64::MAX));
        if entry.1 != self.stored {
            *entry = (entry.0 + 1, self.stored);
        }
        entry.0
    }

    /// Forgetting costs a few more tries.
    fn make_room(&mut self) {
        if self.broken.len() >= REMEMBERED {
            self.broken.clear();
        }
    }

    /// What fits is tried a little larger next time: the limit may have been somebody else's for a while.
    fn grow(&mut self, stored: usize) {
        if stored >= self.size / 2 {
            self.size = (self.size + (self.size / 16).max(64)).min(MOST_BYTES);
        }
    }

    fn close(&mut self, run: Run<'_>, whole: u64, end: Option<End>) -> Delivered {
        let mut left: Vec<usize> = run.pieces.iter().flat_map(Piece::indexes).chain(run.doubtful).collect();
        left.sort_unstable();
        let rest = left.iter().map(|&at| run.lines[at]).collect::<Vec<_>>().join("\n");
        let outcome = match end {
            Some(End::Later(wait, reason)) => Outcome::Later { wait, reason, rest },
            Some(End::Misconfigured(reason)) => Outcome::Misconfigured { reason, rest },
            None if rest.is_empty() => Outcome::Done,
            None => {
                let reason = "the server fails on single lines".to_owned();
                Outcome::Later { wait: Wait::Backoff(None), reason, rest }
            }
        };
        // What is left of a suspected batch is suspected.
        let suspicion = self.broken.remove(&whole);
        if let (Outcome::Later { rest, .. } | Outcome::Misconfigured { rest, .. }, Some(suspicion)) =
            (&outcome, suspicion)
            && left.len() > 1
        {
            self.broken.insert(hash(Of::Batch, rest), suspicion);
        }
        let Run { stored, quarantined, requests, resent, .. } = run;
        Delivered { stored, quarantined, requests, resent, outcome }
    }
}

impl Run<'_> {
    fn send(&mut self, wire: &mut dyn Wire, piece: &Piece, lines: &[&str]) -> Answer {
        for index in piece.indexes() {
            self.resent += u64::from(std::mem::replace(&mut self.sent[index], true));
        }
        self.requests += 1;
        wire.write(&lines.join("\n"))
    }

    /// Whether halving is a waste, because each half is refused as well.
    fn all_are_bad(&mut self, piece: &Piece) -> bool {
        self.refused_in_a_row += 1;
        self.refused_in_a_row > ALL_BAD && piece.len() <= ALL_BAD as usize * 4
    }

    fn acknowledge(&mut self, lines: usize) {
        self.stored += lines as u64;
        self.broken_in_a_row = 0;
        self.refused_in_a_row = 0;
        self.broke_off = 0;
    }

    fn set_aside(&mut self, piece: &Piece, reason: &str, quarantine: &mut dyn FnMut(&str, &str)) {
        for index in piece.indexes() {
            quarantine(self.lines[index], reason);
            self.quarantined += 1;
        }
    }
}

/// A batch of one line isn't that line: they are counted by different rules.
#[derive(Hash)]
enum Of {
    Batch,
    Line,
}

fn hash(of: Of, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
