//! Names for places in files, with inlined functions: by Go's own tables for what Go has compiled, which needs no debug
//! information, and by blazesym for all else.
//!
//! blazesym opens files by name. `/proc/self/fd/N` is such a name, but opening it asks for the right to read the file, which
//! this process need not have (its client had, and passed a descriptor). So a file that can't be opened once more is copied
//! into memory: only what naming needs, at the same offsets, so that the rest takes none. Files that anybody may read, as
//! packages install them, are not copied: big debug files cost no more than the system's cache of them.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use super::elf::{Image, is_go, parts_for_names};
use crate::{binary::go::Lines, stack::Function, target};

/// More than this is not copied of a file.
const COPY_LIMIT: u64 = 512 << 20;
/// Functions that are told of one place, at most: a hundred inlined into each other have not been seen.
const FUNCTIONS_LIMIT: usize = 100;
/// Longest name that is told, in bytes; the client cuts further.
const NAME_LIMIT: usize = 4096;

/// What is known of the names in a file.
pub struct Names {
    /// Of a program that Go has made.
    go: Option<Lines>,
    /// The debug file's first, if there is one: it knows more.
    sources: Vec<Named>,
}

struct Named {
    symbolizer: Symbolizer,
    path: PathBuf,
    /// Its memory lives as long as this.
    _copy: Option<File>,
}

impl Names {
    /// Of a file and its debug file.
    pub fn new(file: &File, debug: Option<&File>) -> Self {
        let sources = debug.into_iter().chain([file]).filter_map(|file| Named::new(file).ok()).collect();
        Self { go: go_lines(file), sources }
    }

    /// The functions at places of the file, innermost first.
    pub fn functions(&self, image: &Image, offsets: &[u64]) -> Vec<Vec<Function>> {
        let by_go = |offset: &u64| {
            let functions = self.go.as_ref()?.functions(image.address_of(*offset)?);
            Some(functions.into_iter().map(cut_function).collect())
        };
        let mut answers: Vec<Vec<Function>> =
            offsets.iter().map(|offset| by_go(offset).unwrap_or_default()).collect();
        for source in &self.sources {
            let wanted: Vec<(usize, u64)> = offsets
                .iter()
                .enumerate()
                .filter(|(at, _)| answers.get(*at).is_some_and(Vec::is_empty))
                .filter_map(|(at, offset)| Some((at, image.address_of(*offset)?)))
                .collect();
            let addresses: Vec<u64> = wanted.iter().map(|(_, address)| *address).collect();
            if addresses.is_empty() {
                continue;
            }
            for ((at, _), functions) in wanted.iter().zip(source.functions(&addresses)) {
                if let Some(answer) = answers.get_mut(*at) {
                    *answer = functions;
                }
            }
        }
        answers
    }
}

/// The tables of a Go program. The file is read as a whole and let go again: what is needed of it is a fifth.
fn go_lines(file: &File) -> Option<Lines> {
    if !is_go(file) {
        return None;
    }
    Lines::new(&target::read_object(file).ok()?)
}

impl Named {
    fn new(file: &File) -> io::Result<Self> {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (path, copy) = match File::open(path(file)) {
            Ok(_) => (path(file), None),
            Err(_) => {
                let copy = copy(file)?;
                (path(&copy), Some(copy))
            }
        };
        // No directories of debug files: they are ours, and the file may be a container's.
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(true)
            .set_debug_dirs(Some([] as [&Path; 0]))
            .build();
        Ok(Self { symbolizer, path, _copy: copy })
    }

    fn functions(&self, addresses: &[u64]) -> Vec<Vec<Function>> {
        let mut elf = Elf::new(&self.path);
        let mut answer = self.symbolizer.symbolize(&Source::Elf(elf.clone()), Input::VirtOffset(addresses));
        if answer.is_err() {
            // Damaged debug information, or a link to some that doesn't fit. The symbols may do.
            elf.debug_syms = false;
            answer = self.symbolizer.symbolize(&Source::Elf(elf), Input::VirtOffset(addresses));
        }
        let Ok(answer) = answer else { return vec![Vec::new(); addresses.len()] };
        answer
            .into_iter()
            .map(|place| match place {
                Symbolized::Sym(symbol) => functions(&symbol),
                Symbolized::Unknown(_) => Vec::new(),
            })
            .collect()
    }
}

/// blazesym tells them from the outermost to the innermost.
fn functions(symbol: &Sym<'_>) -> Vec<Function> {
    let inlined = symbol.inlined.iter().rev().map(|inner| function(&inner.name, inner.code_info.as_ref()));
    let called = function(&symbol.name, symbol.code_info.as_deref());
    inlined.chain([called]).take(FUNCTIONS_LIMIT).collect()
}

fn function(name: &str, place: Option<&CodeInfo<'_>>) -> Function {
    let file = place.map(|place| {
        let path = place.to_path();
        Arc::from(cut(&path.to_string_lossy()))
    });
    Function { name: Arc::from(cut(name)), file, line: place.and_then(|place| place.line).unwrap_or(0) }
}

fn cut_function(function: Function) -> Function {
    let Function { name, file, line } = function;
    let cut = |text: Arc<str>| if text.len() > NAME_LIMIT { Arc::from(cut(&text)) } else { text };
    Function { name: cut(name), file: file.map(cut), line }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(NAME_LIMIT)).unwrap_or(text)
}

/// What naming needs of a file, in memory that can be opened by name.
fn copy(file: &File) -> io::Result<File> {
    let copy = File::from(rustix::fs::memfd_create("names", rustix::fs::MemfdFlags::CLOEXEC)?);
    let size = file.metadata()?.len();
    copy.set_len(size)?;
    let mut total = 0_u64;
    let mut buffer = vec![0; 1 << 18];
    for (mut offset, length) in parts_for_names(file) {
        total = total.saturating_add(length);
        let end = offset.checked_add(length).filter(|end| *end <= size && total <= COPY_LIMIT);
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        while offset < end {
            let chunk = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..chunk], offset)?;
            copy.write_all_at(&buffer[..chunk], offset)?;
            offset += chunk as u64;
        }
    }
    Ok(copy)
}
