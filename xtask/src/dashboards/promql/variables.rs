//! Grafana's variables in a query: which there are, and what may stand in their place for a parser.

/// Variables that stand for a length of time.
const TIMES: [&str; 4] = ["__rate_interval", "__interval", "__range", "interval"];
/// Variables that stand for a number.
const NUMBERS: [&str; 6] = ["__interval_ms", "__range_s", "__range_ms", "__from", "__to", "top"];

/// What stands in the place of a variable between quotes.
pub const ANYTHING: &str = "__anything__";

/// One piece of a query.
enum Piece<'a> {
    Text(&'a str),
    /// A variable's name, and whether it stands between quotes.
    Variable(&'a str, bool),
}

/// The names of all variables, Grafana's own included.
pub fn used(query: &str) -> Vec<String> {
    let variable = |piece| match piece {
        Piece::Variable(name, _) => Some(name.to_owned()),
        Piece::Text(_) => None,
    };
    pieces(query).into_iter().filter_map(variable).collect()
}

/// The query with something plain in the place of every variable: a duration, a number, or a word between quotes.
pub fn replaced(query: &str) -> String {
    pieces(query)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Variable(_, true) => ANYTHING,
            Piece::Variable(name, false) if NUMBERS.contains(&name) => "1",
            Piece::Variable(name, false) if TIMES.contains(&name) => "5m",
            // Where a variable stands alone, only a duration or a number is possible; both are what parses most often.
            Piece::Variable(_, false) => "5",
        })
        .collect()
}

/// Parts a query at `$name`, `${name}` and `${name:format}`.
fn pieces(query: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut quote = None;
    let (mut from, mut at) = (0, 0);
    while let Some(c) = query[at..].chars().next() {
        let next = at + c.len_utf8();
        match c {
            '\\' if quote.is_some() => {
                at = next + query[next..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
            '$' => {
                if let Some((name, length)) = variable(&query[next..]) {
                    pieces.push(Piece::Text(&query[from..at]));
                    pieces.push(Piece::Variable(name, quote.is_some()));
                    from = next + length;
                    at = from;
                    continue;
                }
            }
            _ if quote == Some(c) => quote = None,
            '"' | '\'' | '`' if quote.is_none() => quote = Some(c),
            _ => {}
        }
        at = next;
    }
    pieces.push(Piece::Text(&query[from..]));
    pieces
}

/// The variable at the beginning of a text (behind its `$`), and how long it is there.
fn variable(text: &str) -> Option<(&str, usize)> {
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if let Some(inside) = text.strip_prefix('{') {
        let end = inside.find('}')?;
        let name = &inside[..word(inside)];
        return (!name.is_empty()).then_some((name, end + 2));
    }
    let length = word(text);
    // `$1` is a group of a regular expression, in label_replace.
    (length > 0 && !text.starts_with(|c: char| c.is_ascii_digit())).then_some((&text[..length], length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_what_a_parser_takes_in_their_place() {
        let query = r#"topk($top, rate(m{job="$job", a=~"${a:regex}"}[$__rate_interval])) / $__range_s"#;
        assert_eq!(replaced(query), r#"topk(1, rate(m{job="__anything__", a=~"__anything__"}[5m])) / 1"#);
        assert_eq!(used(query), ["top", "job", "a", "__rate_interval", "__range_s"]);
    }

    #[test]
    fn what_only_looks_like_a_variable_stays() {
        let query = r#"label_replace(m, "a", "$1-\"$", "b", "(.*)$")"#;
        assert_eq!(replaced(query), query);
        assert!(used(query).is_empty());
    }
}
