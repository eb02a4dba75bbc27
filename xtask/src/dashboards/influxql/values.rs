//! Values that a query asks for of a tag or a text that can have few only.

use super::scan::{Token, variables};
use crate::dashboards::catalogue::Names;
use crate::dashboards::words;

/// What a condition asks for although it never is: `value` is what stands behind the sign.
pub fn unknown(sign: &Token, value: &Token, known: &Names) -> Vec<String> {
    match value {
        Token::Text(text) | Token::Regex(text) if !variables(text).is_empty() => Vec::new(),
        // A tag that isn't there is an empty text.
        Token::Text(text) if text.is_empty() => Vec::new(),
        Token::Text(text) if sign.is_comparison() && !known.contains(text) => vec![text.clone()],
        Token::Regex(regex) => not_matched(regex, known),
        _ => Vec::new(),
    }
}

/// The alternatives of a regular expression that match none of the names.
fn not_matched(regex: &str, known: &Names) -> Vec<String> {
    let begin = if regex.starts_with("^(") { "^" } else { "" };
    let end = if regex.ends_with(")$") { "$" } else { "" };
    let inside = &regex[begin.len()..regex.len() - end.len()];
    // What is around parentheses is said of each alternative; without them, each has its own ends.
    let all: Vec<String> = match words::alternatives(inside) {
        Some(words) => words.map(|word| format!("{begin}{word}{end}")).collect(),
        None if inside.contains('(') => return Vec::new(),
        None => inside.split('|').map(str::to_owned).collect(),
    };
    all.into_iter().filter(|one| !known.iter().any(|name| may_match(one, name))).collect()
}

/// Whether a regular expression may match a name. Only those that are plain words with anchors are looked into.
pub fn may_match(regex: &str, name: &str) -> bool {
    let word = regex.trim_start_matches('^').trim_end_matches('$');
    if !word.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return true;
    }
    match (regex.starts_with('^'), regex.ends_with('$')) {
        (true, true) => name == word,
        (true, false) => name.starts_with(word),
        (false, true) => name.ends_with(word),
        (false, false) => name.contains(word),
    }
}
