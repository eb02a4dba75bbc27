//! What servers write into the body of a refusal.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use super::Api;

/// How v1 and v2 begin what they say of a line that they can't read.
const PARSE: &str = "unable to parse '";

/// A body, as far as it could be made out.
pub struct Words {
    /// The message in it, or the body itself.
    pub text: String,
    /// The same for people: without the lines that it quotes.
    pub short: String,
    /// InfluxDB, or something that does as it does, says what is wrong.
    pub is_failure: bool,
    /// What is wrong are lines.
    pub is_about_lines: bool,
    /// It is for a browser.
    pub is_page: bool,
    /// v3: what it says of single lines.
    lines: Vec<Line>,
}

/// v1: `{"error": ".."}`; v2: `{"code": "..", "message": ".."}`; v3: `{"error": "..", "data": [LINE, ..]}`, or data that are null.
#[derive(Deserialize)]
struct Message {
    error: Option<String>,
    message: Option<String>,
    #[serde(default)]
    data: Option<serde_json::Value>,
}

/// v3: `{"original_line": "..", "line_number": 2, "error_message": ".."}`, counted from 1. The line itself is cut and has lost its
/// quotes there, and can't be compared.
#[derive(Deserialize)]
struct Line {
    line_number: i64,
    error_message: Option<String>,
}

/// Reads what InfluxDB says as JSON, or VictoriaMetrics as text.
pub fn words(body: &str) -> Words {
    let body = body.trim();
    let is_page = body.starts_with('<');
    let Some(message) = message(body) else {
        let is_failure = !is_page && is_about_lines(body);
        let (text, short) = (body.to_owned(), without_quotation(body));
        return Words { text, short, is_failure, is_about_lines: is_failure, is_page, lines: Vec::new() };
    };
    let lines =
        message.data.and_then(|data| serde_json::from_value::<Vec<Line>>(data).ok()).unwrap_or_default();
    let text = message.error.or(message.message);
    let is_failure = text.is_some() || !lines.is_empty();
    let text = text.unwrap_or_default();
    let of_line = lines.first().and_then(|line| line.error_message.as_deref());
    let short = of_line.map_or_else(|| without_quotation(&text), |reason| format!("{text}: {reason}"));
    let is_about_lines = !lines.is_empty() || is_about_lines(&text);
    Words { text, short, is_failure, is_about_lines, is_page, lines }
}

/// How v1 and v2 (`unable to parse`, `partial write`), v3 (`line protocol`, `limit of 500 columns`) and VictoriaMetrics begin what
/// they say of lines. Other refusals are about something else: v3 has rules for the names of databases.
fn is_about_lines(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let words = [
        "unable to parse",
        "partial write",
        "type conflict",
        "cannot parse",
        "can't parse",
        "line protocol",
        "columns",
    ];
    words.iter().any(|words| text.contains(words))
}

/// The server's own words, in small letters: what lines say, which it quotes, must not look like them.
pub fn own(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    text.split("unable to parse").next().unwrap_or_default().to_owned()
}

/// [`own`], without names of measurements and tags either: what comes before any quotation.
fn unquoted(text: &str) -> String {
    own(text).split(['"', '\'', '`']).next().unwrap_or_default().to_owned()
}

/// v1 and v2 have limits of series (`tsdb/index`): `partial write: max-series-per-database limit exceeded: (1000) dropped=1`,
/// `partial write: max-values-per-tag limit exceeded (200/200): measurement="m" tag="t" value="v" dropped=1`.
pub fn speaks_of_series(text: &str) -> bool {
    let own = unquoted(text);
    ["max-series-per-database limit exceeded", "max-values-per-tag limit exceeded"]
        .iter()
        .any(|words| own.contains(words))
}

