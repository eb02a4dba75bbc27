//! What an answer of a server means. Pure. The facts are measured (docs: research, "InfluxDB write semantics").

use std::time::{Duration, SystemTime};

use crate::text;

mod body;

/// A server that asks for a longer pause isn't obeyed.
pub const LONGEST_WISH: Duration = Duration::from_secs(600);
/// How long nothing is sent while somebody has to mend a setting.
pub const MISCONFIGURED: Duration = Duration::from_secs(60);
/// Bytes of a server's words that people are shown.
const SHOWN: usize = 200;

/// A generation of InfluxDB's HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/write`, user and password. VictoriaMetrics and others speak it as well.
    V1,
    /// `/api/v2/write`, organisation, bucket and token.
    V2,
    /// `/api/v3/write_lp`, token.
    V3,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens, or no way leads there.
    Unreachable(String),
    /// The name of the machine isn't known.
    Dns,
    /// There was a connection, but no answer within the time allowed.
    Timeout(String),
    /// The connection ended before there was a status: while sending, or before the answer.
    Reset(String),
    /// The certificate isn't trusted, or it isn't TLS at all.
    Tls(String),
    /// What came back isn't HTTP.
    NotHttp(String),
    /// More header than anybody reads.
    HeaderTooLarge,
    /// The file with the password or token can't be used.
    Credentials(String),
    /// It answers, but not as any InfluxDB does: nothing is sent to it.
    NotInflux(String),
    /// Anything else.
    Other(String),
}

/// What came back for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, fully read, or why there is none.
    pub result: Result<u16, Failure>,
    /// How long the server wants to be left alone, if it says so.
    pub retry_after: Option<Duration>,
    /// Where it would rather have us.
    pub location: Option<String>,
    /// The beginning of the body, as text.
    pub body: String,
}

impl Answer {
    /// No answer, for a reason.
    pub fn failed(failure: Failure) -> Self {
        Self { result: Err(failure), retry_after: None, location: None, body: String::new() }
    }
}

/// What is to be done about an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// All lines are stored.
    Stored,
    /// Lines were refused for good.
    Rejected {
        /// All of them.
        all: bool,
        /// Which of them (0 is the first), if the server says so and it can be true: some, in order, each once.
        lines: Option<Vec<usize>>,
        /// The server's words.
        reason: String,
    },
    /// Fewer bytes would do.
    TooLarge {
        /// The server's words.
        reason: String,
    },
    /// The same again, but not at once.
    Later {
        /// As the server wishes, at most [`LONGEST_WISH`].
        at_least: Option<Duration>,
        /// It broke while it was sent: it may have been too large for somebody who doesn't say so.
        broke_off: bool,
        /// It took longer than anybody waits, or was more than there is room for now: fewer bytes may do.
        smaller: bool,
        /// For people.
        reason: String,
    },
    /// Somebody has to change a setting, here or there.
    Misconfigured {
        /// For people, with the way out.
        reason: String,
    },
    /// The server says that it failed, or refuses for a reason that isn't known to be the lines: something may be wrong there, or
    /// these lines may be. Which, shows when other lines are stored and these still aren't.
    Broken {
        /// The server's words.
        reason: String,
    },
}

/// What an answer means for the lines that were sent.
pub fn meaning(api: Api, answer: &Answer, lines: &[&str]) -> Meaning {
    let status = match &answer.result {
        Ok(status) => *status,
        Err(failure) => return without_answer(failure, lines.len()),
    };
    let words = body::words(&answer.body);
    let reason = say(status, &words.short);
    let smaller = matches!(status, 408 | 504) || body::is_timeout(&words.text) || body::is_full(&words.text);
    let later = |reason| Meaning::Later { at_least: answer.retry_after, broke_off: false, smaller, reason };
    let misconfigured = |way_out: &str| Meaning::Misconfigured { reason: format!("{reason}: {way_out}") };
    match status {
        204 => Meaning::Stored,
        // A page of a portal is no acknowledgement, nor is a failure with a friendly status.
        200..=299 if words.is_failure || words.is_page => misconfigured("this is no InfluxDB; see --influx"),
        200..=299 => Meaning::Stored,
        300..=399 => {
            let to = answer.location.as_deref().map_or("nowhere".to_owned(), |to| text::clean_to(to, SHOWN));
            let reason =
                format!("HTTP {status}: the server redirects to {to}; give the final address (--influx)");
            Meaning::Misconfigured { reason }
        }
        400 | 413 | 422 | 500 if status == 413 || speaks_of_size(&words.text) => Meaning::TooLarge { reason },
        400 | 422 if speaks_of_databases(&words.text) => {
            misconfigured("the server takes no further database; create it or raise the limit")
        }
        // Lines of known series are stored; which of them are, nobody says. Sending all again changes nothing.
        400 | 422 if body::speaks_of_series(&words.text) => misconfigured(
            "the server takes no new series; raise or lift that limit in its configuration, or drop series",
        ),
        // The database, the organisation, the request: anything but lines, or lines in words that nobody has heard yet.
        400 | 422 if words.is_failure && !words.is_about_lines => Meaning::Broken { reason },
        400 | 422 if words.is_failure => {
            let lines_named = body::named(api, &words, lines);
            let all = body::dropped(&words.text) == Some(lines.len())
                || lines_named.as_ref().is_some_and(|named| named.len() == lines.len());
            Meaning::Rejected { all, lines: lines_named, reason }
        }
        // A proxy, a TLS port, half an answer: nobody has looked at the lines.
        400 | 422 => misconfigured("this isn't how InfluxDB answers; see --influx and --influx-api"),
        401 => misconfigured("see the user and password, or the token"),
        403 => misconfigured("this user or token may not write there"),
        404 => misconfigured("see the name of the database or bucket, the organisation and --influx-api"),
        500 if body::speaks_of_itself(&words.text) => later(reason),
        500 => Meaning::Broken { reason },
        408 | 425 | 429 | 502.. => later(reason),
        _ => misconfigured("see --influx and --influx-api"),
    }
}

