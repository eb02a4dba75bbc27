//! Whether an InfluxQL query asks for what exists: measurements, the fields that are selected, the tags it is grouped by.
//!
//! It reads as much of the language as dashboards use: SELECT with subqueries, and SHOW TAG VALUES. InfluxDB itself says
//! nothing about an unknown name, it returns nothing.

mod functions;
mod scan;
mod values;

use std::collections::BTreeSet;

use super::catalogue::{Catalogue, Measurement, Names, Values};
use functions::{OF_ANYTHING, OF_NUMBERS, OF_SOME};
use scan::Token;
use values::may_match;

pub use scan::variables;

/// Words that end a clause, in the order of a statement.
const CLAUSES: [&str; 10] =
    ["from", "where", "group", "fill", "order", "limit", "offset", "slimit", "soffset", "tz"];
/// Words of conditions that are no names.
const OF_CONDITIONS: [&str; 6] = ["and", "or", "in", "time", "true", "false"];

/// What is wrong with a query; variables of Grafana and of Chronograf may stand in it.
pub fn check(query: &str, catalogue: &Catalogue) -> Vec<String> {
    let tokens = match scan::tokens(query) {
        Ok(tokens) => tokens,
        Err(problem) => return vec![problem],
    };
    let mut problems = BTreeSet::new();
    let statements: Vec<_> = tokens.split(|token| token.is(";")).filter(|one| !one.is_empty()).collect();
    if statements.is_empty() {
        problems.insert("an empty query".to_owned());
    }
    for tokens in statements {
        let mut reader = Reader { tokens, at: 0, catalogue, problems: &mut problems };
        if let Err(problem) = reader.statement() {
            problems.insert(problem);
        }
    }
    problems.into_iter().collect()
}

/// What a subquery gives: the names of its columns, the tags that it is grouped by (none: all), and the values of those
/// that can have few.
struct Selected {
    columns: Names,
    tags: Option<Names>,
    values: Values,
}

/// What a query reads from.
enum Source<'a> {
    Measurement(String, &'a Measurement),
    Inner(Selected),
    /// It depends on a variable, or was complained of.
    Unknown,
}

/// What a name means to a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Number,
    Text,
    Tag,
}

impl Source<'_> {
    fn meaning(&self, name: &str) -> Option<Meaning> {
        match self {
            Source::Measurement(_, one) if one.tags.contains(name) => Some(Meaning::Tag),
            Source::Measurement(_, one) => {
                one.field(name).map(|kind| if kind == "text" { Meaning::Text } else { Meaning::Number })
            }
            Source::Inner(inner) if inner.columns.contains(name) => Some(Meaning::Number),
            Source::Inner(inner) => match &inner.tags {
                Some(tags) => tags.contains(name).then_some(Meaning::Tag),
                None => Some(Meaning::Tag),
            },
            Source::Unknown => Some(Meaning::Number),
        }
    }

    /// Tags that can have few values.
    fn of_tags(&self) -> Vec<(String, Names)> {
        let all = match self {
            Source::Measurement(_, one) => &one.values,
            Source::Inner(inner) => &inner.values,
            Source::Unknown => return Vec::new(),
        };
        let is_tag = |(name, _): &(&String, &Names)| self.meaning(name) == Some(Meaning::Tag);
        all.iter().filter(is_tag).map(|(name, all)| (name.clone(), all.clone())).collect()
    }

    /// All values of a name, if it can have few only.
    fn values(&self, name: &str) -> Option<&Names> {
        match self {
            Source::Measurement(_, one) => one.values.get(name),
            Source::Inner(inner) => inner.values.get(name),
            Source::Unknown => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Source::Measurement(name, _) => name,
            _ => "the subquery",
        }
    }
}

struct Reader<'a, 'q> {
    tokens: &'q [Token],
    at: usize,
    catalogue: &'a Catalogue,
    problems: &'q mut BTreeSet<String>,
}

