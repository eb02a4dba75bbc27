//! Names that come from a target are hostile until cleaned: they may hold quotes, newlines, escape codes.

/// Longest name kept, bytes. Prometheus servers may refuse a whole scrape for one overlong label.
pub const NAME_LIMIT: usize = 200;

/// A name that can't disturb a terminal, a log or a protocol: control characters become U+FFFD, overlong ones are cut
/// with an ellipsis.
pub fn clean(name: &str) -> String {
    clean_to(name, NAME_LIMIT)
}

/// As [`clean`], with another limit in bytes.
pub fn clean_to(name: &str, limit: usize) -> String {
    let mut cleaned = String::with_capacity(name.len().min(limit));
    for character in name.chars() {
        let safe = if is_unsafe(character) { char::REPLACEMENT_CHARACTER } else { character };
        if cleaned.len() + safe.len_utf8() > limit {
            cleaned.push('…');
            break;
        }
        cleaned.push(safe);
    }
    cleaned
}

/// Control characters, and the marks that turn the direction of text around (they can make a line lie).
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_and_newlines_are_gone_and_other_text_stays() {
        assert_eq!(clean("nginx: worker \"1\""), "nginx: worker \"1\"");
        assert_eq!(clean("a\x1b[31mb\nc\td\u{202e}e"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}e");
        assert_eq!(clean("größe"), "größe");
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let cleaned = clean(&"ä".repeat(500));
        assert!(cleaned.len() <= NAME_LIMIT + '…'.len_utf8());
        assert!(cleaned.ends_with('…'));
    }
}
