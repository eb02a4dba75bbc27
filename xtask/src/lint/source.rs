//! Rust source as words and signs with their lines: enough to see which paths are named, without comments, string
//! literals and test code.

/// A word (identifier, keyword, number) or a single sign. A literal is the sign `"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The word, or the one character.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

/// Splits source text into tokens.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { chars: source.chars().collect(), at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.tokens
}

/// The tokens outside of items under `#[cfg(test)]`.
pub fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if let Some(length) = test_attribute(&tokens[at..]) {
            at += length;
            at += item_length(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The lines on which the path `first::second` is named, also as `first::{.., second, ..}`.
pub fn lines_naming(tokens: &[Token], first: &str, second: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at].text != first || !is(tokens, at + 1, ":") || !is(tokens, at + 2, ":") {
            continue;
        }
        if is(tokens, at + 3, second) {
            lines.push(tokens[at + 3].line);
        } else if is(tokens, at + 3, "{") {
            lines.extend(
                group_members(&tokens[at + 3..]).filter(|token| token.text == second).map(|token| token.line),
            );
        }
    }
    lines
}

/// Whether the token at this place has this text.
pub fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

/// The names that stand directly in a group `{a, b::c, d::{e}}`: here a, b and d.
fn group_members(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let mut depth = 0_usize;
    let inside = tokens.iter().enumerate().map_while(move |(at, token)| {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        (depth > 0).then_some((at, token, depth))
    });
    inside
        .filter(|(at, _, depth)| *depth == 1 && *at > 0 && matches!(tokens[at - 1].text.as_str(), "{" | ","))
        .map(|(_, token, _)| token)
}

/// The length of a `#[cfg(test)]` (also `all(test, ..)`) at the start of the tokens.
fn test_attribute(tokens: &[Token]) -> Option<usize> {
    if !(is(tokens, 0, "#") && is(tokens, 1, "[") && is(tokens, 2, "cfg")) {
        return None;
    }
    let end = tokens.iter().position(|token| token.text == "]")?;
    let words = &tokens[..end];
    let test = words.iter().position(|token| token.text == "test")?;
    // Features are literals, so a `test` here is the condition itself; `not(test)` is the opposite.
    (words[..test].iter().all(|token| token.text != "not")).then_some(end + 1)
}

/// The length of the item at the start: up to its `;` or the end of its braces.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn step(&mut self) {
        let c = self.chars[self.at];
        match c {
            '/' if self.peek(1) == Some('/') => self.skip_while(|c| c != '\n'),
            '/' if self.peek(1) == Some('*') => self.block_comment(),
            '"' => self.string(),
            '\'' => self.quote(),
            c if c.is_alphanumeric() || c == '_' => self.word(),
            c => {
                if !c.is_whitespace() {
                    self.push(c.to_string());
                }
                self.advance();
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, text: String) {
        self.tokens.push(Token { text, line: self.line });
    }

    fn advance(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.advance();
        }
    }

    fn word(&mut self) {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        let word: String = self.chars[start..self.at].iter().collect();
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#').count();
        if raw && self.peek(hashes) == Some('"') {
            self.raw_string(hashes);
        } else if !(matches!(word.as_str(), "b" | "c") && matches!(self.peek(0), Some('"' | '\''))) {
            self.push(word);
        }
    }

    fn string(&mut self) {
        self.push('"'.to_string());
        self.advance();
        while let Some(c) = self.peek(0) {
            if c == '\\' {
                self.advance();
            }
            self.advance();
            if c == '"' {
                break;
            }
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.push('"'.to_string());
        self.at += hashes + 1;
        while let Some(c) = self.peek(0) {
            self.advance();
            if c == '"' && self.chars[self.at..].iter().take_while(|c| **c == '#').count() >= hashes {
                self.at += hashes;
                break;
            }
        }
    }

    /// A character literal, or a lifetime, which is no token of interest.
    fn quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.at += 3;
            self.skip_while(|c| c != '\'');
            self.advance();
        } else if self.peek(2) == Some('\'') {
            self.at += 3;
        } else {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                _ => self.advance(),
            }
            if depth == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_no_words() {
        assert_eq!(words("a /* b /* c */ d */ // e\n f"), ["a", "f"]);
        assert_eq!(words(r###"x "a \" b" r#"c " d"# b"e" 'f' '\'' b'g' y"###), ["x", "\"", "\"", "\"", "y"]);
    }

    #[test]
    fn lifetimes_and_raw_names_do_not_start_literals() {
        assert_eq!(words("fn f<'a>(x: &'a str) {}")[..5], ["fn", "f", "<", "a", ">"]);
        assert_eq!(words("r#type x"), ["r", "#", "type", "x"]);
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let source = "\"a\nb\"\n/*\n*/ r#\"\n\"# word";
        assert_eq!(tokens(source).last().unwrap(), &Token { text: "word".to_owned(), line: 5 });
    }

    #[test]
    fn a_path_is_seen_plain_and_in_groups() {
        let found = |source| lines_naming(&tokens(source), "std", "fs");
        assert_eq!(found("use std::fs;\nlet x = std :: fs::read();"), [1, 2]);
        assert_eq!(found("use std::{\n  io,\n  fs::{self, File},\n};"), [3]);
        assert!(found("use std::{io::{fs}, net}; use my::fs; std::io::fs();").is_empty());
    }

    #[test]
    fn test_code_is_left_out_and_what_follows_is_not() {
        let source =
            "a; #[cfg(test)] mod tests { fn f() { b } } c; #[cfg(test)] mod tests; d #[cfg(not(test))] e";
        let kept: Vec<String> = without_tests(&tokens(source)).into_iter().map(|token| token.text).collect();
        assert_eq!(kept.join(" "), "a ; c ; d # [ cfg ( not ( test ) ) ] e");
    }
}
