//! A running Go program, found in its process: where its runtime's figures are there, and what is remembered between reads.

use std::{sync::Arc, time::Instant};

use crate::{binary::go::Places, runtime::Memory};

use super::{
    GoError,
    figures::{Cost, Figures, Plan, Processors, Rules, View},
};

/// Sizes of pages are multiples of this.
const PAGE: u64 = 4096;
/// Lines of `/proc/PID/maps` that are looked at.
const LINES: usize = 1 << 20;

/// What file a mapping is of, as `/proc/PID/maps` has it: device (major and minor number) and inode. On some file systems
/// `stat` says another device.
pub type FileId = ((i32, i32), u64);

/// How far from the file's addresses the process has it: zero unless it is position-independent. Wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bias(u64);

impl Bias {
    /// Where an address of the file is in the process.
    pub const fn live(self, address: u64) -> u64 {
        address.wrapping_add(self.0)
    }

    /// Where an address of the process is in the file.
    pub const fn file(self, address: u64) -> u64 {
        address.wrapping_sub(self.0)
    }

    /// Finds the program in the process's mappings.
    ///
    /// The kernel maps the first segment lowest (`load_elf_binary` in fs/binfmt_elf.c); a program can have mapped its own file
    /// once more, to read it. It is the mapping from which the code is where code is mapped.
    ///
    /// # Errors
    ///
    /// If nothing of that file is mapped.
    pub fn find(places: &Places, maps: &str, exe: FileId) -> Result<Self, GoError> {
        let ranges: Vec<Range> =
            maps.lines().take(LINES).filter_map(Range::parse).filter(|range| range.file == exe).collect();
        let from = ranges.iter().map(|range| range.offset).min();
        let candidates: Vec<Self> = ranges
            .iter()
            .filter(|range| Some(range.offset) == from)
            .map(|range| Self(range.start.wrapping_sub(places.base / PAGE * PAGE)))
            .collect();
        let holds = |bias: &&Self| {
            let text = bias.live(places.text.start);
            ranges.iter().any(|range| range.code && (range.start..range.end).contains(&text))
        };
        let found = candidates.iter().find(holds).or_else(|| candidates.first());
        found.copied().ok_or_else(|| GoError::Unavailable("its program isn't mapped".into()))
    }
}

/// A line of `/proc/PID/maps`.
#[derive(Debug)]
struct Range {
    start: u64,
    end: u64,
    code: bool,
    offset: u64,
    file: FileId,
}

impl Range {
    /// Documentation/filesystems/proc.rst, 1.1: `start-end permissions offset device inode path`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let code = fields.next()?.contains('x');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text: &str| i32::from_str_radix(text, 16).ok();
        let file = ((number(major)?, number(minor)?), fields.next()?.parse().ok()?);
        Some(Self { start: hex(start)?, end: hex(end)?, code, offset, file })
    }
}

/// The runtime of a process, and what was learned of it.
#[derive(Debug)]
pub struct GoRuntime<M> {
    pub(super) memory: M,
    pub(super) places: Arc<Places>,
    pub(super) bias: Bias,
    pub(super) plan: Plan,
    pub(super) rules: Rules,
    pub(super) processors: Processors,
    pub(super) cost: Cost,
    /// Reads one behind the other, at distinct moments, whose sums never agreed.
    pub(super) doubted: u32,
    /// When the last of them was.
    pub(super) doubted_at: Option<Instant>,
}

impl<M: Memory> GoRuntime<M> {
    /// Looks a runtime up in its process, and reads its figures once, to see whether they can be true.
    ///
    /// # Errors
    ///
    /// If it isn't there, can't be read, or what is read can't be true: then the table doesn't fit the program.
    pub fn attach(places: &Arc<Places>, memory: M, maps: &str, exe: FileId) -> Result<Self, GoError> {
        let bias = Bias::find(places, maps, exe)?;
        let mut runtime = Self {
            plan: Plan::of(places, bias)?,
            rules: Rules::of(&places.table),
            places: Arc::clone(places),
            memory,
            bias,
            processors: Processors::default(),
            cost: Cost::default(),
            doubted: u32::MAX,
            doubted_at: None,
        };
        let _first: Figures = runtime.read(View::Metrics)?;
        Ok(runtime)
    }

    /// Where the program is in the process.
    pub const fn bias(&self) -> Bias {
        self.bias
    }

    /// What is known of the program's file.
    pub const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The process's memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// What the last reading of figures cost.
    pub const fn cost(&self) -> Cost {
        self.cost
    }
}
