//! What unwinding and naming need of an ELF file (64 bits, little endian), read part by part from its descriptor: no part of
//! it is mapped, nothing it says about itself is believed, and what is kept of it is bounded.
//!
//! Layout: System V ABI, chapter 4 and 5; `.eh_frame_hdr`: LSB Core 5.0, 10.6.2.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

/// Longest `.eh_frame` that is read. The largest known (a web browser's) has 20 MB.
const TABLES_LIMIT: u64 = 256 << 20;
/// Program and section headers that are looked at; more can't be counted by 16 bits, which is all that the header has.
const HEADERS_LIMIT: u64 = 0xffff;

/// Bytes of sections' names that are looked at.
const NAMES_LIMIT: u64 = 1 << 20;
/// Sections of Go's linker. The first one is missing in some position-independent programs, and the second one in those
/// without build information.
const GO_SECTIONS: [&[u8]; 3] = [b".gopclntab\0", b".go.buildinfo\0", b".note.go.buildid\0"];

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const SHT_PROGBITS: u32 = 1;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;

/// Where bytes come from.
pub trait Source {
    /// So many bytes from there on; `None` if there aren't as many.
    fn bytes(&self, offset: u64, length: u64) -> Option<Vec<u8>>;
}

impl Source for File {
    fn bytes(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        // Asked first, because a damaged length would otherwise take memory before the end of the file is met.
        let end = offset.checked_add(length)?;
        if end > self.metadata().ok()?.len() {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

impl Source for [u8] {
    fn bytes(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.get(start..end).map(<[u8]>::to_vec)
    }
}

/// A part of the file that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where in the file.
    pub offset: u64,
    /// Where in memory, as the file states it.
    pub address: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Whether it is code.
    pub code: bool,
}

/// Bytes and the address that the file states for them.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The address.
    pub address: u64,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

/// What a program or library says of its layout, and its unwind tables.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Loaded parts.
    pub loads: Vec<Load>,
    /// Where a program starts; zero if it is none.
    pub entry: u64,
    /// The index of the unwind tables, if there is one.
    pub index: Option<Part>,
    /// The unwind tables (`.eh_frame`), if there are any.
    pub tables: Option<Part>,
}

/// A section's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
}

struct Header {
    entry: u64,
    programs: (u64, u64),
    sections: (u64, u64),
    names: u64,
}

impl Image {
    /// Reads it; `None` if it is no ELF file of our kind or says nothing of its layout.
    pub fn read<S: Source + ?Sized>(source: &S) -> Option<Self> {
        let header = Header::read(source)?;
        let table = source.bytes(header.programs.0, header.programs.1 * 56)?;
        let mut image = Self { entry: header.entry, ..Self::default() };
        let mut index_at = None;
        for entry in table.chunks_exact(56) {
            let load = Load {
                offset: word(entry, 8)?,
                address: word(entry, 16)?,
                size: word(entry, 32)?,
                code: half(entry, 4)? & PF_X != 0,
            };
            match half(entry, 0)? {
                PT_LOAD => image.loads.push(load),
                PT_GNU_EH_FRAME => index_at = Some(load),
                _ => {}
            }
        }
        if image.loads.is_empty() {
            return None;
        }
        if let Some(at) = index_at {
            image.read_by_index(source, at);
        }
        if image.tables.is_none() {
            // Statically linked programs may have no index.
            image.read_by_section(source, &header);
        }
        Some(image)
    }

    /// As the program's own unwinder finds them: the index names the tables, which end with their segment at the latest.
    fn read_by_index<S: Source + ?Sized>(&mut self, source: &S, at: Load) -> Option<()> {
        if at.size > TABLES_LIMIT {
            return None;
        }
        let index = source.bytes(at.offset, at.size)?;
        // Version 1; the pointer to the tables relative to itself, in 4 bytes with a sign (DW_EH_PE_pcrel | sdata4), as all
        // linkers write it.
        if index.get(..2)? != [1, 0x1b] {
            return None;
        }
        let distance = i32::from_le_bytes(index.get(4..8)?.try_into().ok()?);
        let address = at.address.wrapping_add(4).wrapping_add_signed(i64::from(distance));
        let load = self.loads.iter().find(|load| load.contains(address))?;
        let inside = address - load.address;
        let length = (load.size - inside).min(TABLES_LIMIT);
        let bytes = source.bytes(load.offset.checked_add(inside)?, length)?;
        self.index = Some(Part { address: at.address, bytes: index.into() });
        self.tables = Some(Part { address, bytes: bytes.into() });
        Some(())
    }

