//! Tests of the room, and what they share: a builder of small ELF files, and the libraries of this machine.

mod allocators;
pub(super) mod built;
mod callers;
mod hostile;
mod images;
mod libraries;
mod names;
mod python;
mod recipe;
mod shims;
mod sites;
mod symbol_damage;
mod symbol_files;
mod walks;
mod wrappers;

use super::text::{Code, Text};

/// Where the code of test images is mapped, and (minus [`SKEW`]) lies in their file.
pub const BASE: u64 = 0x10000;
/// Addresses and file offsets differ, so that mixing them up shows.
pub const SKEW: u64 = 0x8000;

/// Code at [`BASE`] with the given function starts.
pub fn text<'a>(bytes: &'a [u8], starts: &[u64]) -> Text<'a> {
    let code = Code { address: BASE, file_offset: BASE - SKEW, bytes };
    Text::new(vec![code], starts.iter().map(|start| BASE + start).collect(), true, &[]).unwrap()
}

/// Assembles code with labels: enough for branches.
#[derive(Default)]
pub struct Assembler {
    pub bytes: Vec<u8>,
    labels: Vec<(&'static str, u64)>,
    fixups: Vec<(usize, &'static str)>,
}

impl Assembler {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Names the current place.
    pub fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.push((name, self.bytes.len() as u64));
        self
    }

    /// Aligns with `int3`, as a linker would, and names the place.
    pub fn function(&mut self, name: &'static str) -> &mut Self {
        while !self.bytes.len().is_multiple_of(16) {
            self.bytes.push(0xcc);
        }
        self.label(name)
    }

    fn branch(&mut self, opcode: &[u8], to: &'static str) -> &mut Self {
        self.raw(opcode);
        self.fixups.push((self.bytes.len(), to));
        self.raw(&[0; 4])
    }

    pub fn call(&mut self, to: &'static str) -> &mut Self {
        self.branch(&[0xe8], to)
    }

    pub fn jmp(&mut self, to: &'static str) -> &mut Self {
        self.branch(&[0xe9], to)
    }

    pub fn je(&mut self, to: &'static str) -> &mut Self {
        self.branch(&[0x0f, 0x84], to)
    }

    /// `jmp *slot(%rip)`; the slots lie behind the code.
    pub fn jmp_slot(&mut self, slot: &'static str) -> &mut Self {
        self.branch(&[0xff, 0x25], slot)
    }

    /// `call *slot(%rip)`
    pub fn call_slot(&mut self, slot: &'static str) -> &mut Self {
        self.branch(&[0xff, 0x15], slot)
    }

    /// Virtual address of a label.
    pub fn address(&self, name: &str) -> u64 {
        BASE + self.offset(name)
    }

    fn offset(&self, name: &str) -> u64 {
        self.labels.iter().find(|(label, _)| *label == name).unwrap_or_else(|| panic!("no label {name}")).1
    }

    /// The code with all branches filled in. `slots` come behind it, 8 bytes each, under their names.
    pub fn finish(&mut self, slots: &[&'static str]) -> Vec<u8> {
        self.function("end of code");
        for slot in slots {
            self.label(slot).raw(&[0; 8]);
        }
        for (at, to) in self.fixups.clone() {
            let displacement = self.offset(to) as i64 - (at as i64 + 4);
            self.bytes[at..at + 4].copy_from_slice(&(displacement as i32).to_le_bytes());
        }
        self.bytes.clone()
    }
}

/// What goes into a test image besides its code.
#[derive(Default)]
pub struct Object<'a> {
    pub code: &'a [u8],
    /// Name and address of the functions in `.dynsym`.
    pub functions: &'a [(&'a str, u64)],
    /// More symbols: name, type and binding, section.
    pub others: &'a [(&'a str, u8, u16)],
    /// Which of the functions (from 0) are hidden versions of their symbol.
    pub hidden: &'a [usize],
    /// Names of the symbol versions that it defines.
    pub versions: &'a [&'a str],
    /// Address of a slot and the name of the function whose address it gets.
    pub slots: &'a [(u64, &'a str)],
    /// Address of a slot and the name of another object's function whose address it gets.
    pub imports: &'a [(u64, &'a str)],
    /// Function starts for `.eh_frame_hdr`.
    pub frames: &'a [u64],
    pub soname: &'a str,
    pub build_id: &'a [u8],
}

