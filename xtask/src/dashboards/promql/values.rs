//! Values that a query asks for of a label that can have few only.

use promql_parser::label::{MatchOp, Matcher};

use super::variables::ANYTHING;
use crate::dashboards::catalogue::Names;
use crate::dashboards::words;

/// What a matcher asks for although the label is never that.
pub fn unknown(matcher: &Matcher, known: &Names) -> Vec<String> {
    let value = &matcher.value;
    if value.contains(ANYTHING) {
        return Vec::new();
    }
    match &matcher.op {
        // Everything but the empty value: whoever has the label at all.
        MatchOp::NotEqual if value.is_empty() => Vec::new(),
        MatchOp::Equal | MatchOp::NotEqual => {
            if known.contains(value) {
                Vec::new()
            } else {
                vec![value.clone()]
            }
        }
        MatchOp::Re(regex) | MatchOp::NotRe(regex) => match words::alternatives(value) {
            Some(words) => words.filter(|word| !known.contains(*word)).map(str::to_owned).collect(),
            None if known.iter().any(|one| regex.is_match(one)) => Vec::new(),
            None => vec![value.clone()],
        },
    }
}
