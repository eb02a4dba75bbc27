//! Descriptors of the runtime's own structures: what the program itself says of the offsets of their fields. They are in
//! every program, stripped ones too, and overrule a table: that is right for its versions, they for this very program.
//!
//! Their layout: Go's src/internal/abi/type.go (`Type`, `StructType`, `Name`), the same since Go 1.19 as far as it is read.

use std::collections::HashMap;

use super::image::{GoFile, u32_at, u64_at};
use super::layout::Table;
use super::moduledata::ModuleData;

/// The structures that are looked for: those of which every program has a descriptor.
const STRUCTURES: [&str; 5] = ["runtime.g", "runtime.m", "runtime.mcache", "runtime.mspan", "runtime.p"];
/// Words that tables needn't have.
const BESIDES: [(&str, &str); 1] = [("runtime.g", "lockedm")];
/// Bytes of a descriptor of a structure.
const DESCRIPTOR: usize = 80;
/// Bytes of a field's description: name, type, offset.
const FIELD: usize = 24;
/// `abi.Struct`, and the bits of the byte that hold the kind.
const KIND: (u8, u8) = (25, 31);
/// `abi.TFlagExtraStar`: the name has a `*` in front that isn't meant.
const EXTRA_STAR: u8 = 2;
/// Bit of a name's first byte: the field is embedded, so that its own fields are the structure's, too.
const EMBEDDED: u8 = 8;
/// Fields of a structure; `runtime.m` has about 90.
const MAX_FIELDS: usize = 512;
/// Bytes of the largest structure that is believed.
const MAX_SIZE: u64 = 1 << 20;
/// Bytes of a name.
const MAX_NAME: usize = 256;
/// How deep a path of fields goes.
const MAX_DEPTH: usize = 4;

/// A structure's descriptor.
struct Structure {
    size: u64,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    embedded: bool,
    kind: u64,
    offset: u64,
}

/// Puts what the descriptors say in the place of what the table says, and returns for how many structures.
pub fn overrule(file: &GoFile<'_>, module: &ModuleData, table: &mut Table) -> usize {
    let found = find(file, module);
    for (name, structure) in &found {
        if let (Ok(size), Some(known)) = (u32::try_from(structure.size), table.sizes.get_mut(*name)) {
            *known = size;
        }
        let Some(fields) = table.structs.get_mut(*name) else { continue };
        // What the program doesn't have must not be read, either.
        fields.retain(|path, (offset, _)| {
            let real = structure.offset_of(file, path, 0).and_then(|real| u32::try_from(real).ok());
            real.map(|real| *offset = real).is_some()
        });
        for (_, path) in BESIDES.iter().filter(|(of, _)| of == name) {
            let real = structure.offset_of(file, path, 0).and_then(|real| u32::try_from(real).ok());
            if let Some(real) = real {
                fields.insert((*path).to_owned(), (real, 8));
            }
        }
    }
    found.len()
}

/// The structures' descriptors.
fn find(file: &GoFile<'_>, module: &ModuleData) -> HashMap<&'static str, Structure> {
    let mut found = HashMap::new();
    let Some(bytes) = file.at(module.types.start) else { return found };
    let size = usize::try_from(module.types.end - module.types.start).unwrap_or(usize::MAX);
    let bytes = bytes.get(..size.min(bytes.len())).unwrap_or(&[]);
    for offset in (0..bytes.len().saturating_sub(DESCRIPTOR)).step_by(8) {
        let descriptor = bytes.get(offset..offset + DESCRIPTOR).unwrap_or(&[]);
        if descriptor.get(23).is_none_or(|kind| kind & KIND.1 != KIND.0) {
            continue;
        }
        let name = u32_at(descriptor, 40).and_then(|name| bytes.get(name as usize..)).and_then(name_at);
        let Some((_, name)) = name else { continue };
        let starred = descriptor.get(20).is_some_and(|flags| flags & EXTRA_STAR != 0);
        let name = if starred { name.strip_prefix('*').unwrap_or(name) } else { name };
        let Some(wanted) = STRUCTURES.iter().find(|wanted| **wanted == name) else { continue };
        let structure =
            module.types.start.checked_add(offset as u64).and_then(|at| Structure::read(file, at));
        if let Some(structure) = structure {
            found.entry(*wanted).or_insert(structure);
            if found.len() == STRUCTURES.len() {
                break;
            }
        }
    }
    found
}

/// The flags and the text of a name: a byte, the length in bytes of seven bits, the text.
fn name_at(bytes: &[u8]) -> Option<(u8, &str)> {
    let &[flags, first, second, ..] = bytes else { return None };
    let (length, start): (_, usize) = match first & 0x80 {
        0 => (usize::from(first), 2),
        _ => (usize::from(first & 0x7f) | usize::from(second) << 7, 3),
    };
    let text = bytes.get(start..start.checked_add(length).filter(|_| length <= MAX_NAME)?)?;
    Some((flags, std::str::from_utf8(text).ok()?))
}

impl Structure {
    fn read(file: &GoFile<'_>, address: u64) -> Option<Self> {
        let descriptor = file.bytes(address, DESCRIPTOR)?;
        let size = u64_at(descriptor, 0).filter(|size| (1..=MAX_SIZE).contains(size))?;
        (descriptor.get(23)? & KIND.1 == KIND.0).then_some(())?;
        let count = usize::try_from(u64_at(descriptor, 64)?).ok().filter(|&count| count <= MAX_FIELDS)?;
        let fields = file.word(address.checked_add(56)?)?;
        file.bytes(fields, count * FIELD)?;
        let field = |index: usize| {
            let place = fields + (index * FIELD) as u64;
            let (flags, name) = name_at(file.at(file.word(place)?)?)?;
            let offset = file.word(place + 16).filter(|&offset| offset < size.max(1))?;
            let (kind, embedded) = (file.word(place + 8)?, flags & EMBEDDED != 0);
            Some(Field { name: name.to_owned(), embedded, kind, offset })
        };
        // Empty structures at the end have the offset of the end, and are of no interest.
        Some(Self { size, fields: (0..count).filter_map(field).collect() })
    }

    /// Where the field is: `stack.lo` is `lo` in `stack`.
    fn offset_of(&self, file: &GoFile<'_>, path: &str, depth: usize) -> Option<u64> {
        (depth < MAX_DEPTH).then_some(())?;
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        if let Some(field) = self.fields.iter().find(|field| field.name == first) {
            return match rest {
                None => Some(field.offset),
                Some(rest) => {
                    let inner = Self::read(file, field.kind)?.offset_of(file, rest, depth + 1)?;
                    field.offset.checked_add(inner)
                }
            };
        }
        self.fields.iter().filter(|field| field.embedded).find_map(|field| {
            let inner = Self::read(file, field.kind)?.offset_of(file, path, depth + 1)?;
            field.offset.checked_add(inner)
        })
    }
}
