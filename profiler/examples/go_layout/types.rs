//! Types in the debug information (DWARF 4 and 5, as Go's compiler writes them).

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use gimli::{
    Attribute, AttributeValue, DebugInfoOffset, DebuggingInformationEntry, DwAt, EndianSlice, LittleEndian,
    UnitOffset,
};
use object::{File, Object as _, ObjectSection as _};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Bytes<'a>>;

/// A field that is there without a name of its own, so that its fields are the structure's own (Go's
/// `cmd/internal/dwarf`).
const EMBEDDED: DwAt = DwAt(0x2903);

/// Types stand for each other, and structures in each other, not deeper than this.
const MAX_DEPTH: usize = 20;

/// A type: the unit that it stands in, and where there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(usize, UnitOffset);

/// All types of a program.
pub struct Types<'a> {
    dwarf: gimli::Dwarf<Bytes<'a>>,
    /// In the order of the file.
    units: Vec<gimli::Unit<Bytes<'a>>>,
    structures: HashMap<String, Type>,
}

/// A field of a structure.
struct Member {
    name: String,
    offset: u64,
    of: Type,
    embedded: bool,
}

impl<'a> Types<'a> {
    /// Finds all structures with a name.
    pub fn read(elf: &File<'a>) -> Result<Self> {
        let dwarf = gimli::Dwarf::load(|id| -> Result<Bytes<'a>> {
            let Some(section) = elf.section_by_name(id.name()) else { return Ok(Bytes::default()) };
            let compressed = section.compressed_file_range()?.format != object::CompressionFormat::None;
            ensure!(!compressed, "{} is compressed: build with -ldflags=-compressdwarf=false", id.name());
            Ok(EndianSlice::new(section.data()?, LittleEndian))
        })?;
        let mut types = Self { dwarf, units: Vec::new(), structures: HashMap::new() };
        let mut headers = types.dwarf.units();
        while let Some(header) = headers.next()? {
            types.units.push(types.dwarf.unit(header)?);
        }
        ensure!(!types.units.is_empty(), "it has no debug information");
        for unit in 0..types.units.len() {
            types.find_structures(unit)?;
        }
        Ok(types)
    }

    fn find_structures(&mut self, unit: usize) -> Result<()> {
        let mut found = Vec::new();
        let mut entries = self.units[unit].entries();
        while let Some(entry) = entries.next_dfs()? {
            if entry.tag() == gimli::DW_TAG_structure_type
                && let Some(name) = self.name(unit, entry)?
            {
                found.push((name, Type(unit, entry.offset())));
            }
        }
        for (name, structure) in found {
            self.structures.entry(name).or_insert(structure);
        }
        Ok(())
    }

    /// A structure by its name, with its package: `runtime.g`.
    pub fn structure(&self, name: &str) -> Option<Type> {
        self.structures.get(name).copied()
    }

    /// Bytes that a value of the type takes.
    pub fn size(&self, of: Type) -> Result<u64> {
        let Type(unit, offset) = self.plain(of)?;
        let entry = self.units[unit].entry(offset)?;
        if let Some(size) = entry.attr_value(gimli::DW_AT_byte_size).and_then(|value| value.udata_value()) {
            return Ok(size);
        }
        match entry.tag() {
            gimli::DW_TAG_pointer_type => Ok(8),
            gimli::DW_TAG_array_type => {
                let count = self.count(unit, offset)?;
                count.checked_mul(self.size(self.type_of(unit, &entry)?)?).context("an array is too large")
            }
            other => bail!("a type of kind {other} has no size"),
        }
    }

    /// How many elements an array has.
    fn count(&self, unit: usize, array: UnitOffset) -> Result<u64> {
        let mut tree = self.units[unit].entries_tree(Some(array))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            if let Some(count) =
                child.entry().attr_value(gimli::DW_AT_count).and_then(|value| value.udata_value())
            {
                return Ok(count);
            }
        }
        bail!("an array has no count")
    }

    /// Offset and size of a field, which may be a path (`stack.lo`); nothing if there is none.
    pub fn field(&self, of: Type, path: &str) -> Result<Option<(u64, u64)>> {
        let (mut at, mut offset) = (of, 0);
        for part in path.split('.') {
            let Some(member) = self.member(at, part, 0)? else { return Ok(None) };
            offset += member.offset;
            at = member.of;
        }
        Ok(Some((offset, self.size(at)?)))
    }

    /// A field by its name: the structure's own, else one of those that are embedded in it.
    fn member(&self, of: Type, name: &str, depth: usize) -> Result<Option<Member>> {
        ensure!(depth < MAX_DEPTH, "structures are in each other without end");
        let members = self.members(of)?;
        let inside: Vec<(u64, Type)> = members
            .iter()
            .filter(|member| member.embedded)
            .map(|member| (member.offset, member.of))
            .collect();
        if let Some(own) = members.into_iter().find(|member| member.name == name) {
            return Ok(Some(own));
        }
        for (offset, embedded) in inside {
            if let Some(member) = self.member(embedded, name, depth + 1)? {
                return Ok(Some(Member { offset: offset + member.offset, ..member }));
            }
        }
        Ok(None)
    }

    /// The fields of a structure; of other types none.
    fn members(&self, of: Type) -> Result<Vec<Member>> {
        let Type(unit, offset) = self.plain(of)?;
        let mut members = Vec::new();
        let mut tree = self.units[unit].entries_tree(Some(offset))?;
        let root = tree.root()?;
        if root.entry().tag() != gimli::DW_TAG_structure_type {
            return Ok(members);
        }
        let mut children = root.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            members.push(Member {
                name: self.name(unit, entry)?.context("a field has no name")?,
                offset: entry
                    .attr_value(gimli::DW_AT_data_member_location)
                    .and_then(|value| value.udata_value())
                    .context("a field has no place")?,
                of: self.type_of(unit, entry)?,
                embedded: entry.attr_value(EMBEDDED) == Some(AttributeValue::Flag(true)),
            });
        }
        Ok(members)
    }

    /// What a type with another name is.
    fn plain(&self, of: Type) -> Result<Type> {
        let mut at = of;
        for _ in 0..MAX_DEPTH {
            let entry = self.units[at.0].entry(at.1)?;
            match entry.tag() {
                gimli::DW_TAG_typedef | gimli::DW_TAG_const_type | gimli::DW_TAG_volatile_type => {
                    at = self.type_of(at.0, &entry)?;
                }
                _ => return Ok(at),
            }
        }
        bail!("types stand for each other without end")
    }

    /// The type that an entry is of.
    fn type_of(&self, unit: usize, entry: &Entry<'a>) -> Result<Type> {
        match entry.attr(gimli::DW_AT_type).map(Attribute::value) {
            Some(AttributeValue::UnitRef(offset)) => Ok(Type(unit, offset)),
            Some(AttributeValue::DebugInfoRef(offset)) => self.at(offset),
            other => bail!("a type is given in an unknown way: {other:?}"),
        }
    }

    fn at(&self, offset: DebugInfoOffset) -> Result<Type> {
        let found = self
            .units
            .iter()
            .enumerate()
            .find_map(|(unit, entries)| Some(Type(unit, offset.to_unit_offset(&entries.header)?)));
        found.with_context(|| format!("nothing is at {:#x} of the debug information", offset.0))
    }

    fn name(&self, unit: usize, entry: &Entry<'a>) -> Result<Option<String>> {
        let Some(value) = entry.attr_value(gimli::DW_AT_name) else { return Ok(None) };
        let name = self.dwarf.attr_string(&self.units[unit], value)?;
        Ok(Some(name.to_string_lossy().into_owned()))
    }
}
