//! JSON as influxd answers, with numbers as they are written: no digit of a float is lost.

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Boolean(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.members().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn items(&self) -> &[Json] {
        if let Self::List(items) = self { items } else { &[] }
    }

    pub fn members(&self) -> &[(String, Json)] {
        if let Self::Object(members) = self { members } else { &[] }
    }

    pub fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { panic!("{self:?} is no text") }
    }

    pub fn number(&self) -> &str {
        if let Self::Number(text) = self { text } else { panic!("{self:?} is no number") }
    }
}

/// All values in a text, one after the other.
pub fn documents(text: &str) -> Vec<Json> {
    let mut rest = Reader { bytes: text.as_bytes(), at: 0 };
    let mut all = Vec::new();
    while rest.peek().is_some() {
        all.push(rest.value());
    }
    all
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte that isn't white space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, expected: u8) -> bool {
        let there = self.peek() == Some(expected);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, expected: u8) {
        assert!(self.skip(expected), "no {:?} at byte {}", char::from(expected), self.at);
    }

    fn value(&mut self) -> Json {
        match self.peek().expect("a value") {
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                while !self.skip(b'}') {
                    let key = self.text();
                    self.expect(b':');
                    members.push((key, self.value()));
                    self.skip(b',');
                }
                Json::Object(members)
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.skip(b']') {
                    items.push(self.value());
                    self.skip(b',');
                }
                Json::List(items)
            }
            b'"' => Json::Text(self.text()),
            _ => {
                let word = self.bytes[self.at..]
                    .iter()
                    .take_while(|byte| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r'))
                    .count();
                let word = std::str::from_utf8(&self.bytes[self.at..self.at + word]).expect("ASCII");
                self.at += word.len();
                match word {
                    "null" => Json::Null,
                    "true" => Json::Boolean(true),
                    "false" => Json::Boolean(false),
                    number => Json::Number(number.to_owned()),
                }
            }
        }
    }

    fn text(&mut self) -> String {
        self.expect(b'"');
        let begin = self.at;
        loop {
            match self.bytes[self.at] {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        let inside = &self.bytes[begin - 1..=self.at];
        self.at += 1;
        if !inside.contains(&b'\\') {
            return String::from_utf8(inside[1..inside.len() - 1].to_vec()).expect("UTF-8");
        }
        serde_json::from_slice(inside).expect("a text")
    }
}