fn without_answer(failure: &Failure, lines: usize) -> Meaning {
    let later =
        |reason: String, broke_off| Meaning::Later { at_least: None, broke_off, smaller: false, reason };
    match failure {
        Failure::Unreachable(error) => later(format!("can't connect: {error}"), false),
        Failure::Dns => later("the name of the server isn't known".to_owned(), false),
        Failure::Timeout(what) => {
            let reason = format!("the server is too slow ({what})");
            Meaning::Later { at_least: None, broke_off: false, smaller: true, reason }
        }
        Failure::Reset(error) => later(format!("the connection broke: {error}"), true),
        Failure::Other(error) => later(error.clone(), false),
        Failure::NotHttp(error) => later(format!("the server doesn't speak HTTP: {error}"), false),
        Failure::Tls(error) => {
            // `openssl req -x509` makes such a certificate unless told otherwise; rustls takes none.
            let way_out = if error.contains("CaUsedAsEndEntity") {
                "the server shows the certificate of an authority; it needs one of its own (basicConstraints CA:FALSE)"
            } else {
                "this machine must trust the server's certificate (SSL_CERT_FILE names a file of certificates to trust \
                 instead of the system's), and the port must speak https"
            };
            Meaning::Misconfigured { reason: format!("TLS: {}; {way_out}", text::clean_to(error, SHOWN)) }
        }
        Failure::Credentials(error) => Meaning::Misconfigured { reason: error.clone() },
        Failure::NotInflux(error) => Meaning::Misconfigured { reason: error.clone() },
        // Who refuses many lines may say so at length.
        Failure::HeaderTooLarge if lines > 1 => {
            Meaning::TooLarge { reason: "the server answers with more header than is read".to_owned() }
        }
        Failure::HeaderTooLarge => {
            Meaning::Broken { reason: "the server answers with more header than is read".to_owned() }
        }
    }
}

fn say(status: u16, words: &str) -> String {
    if words.is_empty() {
        return format!("HTTP {status}");
    }
    format!("HTTP {status}, \"{}\"", text::clean_to(words, SHOWN))
}

/// InfluxDB 3.6 says 500 or 400 where it means 413.
fn speaks_of_size(words: &str) -> bool {
    let own = body::own(words);
    own.contains("max request size") || own.contains("too large")
}

/// InfluxDB 3 Core has five databases and makes no sixth one for a write.
fn speaks_of_databases(words: &str) -> bool {
    let own = body::own(words);
    own.contains("limit of") && own.contains("databases")
}

/// A `Retry-After` of either form (RFC 9110, 10.2.3): seconds, or a date. `now` is the server's clock if it tells it.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wish = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(LONGEST_WISH, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(wish.min(LONGEST_WISH))
}

/// Pauses between tries: each twice as long at most, anywhere below that, so that many profilers don't come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    floor: Duration,
    cap: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// The longest pause there is, but for what a server wishes.
    pub const CAP: Duration = Duration::from_secs(60);

    /// `floor`: no pause is shorter. `seed`: another one in each process.
    pub fn new(floor: Duration, cap: Duration, seed: u64) -> Self {
        Self { floor: floor.min(cap), cap, failures: 0, random: seed }
    }

    /// The pause after one more failure.
    pub fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let most = self.floor.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let pause = most.mul_f64(self.fraction()).max(self.floor);
        pause.max(at_least.unwrap_or_default().min(LONGEST_WISH))
    }

    /// The pause while a setting is wrong. Says nothing about the server's health.
    pub fn misconfigured(&self) -> Duration {
        MISCONFIGURED
    }

    /// Something was stored.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// From 0 to 1 (splitmix64, Steele and others 2014).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
