//! The messages of `profile.proto`, by the field numbers of its public specification
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>). Strings are indices into the table of strings.

/// A whole profile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Profile {
    /// What each value of a sample means.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The samples.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Files; the first one is the program.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Places in them.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// What is there.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// Every string once; the first one is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// When, nanoseconds since the epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// For how long.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What the period counts.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// One sample per so many of them.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Remarks for people.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// The value that is shown unless another one is asked for.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// What a value is, and its unit.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ValueType {
    /// What.
    #[prost(int64, tag = "1")]
    pub kind: i64,
    /// Unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack and its values.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Sample {
    /// Innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One per type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// More about it.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A remark on a sample.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Label {
    /// Which.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Its value.
    #[prost(int64, tag = "2")]
    pub text: i64,
    /// Its value, if that is a number.
    #[prost(int64, tag = "3")]
    pub number: i64,
}

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Mapping {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where it begins.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Where it ends.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Where in the file it begins.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Its path.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Its build id.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// Its places have names.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// Source files are known.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// Lines are known.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    /// Inlined functions are shown.
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A place.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Location {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its file.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Its address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// The functions there, the innermost first.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A function at a place.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Line {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Where in its source.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function. Its `system_name` (3) stays empty: where it is the same as the name, Go's reader takes the name for a mangled one
/// and cuts template arguments out of it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Function {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Its source.
    #[prost(int64, tag = "4")]
    pub filename: i64,
}