impl Object<'_> {
    /// Writes the file: code at [`BASE`] minus [`SKEW`], everything else in a second segment where addresses and
    /// offsets are equal.
    pub fn build(&self) -> Vec<u8> {
        let mut strings = vec![0];
        let mut string = |name: &str| {
            let offset = strings.len() as u64;
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            offset
        };
        let soname = string(self.soname);
        let mut symbols = vec![0; 24];
        for (name, address) in self.functions {
            symbols.extend((string(name) as u32).to_le_bytes());
            symbols.extend([0x12, 0, 1, 0]);
            symbols.extend(address.to_le_bytes());
            symbols.extend(0u64.to_le_bytes());
        }
        for (name, info, section) in self.others {
            symbols.extend((string(name) as u32).to_le_bytes());
            symbols.extend([*info, 0]);
            symbols.extend(section.to_le_bytes());
            symbols.extend(BASE.to_le_bytes());
            symbols.extend(0u64.to_le_bytes());
        }
        for (_, name) in self.imports {
            symbols.extend((string(name) as u32).to_le_bytes());
            symbols.extend([0x12, 0, 0, 0]);
            symbols.extend([0; 16]);
        }
        let count = symbols.len() / 24;
        let version = |index: usize| if self.hidden.contains(&index) { 0x8002u16 } else { 2 };
        let versions: Vec<u8> =
            (0..count).flat_map(|index| version(index.wrapping_sub(1)).to_le_bytes()).collect();
        let mut definitions = Vec::new();
        for (index, name) in self.versions.iter().enumerate() {
            let next = if index + 1 < self.versions.len() { 28u32 } else { 0 };
            definitions.extend([1u16, 0, 2, 1].iter().flat_map(|half| half.to_le_bytes()));
            definitions
                .extend([0, 20, next, string(name) as u32, 0].iter().flat_map(|word| word.to_le_bytes()));
        }
        let mut relocations = Vec::new();
        for (index, (slot, name)) in self.slots.iter().enumerate() {
            let symbol = 1 + self.functions.iter().position(|(function, _)| function == name).unwrap() as u64;
            relocations.extend(slot.to_le_bytes());
            // R_X86_64_GLOB_DAT and R_X86_64_JUMP_SLOT by turns.
            relocations.extend((symbol << 32 | (6 + index as u64 % 2)).to_le_bytes());
            relocations.extend(0u64.to_le_bytes());
        }
        for (index, (slot, _)) in self.imports.iter().enumerate() {
            let symbol = (1 + self.functions.len() + self.others.len() + index) as u64;
            relocations.extend(slot.to_le_bytes());
            relocations.extend((symbol << 32 | (6 + index as u64 % 2)).to_le_bytes());
            relocations.extend(0u64.to_le_bytes());
        }
        let mut hash: Vec<u8> =
            [1, count as u32, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        hash.resize(12 + 4 * count, 0);
        let mut note: Vec<u8> =
            [4, self.build_id.len() as u32, 3].iter().flat_map(|w| w.to_le_bytes()).collect();
        note.extend(b"GNU\0");
        note.extend(self.build_id);

        let mut data = Vec::new();
        let mut place = |bytes: &[u8]| {
            data.resize(data.len().next_multiple_of(8), 0);
            let address = 0x1000 + data.len() as u64;
            data.extend_from_slice(bytes);
            address
        };
        let dynamic: Vec<u8> = [
            (5, place(&strings)),
            (10, strings.len() as u64),
            (6, place(&symbols)),
            (4, place(&hash)),
            (23, place(&relocations)),
            (2, relocations.len() as u64),
            (14, soname),
            (0x6fff_fff0, place(&versions)),
            (0x6fff_fffc, place(&definitions)),
            (0, 0),
        ]
        .iter()
        .filter(|&&(tag, _)| tag != 14 || !self.soname.is_empty())
        .filter(|&&(tag, _)| tag != 0x6fff_fffc || !definitions.is_empty())
        .flat_map(|(tag, value): &(u64, u64)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect();
        let (dynamic_at, note_at) = (place(&dynamic), place(&note));
        let mut header = vec![1, 0x1b, 3, 0x3b, 0, 0, 0, 0];
        header.extend((self.frames.len() as u32).to_le_bytes());
        let frames_at = place(&[]);
        for start in self.frames {
            header.extend((start.wrapping_sub(frames_at) as u32).to_le_bytes());
            header.extend([0; 4]);
        }
        place(&header);

        let mut segments = vec![
            (1u32, 4u32, 0x1000u64, 0x1000u64, data.len() as u64),
            (1, 5, BASE - SKEW, BASE, self.code.len() as u64),
            (2, 4, dynamic_at, dynamic_at, dynamic.len() as u64),
            (4, 4, note_at, note_at, note.len() as u64),
        ];
        if !self.frames.is_empty() {
            segments.push((0x6474_e550, 4, frames_at, frames_at, header.len() as u64));
        }
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        image.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        for word in [0, 64u64, 0] {
            image.extend(word.to_le_bytes());
        }
        for half in [0, 0, 64, 56, segments.len() as u16, 64, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        for (kind, flags, offset, address, size) in segments {
            image.extend(kind.to_le_bytes());
            image.extend(flags.to_le_bytes());
            for word in [offset, address, address, size, size, 8] {
                image.extend(word.to_le_bytes());
            }
        }
        assert!(image.len() <= 0x1000 && 0x1000 + data.len() as u64 <= BASE - SKEW);
        image.resize(0x1000, 0);
        image.extend(data);
        image.resize((BASE - SKEW) as usize, 0);
        image.extend(self.code);
        image
    }
}

/// The contents of a library of this machine, or a printed line that it isn't there.
pub fn library(path: &str) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            println!("SKIPPED {path}: {error}");
            None
        }
    }
}

/// The C library of Debian and Ubuntu; of Fedora and Arch.
pub fn glibc() -> Option<Vec<u8>> {
    ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"]
        .into_iter()
        .find_map(library)
}
