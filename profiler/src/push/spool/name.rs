//! What a batch is called.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A batch's name. The order is that in which batches were appended, whatever the clock said meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Higher than that of every batch that was there before.
    pub sequence: u32,
    /// When it was appended: nanoseconds since 1970 by the clock of then. Its age is told by this.
    pub time_ns: u64,
    /// How many points it has.
    pub points: u32,
}

const SUFFIX: &str = ".lp.gz";
const BAD: &str = ".bad";

impl BatchId {
    /// When it was appended, by the clock of then.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.time_ns)
    }

    /// Its file: by name, files are in the order of their times.
    pub(super) fn name(self) -> String {
        format!("{:020}-{:010}-{}{SUFFIX}", self.time_ns, self.sequence, self.points)
    }

    /// Its file if it was damaged.
    pub(super) fn bad_name(self) -> String {
        self.name() + BAD
    }

    /// The batch of a file; `None` if it is called otherwise, be it by a digit.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let id = Self {
            time_ns: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
            points: parts.next()?.parse().ok()?,
        };
        (id.name() == name).then_some(id)
    }

    /// The batch of a file that was set aside.
    pub(super) fn of_bad_name(name: &str) -> Option<Self> {
        Self::of_name(name.strip_suffix(BAD)?)
    }
}

/// Nanoseconds since 1970, within what a name can say: until the year 2554.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_twenty_and_ten_digits_and_the_points() {
        let id = BatchId { sequence: 7, time_ns: 1_700_000_000_000_000_000, points: 4096 };
        assert_eq!(id.name(), "01700000000000000000-0000000007-4096.lp.gz");
        let last = BatchId { sequence: u32::MAX, time_ns: u64::MAX, points: u32::MAX };
        assert_eq!(last.name(), "18446744073709551615-4294967295-4294967295.lp.gz");
        for id in [id, last, BatchId { sequence: 0, time_ns: 0, points: 0 }] {
            assert_eq!(BatchId::of_name(&id.name()), Some(id));
            assert_eq!(BatchId::of_bad_name(&id.bad_name()), Some(id));
            assert_eq!(BatchId::of_name(&id.bad_name()), None);
            assert_eq!(BatchId::of_bad_name(&id.name()), None);
        }
    }

    #[test]
    fn what_is_called_otherwise_is_no_batch() {
        let unknown = [
            "",
            "lock",
            "append.tmp",
            ".lp.gz",
            "1700000000000000000-0000000007-4096.lp.gz",
            "01700000000000000000-0000000007-04096.lp.gz",
            "01700000000000000000-0000000007-+4096.lp.gz",
            "+1700000000000000000-0000000007-4096.lp.gz",
            "01700000000000000000-0000000007-4096-1.lp.gz",
            "01700000000000000000-0000000007-4096.lp.gz.bad.bad",
            "01700000000000000000-0000000007-4096.lp",
            "99999999999999999999-0000000007-4096.lp.gz",
            "01700000000000000000-9999999999-4096.lp.gz",
            "01700000000000000000-0000000007-4096.LP.GZ",
            " 01700000000000000000-0000000007-4096.lp.gz",
        ];
        for name in unknown {
            assert_eq!(BatchId::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn times_that_no_name_can_say_are_the_nearest_that_one_can() {
        assert_eq!(nanoseconds(UNIX_EPOCH - Duration::from_secs(5)), 0);
        assert_eq!(nanoseconds(UNIX_EPOCH + Duration::from_secs(5)), 5_000_000_000);
        assert_eq!(nanoseconds(UNIX_EPOCH + Duration::from_secs(1 << 40)), u64::MAX);
    }
}
