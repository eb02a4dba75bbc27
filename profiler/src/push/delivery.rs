//! A batch until every line of it is stored or set aside.
//!
//! What is set aside (quarantined) was refused by itself, or named or counted as refused by a server of which all lines of a
//! request were refused. A line is sent again rather than believed to be stored: the same series and time overwrite.

use std::time::{Duration, Instant};

use super::policy::{Answer, Api, Meaning, meaning};

mod doubt;
mod pieces;

use doubt::Doubt;
use pieces::Piece;

/// Lines of one request (what InfluxData recommends for v1 and v2).
pub const MOST_LINES: usize = 5_000;
/// Bytes of one request before it is compressed.
pub const MOST_BYTES: usize = 1_000_000;
/// Requests of one delivery. What isn't done by then is handed back, so that others have their turn.
pub const MOST_REQUESTS: u64 = 200;
/// So many deliveries may end because the server fails (500) before lines are suspected.
const BROKEN_TRIES: u32 = 5;
/// So often in a row a delivery lets the server fail while it looks for the lines that are to blame.
const BROKEN_IN_A_ROW: u32 = 32;
/// After so many failures in a row it is looked elsewhere: lines that are alike fail together.
const ELSEWHERE: u32 = BROKEN_IN_A_ROW / 2;
/// So many deliveries in a row must be stored without any failure until a server is believed to fail on no lines any more.
const SELECTIVE: u32 = 32;
/// A server that is slow or full gets no smaller requests than this: one that can't take them is ill.
const SMALLEST: usize = 16_000;
/// After so many refusals in a row lines are sent one by one.
const ALL_BAD: u32 = 16;

