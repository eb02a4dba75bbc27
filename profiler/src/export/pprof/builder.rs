//! Puts a profile together: every string, file, place and function once.

use std::{collections::HashMap, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;

use super::wire;
use crate::stack::{Frame, Function};

/// Where every file ends, so that two profiles of it are of the same size and can be compared: above all addresses.
const LIMIT: u64 = 1 << 56;

/// A profile in the making.
#[derive(Default)]
pub struct Builder<'a> {
    /// What is done so far.
    pub profile: wire::Profile,
    strings: HashMap<String, i64>,
    mappings: HashMap<&'a str, u64>,
    locations: HashMap<(&'a str, u64, &'a [Function]), u64>,
    named: HashMap<String, u64>,
    functions: HashMap<(i64, i64), u64>,
}

impl<'a> Builder<'a> {
    /// An empty one.
    pub fn new() -> Self {
        let mut builder = Self::default();
        builder.string("");
        builder
    }

    /// The string's place in the table. Zero bytes would end a name early for some readers.
    pub fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.replace('\0', "\u{fffd}"));
        self.strings.insert(text.to_owned(), number);
        number
    }

    /// Declares the values of every sample: kinds and units, in order; and which one is shown first.
    pub fn values(&mut self, types: &[(&str, &str)], shown: &str) {
        self.profile.sample_type = types.iter().map(|(kind, unit)| self.value_type(kind, unit)).collect();
        self.profile.default_sample_type = self.string(shown);
    }

    /// Declares what the period counts.
    pub fn period(&mut self, kind: &str, unit: &str, period: u64) {
        self.profile.period_type = Some(self.value_type(kind, unit));
        self.profile.period = i64::try_from(period).unwrap_or(i64::MAX);
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> wire::ValueType {
        wire::ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    /// A remark for people.
    pub fn comment(&mut self, text: &str) {
        let text = self.string(text);
        self.profile.comment.push(text);
    }

    /// A sample; labels without a value are left out.
    pub fn sample(&mut self, location_id: Vec<u64>, value: Vec<i64>, labels: &[(&str, &str)]) {
        let labels = labels.iter().filter(|(_, text)| !text.is_empty());
        let label = labels.map(|(key, text)| wire::Label {
            key: self.string(key),
            text: self.string(text),
            number: 0,
        });
        let label = label.collect();
        self.profile.sample.push(wire::Sample { location_id, value, label });
    }

    /// A sample of objects of a size, which it bears as Go's heap profiles do (`bytes`).
    pub fn sized_sample(
        &mut self,
        location_id: Vec<u64>,
        value: Vec<i64>,
        labels: &[(&str, &str)],
        size: u64,
    ) {
        self.sample(location_id, value, labels);
        let label = wire::Label {
            key: self.string("bytes"),
            text: 0,
            number: i64::try_from(size).unwrap_or(i64::MAX),
        };
        if let Some(sample) = self.profile.sample.last_mut() {
            sample.label.push(label);
        }
    }

    /// The file of a build; `object` is its path.
    pub fn mapping(&mut self, build: &'a str, object: &str) -> u64 {
        if let Some(known) = self.mappings.get(build) {
            return *known;
        }
        let id = self.profile.mapping.len() as u64 + 1;
        let is_id = build.len() >= 8 && build.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mapping = wire::Mapping {
            id,
            memory_start: 0,
            memory_limit: LIMIT,
            file_offset: 0,
            filename: self.string(if object.is_empty() { build } else { object }),
            build_id: self.string(if is_id { build } else { "" }),
            // A place of which nobody knows the name is called by its file and offset.
            has_functions: true,
            has_filenames: false,
            has_line_numbers: false,
            has_inline_frames: true,
        };
        self.profile.mapping.push(mapping);
        self.mappings.insert(build, id);
        id
    }

    /// The place of a frame.
    pub fn location(&mut self, frame: &'a Frame) -> u64 {
        let key = (&*frame.place.build, frame.place.offset, frame.functions.as_slice());
        if let Some(known) = self.locations.get(&key) {
            return *known;
        }
        let mapping_id = self.mapping(&frame.place.build, &frame.object);
        let mut line = Vec::with_capacity(frame.functions.len().max(1));
        for function in &frame.functions {
            let file = function.file.as_deref().unwrap_or("");
            let function_id = self.function(&function.name, file);
            line.push(wire::Line { function_id, line: i64::from(function.line) });
            if let Some(mapping) = self.profile.mapping.get_mut(mapping_id as usize - 1) {
                mapping.has_filenames |= !file.is_empty();
                mapping.has_line_numbers |= function.line > 0;
            }
        }
        if line.is_empty() {
            for name in frame.names() {
                line.push(wire::Line { function_id: self.function(&name, ""), line: 0 });
            }
        }
        let id = self.add_location(mapping_id, frame.place.offset, line);
        self.locations.insert(key, id);
        id
    }

    /// A place that is only a word.
    pub fn word(&mut self, name: &str) -> u64 {
        if let Some(known) = self.named.get(name) {
            return *known;
        }
        let function_id = self.function(name, "");
        let id = self.add_location(0, 0, vec![wire::Line { function_id, line: 0 }]);
        self.named.insert(name.to_owned(), id);
        id
    }

    fn add_location(&mut self, mapping_id: u64, address: u64, line: Vec<wire::Line>) -> u64 {
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(wire::Location { id, mapping_id, address, line });
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) =
            (self.string(if name.is_empty() { "[nameless]" } else { name }), self.string(file));
        if let Some(known) = self.functions.get(&(name, filename)) {
            return *known;
        }
        let id = self.profile.function.len() as u64 + 1;
        self.profile.function.push(wire::Function { id, name, filename });
        self.functions.insert((name, filename), id);
        id
    }

    /// The bytes, packed.
    pub fn finish(self) -> Vec<u8> {
        let plain = self.profile.encode_to_vec();
        let mut gzip = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
        // Writing to a vector can't fail; if it did, readers take a plain profile as well.
        match gzip.write_all(&plain).and_then(|()| gzip.finish()) {
            Ok(packed) => packed,
            Err(_) => plain,
        }
    }
}
