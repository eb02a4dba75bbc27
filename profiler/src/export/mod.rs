//! What others read: one file per format, each a function from a snapshot to text. No I/O here.

pub mod catalogue;
pub mod comparison;
pub mod json;
pub mod leaks;
pub mod prometheus;
pub mod terminal;
