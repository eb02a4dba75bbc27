//! The words of InfluxQL.

use std::fmt;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A keyword, or a name without quotes.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    /// Between slashes.
    Regex(String),
    /// A number, a duration.
    Number(String),
    /// `$name`, `${name}`, `[[name]]` of Grafana, `:name:` of Chronograf: its name.
    Variable(String),
    /// Everything else.
    Sign(String),
}

impl Token {
    /// Whether it is this keyword or sign.
    pub fn is(&self, what: &str) -> bool {
        match self {
            Self::Word(word) => word.eq_ignore_ascii_case(what),
            Self::Sign(sign) => sign == what,
            _ => false,
        }
    }

    /// Whether it compares what stands at its sides.
    pub fn is_comparison(&self) -> bool {
        matches!(self, Self::Sign(sign) if ["=", "!=", "<>", "<", ">", "<=", ">=", "=~", "!~"].contains(&&**sign))
    }

    /// Whether it limits a query to some time.
    pub fn is_about_time(&self) -> bool {
        match self {
            Self::Word(name) | Self::Name(name) => name == "time",
            Self::Variable(name) => {
                ["timeFilter", "__timeFilter", "dashboardTime", "upperDashboardTime"].contains(&&**name)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) | Self::Sign(text) => f.write_str(text),
            Self::Name(text) => write!(f, "\"{text}\""),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Regex(text) => write!(f, "/{text}/"),
            Self::Variable(text) => write!(f, "${text}"),
        }
    }
}

/// Whether a name isn't known before a variable has its value.
pub fn has_variable(name: &str) -> bool {
    name.contains('$')
        || name.contains("[[")
        || (name.len() > 2 && name.starts_with(':') && name.ends_with(':'))
}

/// The names of all variables, those within texts, names and regular expressions included.
pub fn variables(query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = query[at..].chars().next() {
        let Some((name, length)) = variable(&query[at..]) else {
            at += c.len_utf8();
            continue;
        };
        found.push(name.to_owned());
        at += length;
    }
    found
}

/// Parts a query into its words.
pub fn tokens(query: &str) -> Result<Vec<Token>, String> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while let Some(c) = query[at..].chars().next() {
        let rest = &query[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if let Some((name, length)) = variable(rest) {
            tokens.push(Token::Variable(name.to_owned()));
            // A unit may follow: `${__to}ms`.
            let unit = rest[length..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - length);
            at += length + unit;
            continue;
        }
        let (token, length) = match c {
            '"' => quoted(rest, '"').map(|(text, length)| (Token::Name(text), length))?,
            '\'' => quoted(rest, '\'').map(|(text, length)| (Token::Text(text), length))?,
            '/' if regex_may_begin(tokens.last()) => {
                quoted(rest, '/').map(|(text, length)| (Token::Regex(text), length))?
            }
            c if c.is_ascii_digit() => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(rest.len());
                (Token::Number(rest[..length].to_owned()), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
            _ => {
                let two = ["=~", "!~", "!=", "<>", "<=", ">="].into_iter().find(|two| rest.starts_with(two));
                let sign = two.map_or_else(|| c.to_string(), str::to_owned);
                let length = sign.len();
                (Token::Sign(sign), length)
            }
        };
        tokens.push(token);
        at += length;
    }
    Ok(tokens)
}

/// A slash divides behind a value, and begins a regular expression elsewhere.
fn regex_may_begin(before: Option<&Token>) -> bool {
    match before {
        None => true,
        Some(Token::Word(word)) => ["select", "from", "by"].contains(&word.to_lowercase().as_str()),
        Some(Token::Sign(sign)) => ["=~", "!~", "(", ","].contains(&&**sign),
        Some(_) => false,
    }
}

/// The text between two quotes at the beginning of `rest`, and the length with them.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => {
                escaped = false;
                text.push(c);
            }
            '\\' => escaped = true,
            c if c == quote => return Ok((text, at + c.len_utf8())),
            c => text.push(c),
        }
    }
    Err(format!("{quote} isn't closed"))
}

/// The variable at the beginning of a text, and the length that it takes.
fn variable(rest: &str) -> Option<(&str, usize)> {
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    for (open, close) in [("${", "}"), ("[[", "]]"), (":", ":"), ("$", "")] {
        let Some(inside) = rest.strip_prefix(open) else { continue };
        let name = &inside[..word(inside)];
        // `$` alone ends a regular expression; `::` gives a field its type.
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let end = match open {
            ":" => inside[name.len()..].starts_with(close).then_some(name.len())?,
            "$" => name.len(),
            _ => inside.find(close)?,
        };
        return Some((name, open.len() + end + close.len()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_both_programs_are_found_wherever_they_stand() {
        let query = r#"SELECT "a" FROM "m" WHERE $timeFilter AND "t" =~ /^${t:regex}$/ AND time > :dashboardTime: GROUP BY time([[step]]), "a"::tag"#;
        assert_eq!(variables(query), ["timeFilter", "t", "dashboardTime", "step"]);
    }

    #[test]
    fn a_slash_divides_or_begins_a_regular_expression() {
        let regex = |query: &str| tokens(query).unwrap().iter().any(|token| matches!(token, Token::Regex(_)));
        assert!(regex("x =~ /a\\/b/") && regex("FROM /m/") && !regex("(a)/(b)") && !regex("a / 2"));
    }
}
