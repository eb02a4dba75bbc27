//! What Go's linker says of a program: the version, and the text that `go version -m` prints.
//!
//! The formats: Go's src/debug/buildinfo/buildinfo.go and src/runtime/debug/mod.go.

use super::image::{GoFile, u64_at};
use super::{BuildInfo, Module};

/// How the information begins, and on what it is aligned.
const MAGIC: (&[u8], u64) = (b"\xff Go buildinf:", 16);
/// Bytes in front of the texts.
const PREAMBLE: usize = 32;
/// Bytes of a version. The longest ones name experiments.
const MAX_VERSION: usize = 128;
/// Bytes of the text. That of a program with 1000 modules has 100 KB.
const MAX_TEXT: usize = 1 << 20;
/// Modules of a program.
pub const MAX_MODULES: usize = 4096;
/// Settings of a build; there are about 20.
pub const MAX_SETTINGS: usize = 1024;
/// Bytes in front of the text of modules and behind it, by which the linker finds it.
const FRAME: usize = 16;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The version as it is there.
    pub version: String,
    /// The rest, or why it isn't known.
    pub build: Result<BuildInfo, String>,
}

/// Reads the information, if it is there.
pub fn read(file: &GoFile<'_>) -> Option<Found> {
    let (address, blob) = find(file)?;
    let &flags = blob.get(15)?;
    let (version, text) = if flags & 2 != 0 {
        let (version, rest) = counted(blob.get(PREAMBLE..)?)?;
        (version, counted(rest).map(|(text, _)| text))
    } else {
        // Before Go 1.18: the addresses of two strings. Only those of our machines are read.
        (*blob.get(14)? == 8 && flags & 1 == 0).then_some(())?;
        let pointed = |at: u64| string(file, file.word(address.checked_add(at)?)?, MAX_TEXT);
        (pointed(16)?, pointed(24))
    };
    let version = version_text(version)?.to_owned();
    let build =
        text.and_then(framed).ok_or_else(|| "it was built without modules".to_owned()).and_then(parse);
    Some(Found { version, build })
}

/// Where it begins: in its own section, or somewhere in what is mapped writable.
fn find<'a>(file: &GoFile<'a>) -> Option<(u64, &'a [u8])> {
    let section = file.section(".go.buildinfo").map(|section| (section.address, section.bytes));
    let writable = file.segments.iter().filter(|segment| segment.writable);
    let places = section.into_iter().chain(writable.map(|segment| (segment.address, segment.bytes)));
    places.into_iter().find_map(|(address, bytes)| {
        let skip = usize::try_from(address.wrapping_neg() % MAGIC.1).ok()?;
        let mut chunks = bytes.get(skip..)?.chunks(MAGIC.0.len() + 2);
        let offset = skip + chunks.position(|chunk| chunk.starts_with(MAGIC.0))? * (MAGIC.0.len() + 2);
        Some((address.checked_add(offset as u64)?, bytes.get(offset..)?))
    })
}

/// The bytes behind their number (seven bits a byte, the lowest first), and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (length <= MAX_TEXT).then(|| bytes.get(index + 1..)?.split_at_checked(length))?;
        }
    }
    None
}

/// The text of a Go string at an address: address and length.
fn string<'a>(file: &GoFile<'a>, address: u64, limit: usize) -> Option<&'a [u8]> {
    let length =
        usize::try_from(file.word(address.checked_add(8)?)?).ok().filter(|&length| length <= limit)?;
    file.bytes(file.word(address)?, length)
}

/// The text, if it can be a version: `go1.22.1`, `go1.25.5 X:greenteagc`, `devel go1.24-abc Mon ...`.
fn version_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_VERSION)?;
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let number = text.strip_prefix("go1.").or_else(|| text.strip_prefix("devel ")).filter(|_| printable)?;
    number.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '+').then_some(text)
}

/// The version in `runtime.buildVersion`, where there is no build information: by its symbol, or as one of `places` at which
/// it may be (what `runtime.schedinit` refers to).
pub fn version_in(file: &GoFile<'_>, places: impl IntoIterator<Item = u64>) -> Option<String> {
    let [symbol] = file.symbols(["runtime.buildVersion"]);
    let version = |address: u64| version_text(string(file, address, MAX_VERSION)?).map(str::to_owned);
    symbol.and_then(|(address, _)| version(address)).or_else(|| places.into_iter().find_map(version))
}