/// A failure that is the server's own, whatever it is sent: it is overloaded, starting, ending, or its disk is full. The words of
/// v1 and v2 are those of `tsdb/shard.go`, `tsdb/store.go`, `tsdb/series_file.go`, `tsdb/engine/tsm1/{cache,wal}.go`,
/// `coordinator/points_writer.go` and `services/meta`, behind what they were doing (`engine: `, `[shard 3] `); those of the
/// operating system are what Go and Rust make of its errors.
pub fn speaks_of_itself(text: &str) -> bool {
    const WORDS: [&str; 23] = [
        "snapshot in progress",
        "engine is closed",
        "shard is disabled",
        "shard is being deleted",
        "shard not found",
        "shard closed",
        "store is closed",
        "wal closed",
        "wal is closed",
        "series file closed",
        "series partition closed",
        "index is closing",
        "hinted handoff queue",
        "service unavailable",
        "shutting down",
        "context deadline exceeded",
        "i/o timeout",
        "no space left on device",
        "too many open files",
        "read-only file system",
        "input/output error",
        "disk quota exceeded",
        "cannot allocate memory",
    ];
    let own = unquoted(text);
    is_timeout(text)
        || is_full(text)
        || last(&own) == "write failed"
        || WORDS.iter().any(|words| own.contains(words))
}

/// v1 (`coordinator/points_writer.go`), when a write takes longer than its `write-timeout`.
pub fn is_timeout(text: &str) -> bool {
    last(&unquoted(text)) == "timeout"
}

/// v1 and v2 (`tsm1/cache.go`): `cache-max-memory-size exceeded: (6400/3000)`, of that request and what is not yet on disk. One that
/// is larger than the cache is never taken.
pub fn is_full(text: &str) -> bool {
    let own = unquoted(text);
    own.contains("cache-max-memory-size exceeded") || own.contains("cache maximum memory size exceeded")
}

/// The cause: errors of Go begin with what was being done.
fn last(text: &str) -> &str {
    text.rsplit(": ").next().unwrap_or_default().trim()
}

fn message(body: &str) -> Option<Message> {
    if !body.starts_with('{') {
        return None;
    }
    let read = |text: &str| serde_json::from_str::<Message>(text).ok();
    // Only the beginning was read, perhaps. v1 and v2 put one line after the other in the message, v3 in the data: what is cut is
    // the last one.
    let cut_before = |end: &str, close: &str| Some(format!("{}{close}", &body[..body.rfind(end)?]));
    read(body)
        .or_else(|| read(&cut_before("},{", "}]}")?))
        .or_else(|| read(&cut_before("}, {", "}]}")?))
        .or_else(|| read(&cut_before("\\n", "\"}")?))
}

/// A line may be long, and hide what is said of it.
fn without_quotation(text: &str) -> String {
    let Some((before, quote)) = text.split_once(PARSE) else { return text.to_owned() };
    let first = quote.split(PARSE).next().unwrap_or_default();
    let reason = first.rsplit_once("': ").map_or("", |(_, reason)| reason.trim());
    format!("{before}unable to parse: {reason}")
}

/// The `n` of `partial write: .. dropped=n`: so many lines could be read but not stored.
pub fn dropped(text: &str) -> Option<usize> {
    // Parse errors quote lines, and lines may say anything.
    if !text.contains("partial write") || text.contains(PARSE) {
        return None;
    }
    let number = text.rsplit_once("dropped=")?.1.trim();
    number.parse().ok().filter(|&dropped| dropped > 0)
}

/// Which lines a refusal names. Nothing, if it names none, or one that wasn't sent.
pub fn named(api: Api, words: &Words, lines: &[&str]) -> Option<Vec<usize>> {
    let named = match api {
        Api::V1 | Api::V2 => quoted(&words.text, lines),
        Api::V3 => numbered(&words.lines, lines.len())?,
    };
    if named.is_empty() { None } else { Some(named.into_iter().collect()) }
}

fn numbered(named: &[Line], sent: usize) -> Option<BTreeSet<usize>> {
    let number = |line: &Line| usize::try_from(line.line_number).ok()?.checked_sub(1).filter(|&at| at < sent);
    named.iter().map(number).collect()
}

/// v1 and v2 quote each line that they can't read: `unable to parse 'LINE': REASON`.
fn quoted(text: &str, lines: &[&str]) -> BTreeSet<usize> {
    let mut at: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, &line) in lines.iter().enumerate() {
        at.entry(line).or_default().push(index);
    }
    let mut found = BTreeSet::new();
    for quote in text.split(PARSE).skip(1) {
        // The line may hold what ends a quotation; a quotation of a quotation needs none of our patience.
        let line = quote.match_indices("': ").take(8).find_map(|(end, _)| at.get(&quote[..end]));
        found.extend(line.into_iter().flatten());
    }
    found
}
