//! What others read: one file per format, each a function from a snapshot or a picture of leaks to bytes. No I/O here.

pub mod catalogue;
pub mod comparison;
pub mod families;
pub mod flamegraph;
pub mod folded;
pub mod goroutines;
pub mod html;
pub mod json;
pub mod leaks;
pub mod line_protocol;
pub mod openmetrics;
pub mod page;
pub mod points;
pub mod pprof;
pub mod prometheus;
pub mod terminal;
pub mod weigh;
