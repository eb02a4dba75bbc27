//! Patterns for paths as shells have them, made into a regular expression that takes time in proportion to the path:
//! the path is the target's to choose.

use regex_lite::Regex;

/// A pattern for the path of a file, or for its name alone.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    regex: Regex,
}

impl Glob {
    /// Reads a pattern: `*` and `?` stop at a slash, `**` between slashes stands for any directories, `[a-z]` and `[!a-z]`
    /// for one character, `{a,b}` for either; `\` takes the meaning from what follows. Without a slash it is for the
    /// file's name alone.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in a few words.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut regex = String::from("^");
        let mut open = 0_u32;
        let mut characters = text.chars().peekable();
        let mut behind_slash = false;
        while let Some(character) = characters.next() {
            let at_component = std::mem::replace(&mut behind_slash, character == '/');
            match character {
                '*' if characters.next_if_eq(&'*').is_some() => match (at_component, characters.peek()) {
                    (true, Some('/')) => {
                        characters.next();
                        behind_slash = true;
                        regex.push_str("(?:[^/]*/)*");
                    }
                    (true, None) => regex.push_str("(?s:.*)"),
                    // Stars in the middle of a name are one star.
                    _ => regex.push_str("[^/]*"),
                },
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                '[' => regex.push_str(&class(&mut characters)?),
                '{' => {
                    open += 1;
                    regex.push_str("(?:");
                }
                ',' if open > 0 => regex.push('|'),
                '}' if open > 0 => {
                    open -= 1;
                    regex.push(')');
                }
                '\\' => push_literal(&mut regex, characters.next().ok_or("a \\ with nothing behind it")?),
                _ => push_literal(&mut regex, character),
            }
        }
        if open > 0 {
            return Err("a { without its }".to_owned());
        }
        regex.push('$');
        // What can still be wrong: a range from a higher to a lower character, or a pattern of absurd size.
        let regex = Regex::new(&regex).map_err(|error| error.to_string().replace('\n', " "))?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a file with this path is meant.
    pub fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.regex.is_match(if self.text.contains('/') { path } else { name })
    }
}

/// What follows a `[`, up to its `]`.
fn class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    let negated = characters.next_if(|c| matches!(c, '!' | '^')).is_some();
    // Nothing but a slash matches a slash.
    let mut class = String::from(if negated { "[^/" } else { "[" });
    let mut first = true;
    loop {
        match characters.next().ok_or("a [ without its ]")? {
            // In front it is one of the characters.
            ']' if !first => break,
            '-' if !first && characters.peek() != Some(&']') => class.push('-'),
            '\\' => push_literal(&mut class, characters.next().ok_or("a [ without its ]")?),
            character => push_literal(&mut class, character),
        }
        first = false;
    }
    class.push(']');
    Ok(class)
}

fn push_literal(regex: &mut String, character: char) {
    regex.push_str(&regex_lite::escape(character.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("nginx*", ["/usr/sbin/nginx", "nginx-1.27"], ["/usr/sbin/xnginx", "/nginx/sh"]),
            ("/opt/*/bin/?", ["/opt/a/bin/x", "/opt//bin/x"], ["/opt/a/b/bin/x", "/opt/a/bin/xy"]),
            ("/opt/**/sh", ["/opt/sh", "/opt/a/b/sh"], ["/opt/ash", "/opt/a/sh/x"]),
            ("/opt/**", ["/opt/a", "/opt/a/b"], ["/opt", "/optional/a"]),
            ("/a**b", ["/ab", "/a-b"], ["/a/b", "/ab/"]),
            ("[a-c]x", ["/bin/ax", "cx"], ["dx", "-x"]),
            ("[!a-c]x", ["dx", "/bin/-x"], ["ax", "/x"]),
            ("[]-]x", ["]x", "-x"], ["x", "[x"]),
            ("a.{so,o}", ["a.so", "/lib/a.o"], ["axo", "a.so,o"]),
            ("\\*\\[", ["*[", "/b/*["], ["x[", "\\*["]),
            ("gr?ße+", ["größe+", "/größe+"], ["grße+", "größee"]),
            ("a\nb*", ["a\nb", "a\nb\nc"], ["a b", "ab"]),
        ] {
            let glob = Glob::new(pattern).unwrap();
            for path in yes {
                assert!(glob.matches(path), "{pattern} is for {path}");
            }
            for path in no {
                assert!(!glob.matches(path), "{pattern} isn't for {path}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["[a", "[]", "[!", "{a,b", "a\\", "[a\\", "[z-a]"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn no_path_makes_a_pattern_slow() {
        let glob = Glob::new("/**/*a*a*a*a*a*a*a*a*b").unwrap();
        let path = format!("/{}", format!("{}/", "a".repeat(255)).repeat(16));
        let begun = Instant::now();
        assert!(!glob.matches(&path));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
