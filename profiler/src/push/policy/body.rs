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
    /// InfluxDB, or something that does as it does, says what is wrong.
    pub is_failure: bool,
    /// It is for a browser.
    pub is_page: bool,
}

#[derive(Deserialize)]
struct Message {
    error: Option<String>,
    message: Option<String>,
}

/// Reads `{"error": ".."}` (v1, v3), `{"code": "..", "message": ".."}` (v2) or plain text (VictoriaMetrics).
pub fn words(body: &str) -> Words {
    let body = body.trim();
    let is_page = body.starts_with('<');
    if let Some(text) = message(body) {
        return Words { text, is_failure: true, is_page };
    }
    let lower = body.to_ascii_lowercase();
    let speaks_of_lines =
        ["unable to parse", "partial write", "cannot parse", "can't parse", "line protocol"];
    let is_failure = !is_page && speaks_of_lines.iter().any(|words| lower.contains(words));
    Words { text: body.to_owned(), is_failure, is_page }
}

fn message(body: &str) -> Option<String> {
    let said = |text: &str| serde_json::from_str::<Message>(text).ok().and_then(|it| it.error.or(it.message));
    if !body.starts_with('{') {
        return None;
    }
    if let Some(text) = said(body) {
        return Some(text);
    }
    // Only the beginning was read. v1 and v2 put one line after the other: what is cut is the last one.
    let cut = body.rfind("\\n")?;
    said(&format!("{}\"}}", &body[..cut]))
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

#[derive(Deserialize)]
struct Partial {
    data: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    line_number: u64,
}

/// Which lines a refusal names. Nothing, if it names none, or one that wasn't sent.
pub fn named(api: Api, body: &str, text: &str, lines: &[&str]) -> Option<Vec<usize>> {
    let named = match api {
        Api::V1 | Api::V2 => quoted(text, lines),
        Api::V3 => numbered(body, lines.len())?,
    };
    if named.is_empty() { None } else { Some(named.into_iter().collect()) }
}

/// v3: `{"error": "..", "data": [{"original_line": "..", "line_number": 2, "error_message": ".."}]}`, counted from 1. The line
/// itself is cut and has lost its quotes there, and can't be compared.
fn numbered(body: &str, sent: usize) -> Option<BTreeSet<usize>> {
    let partial: Partial = serde_json::from_str(body.trim()).ok()?;
    let number = |line: &Line| usize::try_from(line.line_number).ok()?.checked_sub(1).filter(|&at| at < sent);
    partial.data.iter().map(number).collect()
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
