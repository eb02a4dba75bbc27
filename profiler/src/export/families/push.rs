//! The families of the push to InfluxDB.

use super::Families;
use crate::{export::catalogue as c, snapshot::Snapshot};

/// What the snapshot knows of it, if anything is pushed.
pub(super) fn push(out: &mut Families, snapshot: &Snapshot) {
    let Some(figures) = &snapshot.push else { return };
    out.flag(&c::INFLUX_UP, &[], figures.up);
    out.count(&c::INFLUX_POINTS, &[], figures.stored);
    for (outcome, count) in figures.requests.named() {
        out.count(&c::INFLUX_REQUESTS, &[outcome], count);
    }
    out.count(&c::INFLUX_RETRIES, &[], figures.retries);
    out.count(&c::INFLUX_QUARANTINED, &[], figures.quarantined);
    for (reason, count) in figures.dropped.named() {
        out.count(&c::INFLUX_DROPPED, &[reason], count);
    }
    for (reason, count) in &figures.left_out {
        out.count(&c::INFLUX_LEFT_OUT, &[reason], *count);
    }
    out.count(&c::INFLUX_BACKLOG_POINTS, &[], figures.backlog_points);
    out.count(&c::INFLUX_BACKLOG_BYTES, &[], figures.backlog_bytes);
    out.value(&c::INFLUX_BACKLOG_AGE, &[], figures.backlog_age.as_secs_f64());
    out.count(&c::INFLUX_MEMORY_BYTES, &[], figures.memory_bytes);
    if let Some(limit) = figures.spool_limit {
        out.count(&c::INFLUX_SPOOL_LIMIT, &[], limit);
    }
    out.count(&c::INFLUX_SPOOL_FAILURES, &[], figures.spool_failures);
    out.count(&c::INFLUX_MISSED, &[], figures.missed_windows);
    if let Some(at) = figures.last_success {
        // A clock before 1970 has no time to tell.
        let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        out.value(&c::INFLUX_LAST_SUCCESS, &[], since.as_secs_f64());
    }
}