/// Who can send lines. [`super::client::Client`] in earnest, a model in tests.
pub trait Wire {
    /// Sends lines, LF between them, nothing after the last.
    fn write(&mut self, lines: &str) -> Answer;
    /// What the last answer was written in. `None`: nothing was sent.
    fn api(&self) -> Option<Api>;
    /// The time. Tests have their own.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Lines that were acknowledged. More than none, with whatever outcome: the server took something a moment ago, so pauses
    /// begin anew with the shortest.
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
    /// Nothing that anybody has to wait for. The server is well: it stored what was sent beside these lines, and failed (500) on
    /// each of them, or on each request with some of them. Deliver them again with other lines, a minute later or more: before
    /// that a failure isn't counted, and without other lines that are stored it never is. After five that count a line is set
    /// aside.
    Doubtful {
        /// For people.
        reason: String,
        /// As above.
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

/// What is remembered from one delivery to the next. Nothing about batches: what is left of one comes again in other company.
#[derive(Debug)]
pub struct Delivery {
    /// Bytes of a request that the server takes, as far as is known.
    size: usize,
    /// How many deliveries ended because the server failed, since lines were suspected last. What was stored meanwhile clears
    /// nobody: a poisoned backlog waits beside new lines that are good.
    broken: u32,
    /// Above 0: the server was seen to fail on some lines and to store others.
    selective: u32,
    doubt: Doubt,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { size: MOST_BYTES, broken: 0, selective: 0, doubt: Doubt::default() }
    }
}

/// One call of [`Delivery::deliver`].
struct Run<'a> {
    lines: Vec<&'a str>,
    /// Whether a line was sent before.
    sent: Vec<bool>,
    /// What is to be sent; the last one is next.
    pieces: Vec<Piece>,
    /// Single lines that the server failed on, and its words.
    failed: Vec<(usize, String)>,
    /// There are lines to compare: several on which the server never failed by themselves.
    several: bool,
    /// It is looked for the lines that are to blame.
    bisects: bool,
    /// How often the server failed.
    broken: u32,
    /// The same, since something was stored.
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
    Broken(String),
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
        // What the server failed on before comes last, line by line, so that nothing else fails with it.
        let (known, others): (Vec<usize>, Vec<usize>) =
            (0..lines.len()).partition(|&at| self.doubt.has(lines[at]));
        let several = others.len() > 1;
        let mut pieces: Vec<Piece> = Piece::from(known).singles().collect();
        pieces.extend(Some(Piece::from(others)).filter(|others| others.len() > 0));
        let mut run = Run {
            sent: vec![false; lines.len()],
            pieces,
            lines,
            failed: Vec::new(),
            several,
            bisects: false,
            broken: 0,
            broken_in_a_row: 0,
            refused_in_a_row: 0,
            broke_off: 0,
            stored: 0,
            quarantined: 0,
            requests: 0,
            resent: 0,
        };
        let end = self.work(&mut run, wire, quarantine, progress);
        self.judge(&mut run, wire.now(), quarantine);
        self.close(run, end)
    }

    /// Until nothing is left, or there is a reason to stop.
    fn work(
        &mut self,
        run: &mut Run<'_>,
        wire: &mut dyn Wire,
        quarantine: &mut dyn FnMut(&str, &str),
        progress: &dyn Fn() -> bool,
    ) -> Option<End> {
        let size_before = self.size;
        while let Some(piece) = run.next() {
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
                    self.grow(first.bytes(&run.lines));
                    if first.len() == 1 {
                        self.doubt.forget(sent[0]);
                    }
                }
                Meaning::Rejected { all, reason, .. } if all || first.len() == 1 => {
                    self.set_aside(run, &first, &reason, quarantine);
                }
                Meaning::Rejected { lines: None, .. } if run.all_are_bad(&first) => {
                    run.pieces.extend(first.singles());
                }
                Meaning::Rejected { lines, .. } => run.pieces.extend(first.without(lines, &run.lines)),
                Meaning::TooLarge { reason } if first.len() == 1 => {
                    self.set_aside(run, &first, &reason, quarantine);
                }
                Meaning::TooLarge { .. } => {
                    self.size = (first.bytes(&run.lines) / 2).max(1);
                    run.pieces.push(first);
                }
                // An idle connection that had been closed; then, something on the way that takes only a little.
                Meaning::Later { broke_off: true, reason, at_least, .. } => {
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
                Meaning::Later { at_least, smaller, reason, .. } => {
                    if smaller {
                        self.size = self.size.min((first.bytes(&run.lines) / 2).max(SMALLEST));
                    }
                    run.pieces.push(first);
                    return Some(End::Later(Wait::Backoff(at_least), reason));
                }
                Meaning::Misconfigured { reason } => {
                    run.pieces.push(first);
                    return Some(End::Misconfigured(reason));
                }
                Meaning::Broken { reason } => {
                    if let Some(end) = self.broken(run, first, reason) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    /// The server failed. Once it has failed often enough, the lines that are to blame are looked for.
    fn broken(&mut self, run: &mut Run<'_>, piece: Piece, reason: String) -> Option<End> {
        run.broken += 1;
        run.broken_in_a_row += 1;
        run.bisects |= run.several && (self.selective > 0 || self.broken + 1 >= BROKEN_TRIES);
        // Of what is known to fail, one after the other may, behind others that were stored.
        let known = piece.single().is_some_and(|line| self.doubt.has(run.lines[line]));
        let goes_on = (run.bisects || (known && run.stored > 0)) && run.broken_in_a_row < BROKEN_IN_A_ROW;
        match piece.single() {
            Some(line) => run.failed.push((line, reason.clone())),
            None if goes_on => run.pieces.extend(piece.without(None, &run.lines)),
            None => run.pieces.push(piece),
        }
        if goes_on { None } else { Some(End::Broken(reason)) }
    }

    /// A failure on a single line counts if the server was well in this run: it stored others.
    fn judge(&mut self, run: &mut Run<'_>, now: Instant, quarantine: &mut dyn FnMut(&str, &str)) {
        if run.stored == 0 {
            return;
        }
        for (line, reason) in std::mem::take(&mut run.failed) {
            if self.doubt.failed(run.lines[line], now) {
                self.set_aside(run, &Piece::from(vec![line]), &reason, quarantine);
            } else {
                run.failed.push((line, reason));
            }
        }
    }

    fn set_aside(
        &mut self,
        run: &mut Run<'_>,
        piece: &Piece,
        reason: &str,
        quarantine: &mut dyn FnMut(&str, &str),
    ) {
        for index in piece.indexes() {
            quarantine(run.lines[index], reason);
            self.doubt.forget(run.lines[index]);
            run.quarantined += 1;
        }
    }

    /// What fits is tried a little larger next time: the limit may have been somebody else's for a while.
    fn grow(&mut self, stored: usize) {
        if stored >= self.size / 2 {
            self.size = (self.size + (self.size / 16).max(64)).min(MOST_BYTES);
        }
    }

    fn close(&mut self, run: Run<'_>, end: Option<End>) -> Delivered {
        let singles: Vec<usize> = run.failed.iter().map(|(line, _)| *line).collect();
        let mut left: Vec<usize> = run.pieces.iter().flat_map(Piece::indexes).collect();
        // Of a bisection that found others to be good, everything that was sent has failed if it is left.
        let suspect = |&at: &usize| (run.bisects && run.sent[at]) || self.doubt.has(run.lines[at]);
        let doubtful = run.stored > 0 && left.iter().all(suspect);
        let (found, ended_broken) = (!singles.is_empty(), matches!(end, Some(End::Broken(_))));
        left.extend(singles);
        left.sort_unstable();
        let rest = left.iter().map(|&at| run.lines[at]).collect::<Vec<_>>().join("\n");
        let words = run.failed.into_iter().next().map(|(_, reason)| reason);
        let outcome = match end {
            Some(End::Later(wait, reason)) => Outcome::Later { wait, reason, rest },
            Some(End::Misconfigured(reason)) => Outcome::Misconfigured { reason, rest },
            None if rest.is_empty() => Outcome::Done,
            None | Some(End::Broken(_)) => {
                let words = if let Some(End::Broken(words)) = end { Some(words) } else { words };
                let reason = words.unwrap_or_default();
                if doubtful {
                    let reason = format!("the server fails on some lines only: {reason}");
                    Outcome::Doubtful { reason, rest }
                } else {
                    Outcome::Later { wait: Wait::Backoff(None), reason, rest }
                }
            }
        };
        if run.bisects {
            self.broken = 0;
            self.selective = match run.stored {
                // It fails on everything, for now at least.
                0 => self.selective / 2,
                _ if found || matches!(outcome, Outcome::Doubtful { .. }) => SELECTIVE,
                _ => self.selective,
            };
        } else if run.several && run.broken == 0 && outcome == Outcome::Done {
            self.selective = self.selective.saturating_sub(1);
        } else if run.several && ended_broken && matches!(outcome, Outcome::Later { .. }) {
            self.broken += 1;
        }
        let Run { stored, quarantined, requests, resent, .. } = run;
        Delivered { stored, quarantined, requests, resent, outcome }
    }
}

impl Run<'_> {
    /// What is to be sent next. Where one piece after the other fails, that is the largest one.
    fn next(&mut self) -> Option<Piece> {
        if self.broken_in_a_row < ELSEWHERE {
            return self.pieces.pop();
        }
        let largest = (0..self.pieces.len()).max_by_key(|&at| self.pieces[at].len())?;
        Some(self.pieces.remove(largest))
    }

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
}

#[cfg(test)]
mod tests;