impl<'a> Reader<'a, '_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn accept(&mut self, word: &str) -> bool {
        let there = self.peek().is_some_and(|token| token.is(word));
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.accept(word) {
            return Ok(());
        }
        let found = self.peek().map_or("the end".to_owned(), |token| format!("`{token}`"));
        Err(format!("{} is expected where {found} stands", word.to_uppercase()))
    }

    fn say(&mut self, problem: String) {
        self.problems.insert(problem);
    }

    fn statement(&mut self) -> Result<(), String> {
        if self.accept("show") {
            return self.show();
        }
        let timed = self.tokens.iter().any(Token::is_about_time);
        if !timed {
            self.say("no limit of time: it reads all there is".to_owned());
        }
        self.select()?;
        match self.peek() {
            None => Ok(()),
            Some(token) => Err(format!("`{token}` is not understood here")),
        }
    }

    fn show(&mut self) -> Result<(), String> {
        let tag_values = self.accept("tag") && self.accept("values");
        let rest = &self.tokens[self.at..];
        if let Some(from) = rest.iter().position(|token| token.is("from")) {
            self.at += from + 1;
        } else if tag_values {
            self.say("SHOW TAG VALUES without FROM lists those of others' measurements, too".to_owned());
            return Ok(());
        } else {
            return Ok(());
        }
        let sources = self.sources()?;
        if !tag_values {
            return Ok(());
        }
        self.expect("with")?;
        self.expect("key")?;
        if !self.accept("=") {
            self.expect("in")?;
        }
        while let Some(token) = self.take() {
            match token {
                Token::Name(name) => self.tag(&name, &sources, "WITH KEY"),
                Token::Word(word) if word.eq_ignore_ascii_case("where") => self.conditions(&sources)?,
                Token::Word(word) if CLAUSES.contains(&word.to_lowercase().as_str()) => break,
                Token::Word(name) => self.tag(&name, &sources, "WITH KEY"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads `SELECT ...` up to the end or a closing parenthesis.
    fn select(&mut self) -> Result<Selected, String> {
        self.expect("select")?;
        let begin = self.at;
        self.skip_to(&["from"])?;
        let list = begin..self.at;
        self.expect("from")?;
        let sources = self.sources()?;
        let (columns, mut values) = self.columns(list, &sources);
        if self.accept("where") {
            self.conditions(&sources)?;
        }
        let mut tags = Some(Names::new());
        if self.accept("group") {
            self.expect("by")?;
            tags = self.dimensions(&sources)?;
        }
        while let Some(token) = self.peek() {
            if token.is(")") {
                break;
            }
            if !matches!(token, Token::Word(word) if CLAUSES[3..].contains(&word.to_lowercase().as_str())) {
                return Err(format!("`{token}` is not understood here"));
            }
            self.at += 1;
            self.skip_to(&CLAUSES)?;
        }
        for (name, all) in sources.iter().flat_map(Source::of_tags) {
            values.entry(name).or_insert(all);
        }
        Ok(Selected { columns, tags, values })
    }

    /// Goes on to one of the words, the parenthesis that closes this query, or the end.
    fn skip_to(&mut self, words: &[&str]) -> Result<(), String> {
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            match token {
                token if depth == 0 && (token.is(")") || words.iter().any(|word| token.is(word))) => break,
                token if token.is("(") => depth += 1,
                token if token.is(")") => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        if depth > 0 { Err("a parenthesis isn't closed".to_owned()) } else { Ok(()) }
    }

    fn sources(&mut self) -> Result<Vec<Source<'a>>, String> {
        let mut sources = Vec::new();
        loop {
            if self.accept("(") {
                let inner = self.select()?;
                self.expect(")")?;
                sources.push(Source::Inner(inner));
            } else {
                self.measurement(&mut sources)?;
            }
            if !self.accept(",") {
                return Ok(sources);
            }
        }
    }

    /// Reads `measurement`, `policy.measurement`, `database.policy.measurement`, `database..measurement`.
    fn measurement(&mut self, sources: &mut Vec<Source<'a>>) -> Result<(), String> {
        let mut last = None;
        loop {
            match self.peek() {
                Some(token) if token.is(".") => {}
                Some(Token::Word(_) | Token::Name(_) | Token::Regex(_) | Token::Variable(_)) => {
                    let follows = last.is_some() && !self.tokens[self.at - 1].is(".");
                    if follows {
                        break;
                    }
                    last = self.peek().cloned();
                }
                _ => break,
            }
            self.at += 1;
        }
        match last {
            Some(Token::Word(name) | Token::Name(name)) if scan::has_variable(&name) => {
                sources.push(Source::Unknown);
            }
            Some(Token::Word(name) | Token::Name(name)) => match self.catalogue.measurement(&name) {
                Some(one) => sources.push(Source::Measurement(name, one)),
                None => {
                    self.say(format!("there is no measurement `{name}`"));
                    sources.push(Source::Unknown);
                }
            },
            Some(Token::Regex(regex)) => {
                if !self.catalogue.measurements().any(|name| may_match(&regex, name)) {
                    self.say(format!("there is no measurement like /{regex}/"));
                }
                sources.push(Source::Unknown);
            }
            Some(Token::Variable(_)) => sources.push(Source::Unknown),
            _ => return Err("FROM without a measurement".to_owned()),
        }
        Ok(())
    }

    /// Checks what is selected; gives the names of the columns, and the values of those that can have few.
    fn columns(&mut self, list: std::ops::Range<usize>, sources: &[Source<'a>]) -> (Names, Values) {
        let tokens = &self.tokens[list];
        let (mut columns, mut values) = (Names::new(), Values::new());
        // The names of the column that is being read, and what they can be.
        let mut few: Option<&Names> = None;
        let mut own: Vec<String> = Vec::new();
        let mut functions: Vec<String> = Vec::new();
        let mut of_fields = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1);
            match token {
                Token::Word(word) if next.is_some_and(|next| next.is("(")) => {
                    let function = word.to_lowercase();
                    if !OF_ANYTHING.contains(&&*function) && !OF_NUMBERS.contains(&&*function) {
                        self.say(format!("there is no function `{word}`"));
                    }
                    // Without AS, a column is named like its function.
                    if functions.is_empty() {
                        own.push(function.clone());
                    }
                    functions.push(function);
                    at += 1;
                }
                token if token.is(",") && functions.is_empty() => {
                    column(&mut columns, &mut values, std::mem::take(&mut own), few.take());
                }
                token if token.is("(") => functions.push(String::new()),
                token if token.is(")") => {
                    functions.pop();
                }
                token if token.is("as") => {
                    if let Some(Token::Word(name) | Token::Name(name)) = next {
                        own.push(name.clone());
                    }
                    at += 1;
                }
                token if token.is("*") => of_fields = true,
                Token::Regex(_) | Token::Variable(_) => of_fields = true,
                Token::Word(name) | Token::Name(name) => {
                    if name == "time" || scan::has_variable(name) {
                        of_fields = true;
                    } else {
                        of_fields |= self.selected(name, sources, functions.iter().rfind(|f| !f.is_empty()));
                        if functions.iter().all(|function| OF_SOME.contains(&&**function)) {
                            few = sources.iter().find_map(|source| source.values(name));
                        }
                    }
                    if functions.is_empty() {
                        own.push(name.clone());
                    }
                }
                _ => {}
            }
            at += 1;
        }
        if !of_fields {
            self.say("no field is selected, so that nothing is returned".to_owned());
        }
        column(&mut columns, &mut values, own, few);
        (columns, values)
    }

    /// Checks a name that is selected; says whether it is a field, as far as is known.
    fn selected(&mut self, name: &str, sources: &[Source<'a>], function: Option<&String>) -> bool {
        // What one of several sources has is null in the others.
        let meanings: Vec<Meaning> = sources.iter().filter_map(|source| source.meaning(name)).collect();
        if meanings.is_empty() {
            self.say(format!("{} has no field `{name}`", listed(sources)));
            return true;
        }
        let mut field = false;
        for meaning in meanings {
            match (meaning, function) {
                // top and bottom take tags behind their field.
                (Meaning::Tag, Some(function)) if !matches!(&**function, "top" | "bottom") => {
                    self.say(format!("{function} of the tag `{name}`, which returns nothing"));
                    field = true;
                }
                (Meaning::Text, Some(function)) if OF_NUMBERS.contains(&&**function) => {
                    self.say(format!("{function} of `{name}`, which is a text"));
                    field = true;
                }
                (Meaning::Tag, _) => {}
                (Meaning::Number | Meaning::Text, _) => field = true,
            }
        }
        field
    }

    fn conditions(&mut self, sources: &[Source<'a>]) -> Result<(), String> {
        let begin = self.at;
        self.skip_to(&CLAUSES)?;
        for at in begin..self.at {
            let calls = self.tokens.get(at + 1).is_some_and(|next| next.is("("));
            let name = match &self.tokens[at] {
                Token::Word(word) if calls || OF_CONDITIONS.contains(&word.to_lowercase().as_str()) => {
                    continue;
                }
                Token::Word(name) | Token::Name(name) => name.clone(),
                _ => continue,
            };
            if scan::has_variable(&name) || name == "time" {
                continue;
            }
            if let ([sign, value, ..], Some(known)) =
                (&self.tokens[at + 1..self.at], sources.iter().find_map(|source| source.values(&name)))
            {
                for never in values::unknown(sign, value, known) {
                    self.say(format!("`{name}` of {} is never {never:?}", listed(sources)));
                }
            }
            let behind = begin < at && self.tokens[at - 1].is_comparison();
            if sources.iter().any(|source| source.meaning(&name).is_some()) {
                continue;
            }
            if behind {
                self.say(format!("\"{name}\" is the name of a field: a text is in single quotes"));
            } else {
                self.say(format!("{} has neither tag nor field `{name}`", listed(sources)));
            }
        }
        Ok(())
    }

    /// Reads what follows GROUP BY; gives the tags, none if that are all.
    fn dimensions(&mut self, sources: &[Source<'a>]) -> Result<Option<Names>, String> {
        let mut tags = Some(Names::new());
        loop {
            match self.take() {
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("time") => {
                    self.expect("(")?;
                    self.skip_to(&[])?;
                    self.expect(")")?;
                }
                Some(token) if token.is("*") => tags = all_tags(sources),
                Some(Token::Regex(_) | Token::Variable(_)) => tags = None,
                Some(Token::Word(name) | Token::Name(name)) => {
                    if !scan::has_variable(&name) {
                        self.tag(&name, sources, "GROUP BY");
                    }
                    if let Some(tags) = &mut tags {
                        tags.insert(name);
                    }
                }
                _ => return Err("GROUP BY without a tag".to_owned()),
            }
            if !self.accept(",") {
                return Ok(tags);
            }
        }
    }

    fn tag(&mut self, name: &str, sources: &[Source<'a>], clause: &str) {
        let known = sources
            .iter()
            .any(|source| matches!(source, Source::Unknown) || source.meaning(name) == Some(Meaning::Tag));
        if !known && !scan::has_variable(name) {
            self.say(format!("{clause} `{name}`, which is no tag of {}", listed(sources)));
        }
    }
}

/// Notes a column under all its names.
fn column(columns: &mut Names, values: &mut Values, own: Vec<String>, few: Option<&Names>) {
    values.extend(few.into_iter().flat_map(|few| own.iter().map(|name| (name.clone(), few.clone()))));
    columns.extend(own);
}

/// The sources' names, for a message.
fn listed(sources: &[Source<'_>]) -> String {
    sources.iter().map(|source| format!("`{}`", source.name())).collect::<Vec<_>>().join(", ")
}

/// The tags of all sources; none if one of them isn't known.
fn all_tags(sources: &[Source<'_>]) -> Option<Names> {
    let mut all = Names::new();
    for source in sources {
        match source {
            Source::Measurement(_, one) => all.extend(one.tags.iter().cloned()),
            Source::Inner(Selected { tags: Some(tags), .. }) => all.extend(tags.iter().cloned()),
            Source::Inner(_) | Source::Unknown => return None,
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests;
