//! Regular expressions that are plain words.

/// The words of `a|b` or `(a|b)`; none if it is more than that.
pub fn alternatives(regex: &str) -> Option<impl Iterator<Item = &str>> {
    let inside = regex.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(regex);
    let plain = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    inside.split('|').all(plain).then(|| inside.split('|'))
}
