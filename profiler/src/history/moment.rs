//! Moments as people name them.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use thiserror::Error;

/// A moment of a history, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The first that is kept.
    First,
    /// The last.
    Last,
    /// That long before now.
    Ago(Duration),
    /// That one.
    At(SystemTime),
}

/// It is no moment.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no moment: write 2026-11-22T14:03:12Z, -2h, first or last")]
pub struct MomentError(String);

impl Moment {
    /// Which time is meant. `range`: the first moment and the last one.
    pub fn resolve(self, range: (SystemTime, SystemTime), now: SystemTime) -> SystemTime {
        match self {
            Self::First => range.0,
            Self::Last => range.1,
            Self::Ago(time) => now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let wrong = || MomentError(text.to_owned());
        match text {
            "first" => return Ok(Self::First),
            "last" => return Ok(Self::Last),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix('-') {
            return Ok(Self::Ago(crate::cli::args::parse_duration(ago).map_err(|_| wrong())?));
        }
        let (time, east) = offset(text).ok_or_else(wrong)?;
        let time = humantime::parse_rfc3339_weak(time).map_err(|_| wrong())?;
        let seconds = Duration::from_secs(u64::from(east.unsigned_abs()) * 60);
        let moment = if east < 0 { time.checked_add(seconds) } else { time.checked_sub(seconds) };
        moment.map(Self::At).ok_or_else(wrong)
    }
}

/// The time without its offset from UTC, and the offset in minutes: humantime knows `Z` only. Without any, UTC is meant.
fn offset(text: &str) -> Option<(&str, i32)> {
    let Some(at) = text.len().checked_sub(6).filter(|at| *at > "2026-11-22T".len()) else {
        return Some((text, 0));
    };
    let Some((time, offset)) = text.split_at_checked(at) else { return Some((text, 0)) };
    let sign = match offset.as_bytes() {
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Some((text, 0)),
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let number = |digits: &str| {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i32>().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some((time, sign * (hours * 60 + minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn moments_are_read_as_rfc_3339_and_as_people_say_them() {
        // date -u -d 2026-11-22T14:03:12Z +%s
        for (text, moment) in [
            ("2026-11-22T14:03:12Z", at(1_795_356_192)),
            ("2026-11-22 14:03:12", at(1_795_356_192)),
            ("2026-11-22T14:03:12+02:00", at(1_795_348_992)),
            ("2026-11-22T14:03:12-00:30", at(1_795_357_992)),
            ("first", Moment::First),
            ("last", Moment::Last),
            ("-2h", Moment::Ago(Duration::from_secs(7200))),
            ("-90", Moment::Ago(Duration::from_secs(90))),
        ] {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "-",
            "--1h",
            "14:03",
            "2026-11-22T14:03:12+2:00",
            "2026-11-22T14:03:12+99:00",
            "ä",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_resolved_against_what_is_kept() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let range = (time(100), time(200));
        assert_eq!(Moment::First.resolve(range, time(300)), time(100));
        assert_eq!(Moment::Last.resolve(range, time(300)), time(200));
        assert_eq!(Moment::Ago(Duration::from_secs(50)).resolve(range, time(300)), time(250));
    }
}
