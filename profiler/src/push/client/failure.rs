//! Why a request came to nothing.

use std::io::{self, ErrorKind};

use super::super::policy::Failure;

/// Sorts the errors of `ureq`.
pub(super) fn of(error: &ureq::Error) -> Failure {
    use ureq::Error;
    match error {
        Error::Io(error) => of_io(error),
        Error::Timeout(what @ (ureq::Timeout::Resolve | ureq::Timeout::Connect)) => {
            Failure::Unreachable(format!("no connection in time ({what})"))
        }
        Error::Timeout(what) => Failure::Timeout(what.to_string()),
        Error::HostNotFound => Failure::Dns,
        Error::ConnectionFailed => Failure::Unreachable("no connection".to_owned()),
        Error::ConnectProxyFailed(why) => Failure::Unreachable(format!("the proxy refuses: {why}")),
        Error::Rustls(error) => Failure::Tls(error.to_string()),
        Error::Tls(error) => Failure::Tls((*error).to_owned()),
        Error::TlsRequired => Failure::Tls("no TLS".to_owned()),
        Error::Protocol(error) => Failure::NotHttp(error.to_string()),
        Error::LargeResponseHeader(..) => Failure::HeaderTooLarge,
        error => Failure::Other(error.to_string()),
    }
}

fn of_io(error: &io::Error) -> Failure {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout("no bytes".to_owned()),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::NotConnected
        | ErrorKind::WriteZero => Failure::Reset(text),
        // What rustls refuses comes as data that are invalid.
        ErrorKind::InvalidData => Failure::Tls(text),
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable => Failure::Unreachable(text),
        _ => Failure::Other(text),
    }
}
