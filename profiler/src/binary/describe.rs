//! What a program was built from, from its file alone.

use serde::{Deserialize, Serialize};

use super::go::GoImage;

/// What a program's file tells of its making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What Go's linker wrote, if that made it.
    pub go: Option<GoImage>,
    /// The crates that a Rust program was built from, by name and version, as `cargo auditable` writes them.
    pub crates: Vec<(String, String)>,
    /// What of it is damaged, in words.
    pub trouble: Vec<String>,
}