    fn read_by_section<S: Source + ?Sized>(&mut self, source: &S, header: &Header) -> Option<()> {
        let sections = header.sections(source)?;
        let names = sections.get(usize::try_from(header.names).ok()?)?;
        let found = sections.iter().find(|section| {
            let name = names.offset.checked_add(u64::from(section.name));
            name.and_then(|name| source.bytes(name, 10)).is_some_and(|name| name == b".eh_frame\0")
        })?;
        if found.size > TABLES_LIMIT || found.kind == SHT_NOBITS {
            return None;
        }
        let bytes = source.bytes(found.offset, found.size)?;
        self.tables = Some(Part { address: found.address, bytes: bytes.into() });
        Some(())
    }

    /// The address that the file states for one of its bytes. Of two segments that share a page of the file, the one with code
    /// is meant.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        let holds =
            |load: &&Load| file_offset.checked_sub(load.offset).is_some_and(|inside| inside < load.size);
        let mut holding = self.loads.iter().filter(holds);
        let load = holding.clone().find(|load| load.code).or_else(|| holding.next())?;
        load.address.checked_add(file_offset - load.offset)
    }

    /// How far from the stated addresses a mapping of the file lies. Mappings begin at whole pages, so that the segment may
    /// begin a little later.
    pub fn bias(&self, start: u64, end: u64, file_offset: u64) -> Option<u64> {
        let last = file_offset.checked_add(end.checked_sub(start)?)?;
        let shares = |load: &&Load| load.offset < last && file_offset < load.offset.saturating_add(load.size);
        let mut sharing = self.loads.iter().filter(shares);
        let load = sharing.clone().find(|load| load.code).or_else(|| sharing.next())?;
        Some(start.wrapping_sub(file_offset).wrapping_sub(load.address.wrapping_sub(load.offset)))
    }

    /// The lowest stated address, at the beginning of a page.
    pub fn base(&self) -> u64 {
        self.loads.iter().map(|load| load.address).min().unwrap_or(0) & !0xfff
    }
}

impl Load {
    fn contains(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|inside| inside < self.size)
    }
}

impl Header {
    fn read<S: Source + ?Sized>(source: &S) -> Option<Self> {
        let bytes = source.bytes(0, 64)?;
        // 64 bits, little endian.
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let short =
            |at: usize| bytes.get(at..at + 2).map(|two| u64::from(u16::from_le_bytes([two[0], two[1]])));
        if short(54)? != 56 {
            return None;
        }
        let sections = if short(58)? == 64 { short(60)?.min(HEADERS_LIMIT) } else { 0 };
        Some(Self {
            entry: word(&bytes, 24)?,
            programs: (word(&bytes, 32)?, short(56)?),
            sections: (word(&bytes, 40)?, sections),
            names: short(62)?,
        })
    }

    fn sections<S: Source + ?Sized>(&self, source: &S) -> Option<Vec<Section>> {
        let table = source.bytes(self.sections.0, self.sections.1 * 64)?;
        let section = |entry: &[u8]| {
            Some(Section {
                name: half(entry, 0)?,
                kind: half(entry, 4)?,
                flags: word(entry, 8)?,
                address: word(entry, 16)?,
                offset: word(entry, 24)?,
                size: word(entry, 32)?,
            })
        };
        table.chunks_exact(64).map(section).collect()
    }
}

/// Whether Go's linker has made a file or a part of it, by the names of its sections: stripping leaves these.
pub fn is_go<S: Source + ?Sized>(source: &S) -> bool {
    let names = || {
        let header = Header::read(source)?;
        let sections = header.sections(source)?;
        let names = sections.get(usize::try_from(header.names).ok()?)?;
        if names.size > NAMES_LIMIT || names.kind == SHT_NOBITS {
            return None;
        }
        Some((source.bytes(names.offset, names.size)?, sections))
    };
    let Some((names, sections)) = names() else { return false };
    let name = |section: &Section| names.get(usize::try_from(section.name).ok()?..);
    sections.iter().filter_map(name).any(|name| GO_SECTIONS.iter().any(|go| name.starts_with(go)))
}

/// The parts of a file (offset, length) that naming needs: all but the code and data that are loaded. Empty if the file can't
/// tell.
pub fn parts_for_names<S: Source + ?Sized>(source: &S) -> Vec<(u64, u64)> {
    let Some(header) = Header::read(source) else { return Vec::new() };
    let Some(sections) = header.sections(source) else { return Vec::new() };
    let mut parts = vec![
        (0, 64),
        (header.programs.0, header.programs.1 * 56),
        (header.sections.0, header.sections.1 * 64),
    ];
    let needed = |section: &&Section| {
        section.kind != SHT_NOBITS && (section.kind != SHT_PROGBITS || section.flags & SHF_ALLOC == 0)
    };
    parts.extend(sections.iter().filter(needed).map(|section| (section.offset, section.size)));
    parts
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
