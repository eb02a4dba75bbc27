//! The crates that a Rust program was built from, as `cargo auditable` lists them in the ELF section `.dep-v0`: JSON,
//! compressed with zlib (cargo-auditable's PARSING.md and its schema, `cargo-auditable.schema.json`).
//!
//! The section belongs to whoever made the file, so that neither its size nor what it grows to is trusted.

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::{
    elf::{Header, LE},
    sections::Sections,
};

/// Compressed bytes that are read. Those of large programs are some kilobytes.
const MAX_COMPRESSED: usize = 8 << 20;
/// Bytes that they may grow to: the format's own advice is 8 MiB.
const MAX_UNPACKED: u64 = 32 << 20;
/// Crates that are told.
const MAX_CRATES: usize = 10_000;

/// Why there is no list, although there is the section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuditableError {
    /// It is too large.
    #[error("{size} bytes, more than the {MAX_COMPRESSED} that are read")]
    Large {
        /// Its size.
        size: usize,
    },
    /// It isn't compressed as it should be.
    #[error("it can't be unpacked: {0}")]
    Packed(String),
    /// It is too large when unpacked.
    #[error("it grows to more than {MAX_UNPACKED} bytes")]
    Grows,
    /// It isn't the JSON that it should be.
    #[error("it makes no sense: {0}")]
    Json(String),
    /// There are too many.
    #[error("{count} crates, more than the {MAX_CRATES} that are read")]
    Many {
        /// How many there are.
        count: usize,
    },
}

#[derive(Deserialize)]
struct List {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// `runtime` if it is missing.
    #[serde(default)]
    kind: Option<String>,
}

/// Names and versions of the crates in a program, its own among them, in the order of the list. Those that only took part in
/// building it are left out. Empty if the file has no such section, or is no ELF file of 64 bits.
pub(super) fn crates(image: &[u8]) -> Result<Vec<(String, String)>, AuditableError> {
    section(image).map_or_else(|| Ok(Vec::new()), list)
}

fn section(image: &[u8]) -> Option<&[u8]> {
    use object::read::elf::FileHeader as _;
    let header = Header::parse(image).ok()?;
    if !header.is_type_64() || header.endian().ok()? != LE {
        return None;
    }
    Sections::read(image).ok()?.contents(".dep-v0")
}

fn list(compressed: &[u8]) -> Result<Vec<(String, String)>, AuditableError> {
    if compressed.len() > MAX_COMPRESSED {
        return Err(AuditableError::Large { size: compressed.len() });
    }
    let mut unpacked = Vec::new();
    // One byte more than is allowed tells a list that just fits from one that goes on.
    let mut decoder = ZlibDecoder::new(compressed).take(MAX_UNPACKED + 1);
    decoder.read_to_end(&mut unpacked).map_err(|error| AuditableError::Packed(error.to_string()))?;
    if unpacked.len() as u64 > MAX_UNPACKED {
        return Err(AuditableError::Grows);
    }
    let list: List =
        serde_json::from_slice(&unpacked).map_err(|error| AuditableError::Json(error.to_string()))?;
    if list.packages.len() > MAX_CRATES {
        return Err(AuditableError::Many { count: list.packages.len() });
    }
    let in_it = list.packages.into_iter().filter(|package| package.kind.as_deref() != Some("build"));
    Ok(in_it.map(|package| (package.name, package.version)).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;
    use crate::binary::tests::built::Workshop;

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// The example of cargo-auditable's own documentation, and a crate that builds only.
    const LIST: &str = r#"{"packages":[{"name":"adler","version":"0.2.3","source":"registry"},
        {"name":"cc","version":"1.0.7","source":"crates.io","kind":"build"},
        {"name":"one","version":"0.1.0","source":"local","kind":"runtime","dependencies":[0],"root":true}]}"#;

    fn told() -> Vec<(String, String)> {
        [("adler", "0.2.3"), ("one", "0.1.0")].map(|(name, version)| (name.into(), version.into())).to_vec()
    }

    #[test]
    fn crates_are_told_from_the_section_of_a_real_program() {
        let Some(workshop) = Workshop::with(&["gcc", "objcopy", "strip"]) else { return };
        workshop.build("gcc");
        workshop.write("list", &packed(LIST));
        workshop.run("objcopy --add-section .dep-v0=list stripped audited");
        assert_eq!(crates(&workshop.read("audited")), Ok(told()));
        assert_eq!(crates(&workshop.read("stripped")), Ok(Vec::new()));
        workshop.write("list", b"no zlib");
        workshop.run("objcopy --add-section .dep-v0=list stripped damaged");
        assert!(matches!(crates(&workshop.read("damaged")), Err(AuditableError::Packed(_))));
    }

    #[test]
    fn a_list_that_is_too_long_or_no_list_is_refused() {
        assert_eq!(list(&packed(LIST)), Ok(told()));
        assert_eq!(
            list(&vec![0; MAX_COMPRESSED + 1]),
            Err(AuditableError::Large { size: MAX_COMPRESSED + 1 })
        );
        assert_eq!(list(&packed(&" ".repeat(33 << 20))), Err(AuditableError::Grows));
        assert!(matches!(list(&packed(r#"{"packages":7}"#)), Err(AuditableError::Json(_))));
        // Deeper than any parser's stack.
        assert!(matches!(list(&packed(&"[".repeat(1 << 20))), Err(AuditableError::Json(_))));
        let many = vec![r#"{"name":"a","version":"1"}"#; MAX_CRATES + 1].join(",");
        let many = format!(r#"{{"packages":[{many}]}}"#);
        assert_eq!(list(&packed(&many)), Err(AuditableError::Many { count: MAX_CRATES + 1 }));
        let whole = packed(LIST);
        assert!(matches!(list(&whole[..whole.len() / 2]), Err(AuditableError::Packed(_))));
    }
}
