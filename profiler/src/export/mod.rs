//! What others read: one file per format, each a function from a snapshot to text. No I/O here.

pub mod catalogue;
pub mod json;
pub mod prometheus;
pub mod terminal;
