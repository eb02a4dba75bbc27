//! What can be said of any ELF file, whatever machine it is for: the kind of code and the build id.

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader as _, SectionHeader as _};

use super::BinaryError;
use super::elf::header_error;

/// Program headers that are read. Real binaries have about ten to fifteen.
const MAX_PROGRAM_HEADERS: u32 = 256;
/// Bytes of one note segment or section that are read.
const MAX_NOTES: usize = 64 * 1024;
/// Note sections that are read. Real binaries have about three.
pub(super) const MAX_NOTE_SECTIONS: usize = 64;
/// Bytes of a build id; the linkers write 8 to 32.
const MAX_BUILD_ID: usize = 64;

/// What an ELF file is (`None`: the one kind that is analysed further) and its build id.
pub(super) fn outline<E: FileHeader<Endian = Endianness>>(
    image: &[u8],
) -> Result<(Option<String>, Option<String>), BinaryError> {
    let header = E::parse(image).map_err(header_error)?;
    let endian = header.endian().map_err(header_error)?;
    let count = header.phnum(endian, image).map_err(header_error)?;
    if count > MAX_PROGRAM_HEADERS {
        return Err(BinaryError::TooManySegments { count, limit: MAX_PROGRAM_HEADERS });
    }
    let segments = header.program_headers(endian, image).map_err(header_error)?;
    let build_id = segments.iter().find_map(|segment| {
        if segment.p_type(endian) != elf::PT_NOTE {
            return None;
        }
        build_id::<E>(endian, segment.data(endian, image).ok()?, segment.p_align(endian))
    });
    let machine = header.e_machine(endian);
    let name = match machine {
        elf::EM_X86_64 => "x86-64".to_string(),
        elf::EM_386 => "x86".to_string(),
        elf::EM_AARCH64 => "AArch64".to_string(),
        elf::EM_ARM => "Arm".to_string(),
        elf::EM_RISCV => "RISC-V".to_string(),
        elf::EM_PPC64 => "PowerPC".to_string(),
        elf::EM_S390 => "S/390".to_string(),
        other => format!("machine {}", other.0),
    };
    let known = machine == elf::EM_X86_64 && header.is_type_64() && header.is_little_endian();
    let bits = if header.is_type_64() { 64 } else { 32 };
    Ok(((!known).then(|| format!("{bits} bit {name}")), build_id))
}

/// The build id in the note sections. In a file that has nothing but debug information the program headers still
/// describe the file that it was taken from, so that only the section headers say where the notes are.
pub(super) fn build_id_by_sections<E: FileHeader>(
    endian: E::Endian,
    image: &[u8],
    sections: &[E::SectionHeader],
) -> Option<String> {
    let notes = sections.iter().filter(|section| section.sh_type(endian) == elf::SHT_NOTE);
    notes.take(MAX_NOTE_SECTIONS).find_map(|section| {
        build_id::<E>(endian, section.data(endian, image).ok()?, section.sh_addralign(endian))
    })
}

fn build_id<E: FileHeader>(endian: E::Endian, data: &[u8], align: E::Word) -> Option<String> {
    let data = &data[..data.len().min(MAX_NOTES)];
    let mut notes = NoteIterator::<E>::new(endian, align, data).ok()?;
    // Every note takes at least its 12 byte header, so the length of the data bounds this.
    while let Ok(Some(note)) = notes.next() {
        let id = note.desc();
        if note.name() == b"GNU" && note.n_type(endian) == elf::NT_GNU_BUILD_ID && id.len() <= MAX_BUILD_ID {
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    None
}
