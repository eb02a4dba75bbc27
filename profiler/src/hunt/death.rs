//! How a process has ended, for people.

use std::fmt;

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It has ended; how is not known.
    Unknown,
    /// It has ended by itself, with this code.
    Exited(u8),
    /// This signal has ended it.
    Killed(u8),
}

impl Death {
    /// Of what `wait` tells (wait(2): the signal in the low seven bits, else the code in the next byte).
    pub const fn of_status(status: u32) -> Self {
        match status.to_le_bytes() {
            [low, code, ..] if low & 0x7f == 0 => Self::Exited(code),
            [low, ..] => Self::Killed(low & 0x7f),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => formatter.write_str("nobody knows how"),
            Self::Exited(code) => write!(formatter, "exited with code {code}"),
            Self::Killed(signal) => match name(*signal) {
                Some(name) => write!(formatter, "killed by signal {signal} ({name})"),
                None => write!(formatter, "killed by signal {signal}"),
            },
        }
    }
}

/// Signals that end programs; their numbers are those of x86-64 and arm64 (signal(7)).
const fn name(signal: u8) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_as_a_shell_would_understand_it() {
        let of = |status| Death::of_status(status).to_string();
        assert_eq!(of(0), "exited with code 0");
        assert_eq!(of(0x100), "exited with code 1");
        assert_eq!(of(9), "killed by signal 9 (SIGKILL)");
        // With a core dump.
        assert_eq!(of(0x8b), "killed by signal 11 (SIGSEGV)");
        assert_eq!(of(34), "killed by signal 34");
    }
}
