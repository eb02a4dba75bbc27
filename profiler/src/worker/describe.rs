//! Describing a program, inside the process: what it was built from.

use std::fs::File;

use crate::{
    binary::describe::{self, Description},
    target,
};

/// Reads and describes a file. That it can't be read is said in the description.
pub fn describe(file: &File) -> Description {
    let bytes = match target::read_object(file) {
        Ok(bytes) => bytes,
        Err(error) => return Description { trouble: vec![error.to_string()], ..Description::default() },
    };
    #[cfg(debug_assertions)]
    super::analyse::misbehave(&bytes);
    describe::describe(&bytes)
}
