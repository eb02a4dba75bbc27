//! Analysing a file, inside the process: which allocators are in it, and where to probe them.

use std::fs::File;

use serde::{Deserialize, Serialize};

use crate::{
    binary::{self, Image},
    symbols, target,
};

/// What an analysis came to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysed {
    /// What the file holds, or why nothing can be said of it, in words.
    pub image: Result<Image, String>,
    /// Why the debug file that came along is of no use, in words. `image` is the file's without it, then.
    pub debug_problem: Option<String>,
}

/// Reads and analyses a file with the help of its debug file, if there is one that belongs to it. `python`: whether the
/// layers of a Python interpreter are looked for.
pub fn analyse(file: &File, debug: Option<&File>, python: bool) -> Analysed {
    let bytes = match target::read_object(file) {
        Ok(bytes) => bytes,
        Err(error) => return Analysed { image: Err(error.to_string()), debug_problem: None },
    };
    #[cfg(debug_assertions)]
    misbehave(&bytes);
    let words = |error: binary::BinaryError| error.to_string();
    let mut debug_problem = None;
    let mut image = binary::analyse(&bytes, None).map_err(words);
    if let (Some(debug), Ok(plain)) = (debug, &image) {
        match symbols::read(debug, plain.build_id.as_deref().unwrap_or_default()) {
            Ok(contents) => image = binary::analyse(&bytes, Some(&contents)).map_err(words),
            Err(error) => debug_problem = Some(error.to_string()),
        }
    }
    if let (true, Ok(image)) = (python, &mut image) {
        match binary::python::find(&bytes) {
            Ok(python) => image.python = python,
            Err(error) => image.symbol_problems.push(format!("Python's layers: {error}")),
        }
    }
    Analysed { image, debug_problem }
}

/// For tests, which know no file that an analysis dies of: in builds for tests, some files may ask for it by their last bytes.
#[cfg(debug_assertions)]
pub(super) fn misbehave(bytes: &[u8]) {
    if bytes.ends_with(b"profiler's worker: abort") {
        std::process::abort();
    }
    if bytes.ends_with(b"profiler's worker: hang") {
        loop {
            std::hint::spin_loop();
        }
    }
    assert!(!bytes.ends_with(b"profiler's worker: panic"), "as the file wants it");
}