/// The version as the only string among the program's variables that looks like one.
pub fn version_among(file: &GoFile<'_>) -> Option<String> {
    let data = [".data", ".noptrdata"].iter().filter_map(|name| file.section(name));
    let mut places: Vec<_> = data.map(|section| (section.address, section.bytes)).collect();
    if places.is_empty() {
        let writable = file.segments.iter().filter(|segment| segment.writable);
        places = writable.map(|segment| (segment.address, segment.bytes)).collect();
    }
    let mut found: Option<&str> = None;
    for (start, bytes) in places {
        for offset in (0..bytes.len().saturating_sub(15)).step_by(8) {
            let length = u64_at(bytes, offset + 8).and_then(|length| usize::try_from(length).ok());
            if length.is_none_or(|length| !(5..=MAX_VERSION).contains(&length)) {
                continue;
            }
            let text =
                start.checked_add(offset as u64).and_then(|address| string(file, address, MAX_VERSION));
            match text.and_then(version_text) {
                Some(text) if found.is_some_and(|found| found != text) => return None,
                Some(text) => found = Some(text),
                None => (),
            }
        }
    }
    found.map(str::to_owned)
}

/// The text without its frame; `None` if there is none.
fn framed(text: &[u8]) -> Option<&[u8]> {
    let end = text.len().checked_sub(FRAME).filter(|&end| end > FRAME)?;
    (*text.get(end - 1)? == b'\n').then(|| text.get(FRAME..end))?
}

/// The lines `path`, `mod`, `dep`, `=>` and `build`, each with a tab behind. Others may come with later versions.
pub(super) fn parse(text: &[u8]) -> Result<BuildInfo, String> {
    let text = String::from_utf8_lossy(text);
    let mut info = BuildInfo::default();
    // Whether a replacement may follow, and what it is for.
    let mut last = Last::None;
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once('\t') else { continue };
        match kind {
            "path" => rest.clone_into(&mut info.path),
            "mod" => {
                info.main = module(rest);
                last = Last::Main;
            }
            "dep" if info.dependencies.len() == MAX_MODULES => {
                return Err(format!("it names more than {MAX_MODULES} modules"));
            }
            "dep" => {
                let known = info.dependencies.len();
                info.dependencies.extend(module(rest));
                last = if info.dependencies.len() > known { Last::Dependency } else { Last::None };
            }
            "=>" => {
                let module = module(rest).map(Box::new);
                let replaced = match std::mem::replace(&mut last, Last::None) {
                    Last::None => None,
                    Last::Main => info.main.as_mut(),
                    Last::Dependency => info.dependencies.last_mut(),
                };
                if let Some(replaced) = replaced {
                    replaced.replace = module;
                }
            }
            "build" if info.settings.len() == MAX_SETTINGS => {
                return Err(format!("it names more than {MAX_SETTINGS} settings"));
            }
            "build" => info.settings.extend(setting(rest)),
            _ => (),
        }
    }
    Ok(info)
}

/// The module of the line before.
enum Last {
    None,
    Main,
    Dependency,
}

/// Path, version and, mostly, checksum.
fn module(line: &str) -> Option<Module> {
    let mut columns = line.split('\t');
    let mut next = || columns.next().map(str::to_owned);
    let (path, version) = (next()?, next()?);
    Some(Module { path, version, sum: next().unwrap_or_default(), replace: None })
}

/// `key=value`, each of which is quoted if it needs to be.
fn setting(line: &str) -> Option<(String, String)> {
    let (key, rest) = if line.starts_with(['"', '`']) {
        unquoted(line)?
    } else {
        let (key, _) = line.split_once('=')?;
        (key.to_owned(), line.get(key.len()..)?)
    };
    let value = rest.strip_prefix('=')?;
    let value = if value.starts_with(['"', '`']) { unquoted(value)?.0 } else { value.to_owned() };
    (!key.is_empty()).then_some((key, value))
}

/// The text that a Go string literal at the beginning means, and what follows (Go's language specification, "String
/// literals").
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.chars();
    let quote = rest.next()?;
    let mut bytes = Vec::new();
    let push = |bytes: &mut Vec<u8>, c: char| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    loop {
        match rest.next()? {
            c if c == quote => return Some((String::from_utf8_lossy(&bytes).into_owned(), rest.as_str())),
            '\\' if quote == '"' => match rest.next()? {
                'a' => bytes.push(7),
                'b' => bytes.push(8),
                'f' => bytes.push(12),
                'n' => bytes.push(b'\n'),
                'r' => bytes.push(b'\r'),
                't' => bytes.push(b'\t'),
                'v' => bytes.push(11),
                'x' => bytes.push(u8::try_from(digits(&mut rest, 2)?).ok()?),
                'u' => push(&mut bytes, char::from_u32(digits(&mut rest, 4)?)?),
                'U' => push(&mut bytes, char::from_u32(digits(&mut rest, 8)?)?),
                same @ ('\\' | '"') => push(&mut bytes, same),
                _ => return None,
            },
            c => push(&mut bytes, c),
        }
    }
}

fn digits(text: &mut std::str::Chars<'_>, count: usize) -> Option<u32> {
    (0..count).try_fold(0_u32, |number, _| number.checked_mul(16)?.checked_add(text.next()?.to_digit(16)?))
}
