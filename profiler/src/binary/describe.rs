//! What a program was built from, from its file alone.

use serde::{Deserialize, Serialize};

use super::{
    auditable,
    go::{self, GoError, GoImage},
};

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

/// Describes a program by its file's bytes. What can't be read is told in [`Description::trouble`].
pub fn describe(image: &[u8]) -> Description {
    let mut trouble = Vec::new();
    let go = of_go(image).unwrap_or_else(|error| {
        trouble.push(format!("what Go's linker wrote: {error}"));
        None
    });
    let crates = auditable::crates(image).unwrap_or_else(|error| {
        trouble.push(format!("the list of its crates: {error}"));
        Vec::new()
    });
    Description { go, crates, trouble }
}

/// Of a machine of 32 bits, or of the other byte order, no program of Go's is read: that is no damage.
fn of_go(image: &[u8]) -> Result<Option<GoImage>, GoError> {
    if image.starts_with(b"\x7fELF\x02\x01") { go::analyse(image) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_that_is_no_program_nothing_is_said() {
        assert_eq!(describe(b"#!/bin/sh\n"), Description::default());
        assert_eq!(describe(b""), Description::default());
    }
}
