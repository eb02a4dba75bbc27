//! What is different where a garbage collector tells what lives: nobody knows an object's age, only how many there are after
//! each collection; and what lives is pointed to, else it would have been freed. docs/leaks.md, "What a runtime tells".

use super::super::{
    Stay, Window,
    trend::{Arrival, Course},
    wording::rate,
};

/// Objects that came between two readings are spread over that time, in so many parts at most.
const PARTS: u64 = 8;
/// Nearly all objects are taken to live no longer than so many times the mean: for lives with an exponential tail, all but
/// 0.03 %.
const TIMES_THE_MEAN: f64 = 8.0;
/// A site that frees less than this part of what it allocates is no matter of load: what comes stays.
const FREED_UNDER_LOAD: f64 = 0.5;
/// Load is a possible cause if it explains this part of the growth.
const EXPLAINED: f64 = 0.5;

/// Until there are readings to compare.
pub(super) const NOT_YET: &str = "its garbage collector has not run often enough since the watch began: its profile is published when it runs (every 2 min at the latest, unless that is switched off), and growth is counted from the second time on";

/// What stays, evenly spread over the time in which it came.
pub(super) fn arrivals(stay: &Stay) -> impl Iterator<Item = Arrival> {
    let parts = stay.n.clamp(1, PARTS);
    let length = stay.to_ns.saturating_sub(stay.from_ns);
    let (from_ns, n, bytes) = (stay.from_ns, stay.n as f64 / parts as f64, stay.weight * stay.size as f64);
    (0..parts).map(move |part| {
        let within = length as f64 * (part as f64 + 0.5) / parts as f64;
        Arrival { at_ns: from_ns.saturating_add(within as u64), bytes, n }
    })
}

/// How far what lives is above what will live at the least from then on, on average since a moment: by so much the
/// ends of a course are uncertain, as what comes and goes is not what stays.
fn unrest(since_ns: u64, windows: &[Window]) -> f64 {
    let mut least = f64::INFINITY;
    let (mut sum, mut seconds) = (0.0, 0.0);
    for window in windows.iter().rev().take_while(|window| window.end_ns > since_ns) {
        let live = window.live_at_end.bytes;
        let length = window.end_ns.saturating_sub(window.begin_ns) as f64 / 1e9;
        least = least.min(live);
        sum += (live - least) * length;
        seconds += length;
        least = least.min(window.floor.bytes);
    }
    if seconds > 0.0 { sum / seconds } else { 0.0 }
}

/// Makes the interval of a rate wide enough for what comes and goes.
pub(super) fn widen(course: &mut Course, windows: &[Window]) {
    let seconds = course.until_ns.saturating_sub(course.since_ns).max(1) as f64 / 1e9;
    let more = unrest(course.since_ns, windows) / seconds;
    let rate = &mut course.rate;
    rate.low = (rate.value - (rate.value - rate.low).hypot(more)).max(0.0);
    rate.high = rate.value + (rate.high - rate.value).hypot(more);
}

/// Nearly all objects live no longer than this, as power of two of nanoseconds: the mean life is what lives divided by what
/// comes (Little 1961), whatever the order in which it goes.
pub(super) fn nearly_all(windows: &[Window]) -> usize {
    let (mut live, mut came) = (0.0, 0.0);
    for window in windows {
        live += window.live_at_end.bytes * window.end_ns.saturating_sub(window.begin_ns) as f64;
        came += window.allocated.bytes;
    }
    if came <= 0.0 { 62 } else { (TIMES_THE_MEAN * live / came).max(1.0).log2().ceil().min(62.0) as usize }
}

/// Whether more lives because more is allocated (and freed): what lives is then in proportion to what is allocated per second.
pub(super) fn may_be_load(course: &Course, windows: &[Window]) -> bool {
    let last_ns = windows.last().map_or(0, |window| window.end_ns);
    let middle_ns = u64::midpoint(course.since_ns, last_ns);
    // Seconds, bytes allocated, byte-seconds alive: of both halves.
    let (mut halves, mut freed) = ([[0.0_f64; 3]; 2], 0.0);
    for window in windows.iter().filter(|window| window.begin_ns >= course.since_ns) {
        let seconds = window.end_ns.saturating_sub(window.begin_ns) as f64 / 1e9;
        let half = &mut halves[usize::from(window.begin_ns >= middle_ns)];
        half[0] += seconds;
        half[1] += window.allocated.bytes;
        half[2] += window.live_at_end.bytes * seconds;
        freed += window.freed.bytes;
    }
    let [first, second] = halves;
    let came = first[1] + second[1];
    if freed < FREED_UNDER_LOAD * came || first[0] <= 0.0 || second[0] <= 0.0 || first[1] <= 0.0 {
        return false;
    }
    let more_load = (second[1] / second[0]) / (first[1] / first[0]) - 1.0;
    let (before, after) = (first[2] / first[0], second[2] / second[0]);
    before * more_load >= EXPLAINED * (after - before)
}

/// Why it is called leaking.
pub(super) fn leaking(how_long: &str) -> String {
    format!(
        "after each garbage collection more of it lives, {how_long}, without slowing down: it is still referenced, or the collector would have freed it; a cache that takes longer than that to fill would look the same"
    )
}

/// Why it isn't. `until`: what would make it so.
pub(super) fn growing(how_long: &str, may_be_load: bool, until: &str) -> String {
    let lives = format!("after each garbage collection more of it lives, {how_long}");
    if may_be_load {
        return format!("{lives}; it is also allocated faster than before, so it may be load");
    }
    format!(
        "{lives}; it is still referenced, or the collector would have freed it: a cache or a collection that fills{until}"
    )
}

/// Why it is steady.
pub(super) fn steady(most: f64) -> String {
    format!(
        "no more of it lives after each garbage collection; if anything, it grows by less than {}",
        rate(most)
    )
}
