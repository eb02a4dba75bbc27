//! Finds the offsets of kernel structure members in the kernel's own type information.
//!
//! Format: Documentation/bpf/btf.rst in the kernel tree. Only what the offsets need is read: structures, unions,
//! typedefs, function prototypes. The file comes from the running kernel, but is checked like any other input.

use thiserror::Error;

/// Why an offset can't be told.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file is cut off or inconsistent.
    #[error("the kernel's type information (BTF) is malformed at byte {0}")]
    Malformed(usize),
    /// The type isn't there.
    #[error("the kernel's type information has no `{0}`")]
    NoType(&'static str),
    /// The member isn't there.
    #[error("the kernel's type information has no member `{1}` in `{0}`")]
    NoMember(&'static str, &'static str),
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bits from the start of the structure.
    pub bit_offset: u32,
    /// Bits, if it is a bit field; else 0.
    pub bit_size: u32,
    type_id: u32,
}

impl Member {
    /// Bytes from the start of the structure.
    pub const fn byte_offset(self) -> u64 {
        (self.bit_offset / 8) as u64
    }
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_PTR: u32 = 2;
const KIND_FUNC_PROTO: u32 = 13;
/// Anonymous structures inside structures are followed this deep.
const DEPTH: u32 = 8;

struct Type {
    name: u32,
    info: u32,
    size_or_type: u32,
    /// Where the kind's own data begins.
    data: usize,
}

impl Type {
    const fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    const fn vlen(&self) -> usize {
        (self.info & 0xffff) as usize
    }
}

/// The types of a kernel.
pub struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    types: Vec<Type>,
}

impl<'a> Btf<'a> {
    /// Reads `/sys/kernel/btf/vmlinux` (its bytes).
    ///
    /// # Errors
    ///
    /// [`BtfError::Malformed`] if the bytes don't follow the format.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at: usize| read(bytes, at);
        if word(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Malformed(0));
        }
        let header = word(4)? as usize;
        let start = header.checked_add(word(8)? as usize).ok_or(BtfError::Malformed(8))?;
        let end = start.checked_add(word(12)? as usize).ok_or(BtfError::Malformed(12))?;
        let strings = header.checked_add(word(16)? as usize).ok_or(BtfError::Malformed(16))?;
        if end > bytes.len() || strings > bytes.len() {
            return Err(BtfError::Malformed(8));
        }
        // Type 0 is void and not in the file.
        let mut types = vec![Type { name: 0, info: 0, size_or_type: 0, data: 0 }];
        let mut at = start;
        while at < end {
            let ty =
                Type { name: word(at)?, info: word(at + 4)?, size_or_type: word(at + 8)?, data: at + 12 };
            at = ty.data + extra_bytes(&ty).ok_or(BtfError::Malformed(at))?;
            types.push(ty);
        }
        Ok(Self { bytes, strings, types })
    }

    /// The member of a structure, also inside anonymous structures and along a path like `thread_info.status`.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`] or [`BtfError::NoMember`] if this kernel doesn't have it.
    pub fn member(&self, structure: &'static str, path: &'static str) -> Result<Member, BtfError> {
        let mut id = self.find(KIND_STRUCT, structure).ok_or(BtfError::NoType(structure))?;
        let mut base = 0;
        let mut found = None;
        for name in path.split('.') {
            let member = self.member_of(id, name, DEPTH).ok_or(BtfError::NoMember(structure, path))?;
            found = Some(Member { bit_offset: base + member.bit_offset, ..member });
            base += member.bit_offset;
            id = member.type_id;
        }
        found.ok_or(BtfError::NoMember(structure, path))
    }

    /// How many arguments a tracepoint passes to a BTF-typed program, without the leading context pointer.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        let typedef = self.find(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}"))?;
        let pointer = self.types.get(self.types.get(typedef as usize)?.size_or_type as usize)?;
        let proto = self.types.get(pointer.size_or_type as usize)?;
        (pointer.kind() == KIND_PTR && proto.kind() == KIND_FUNC_PROTO)
            .then(|| proto.vlen().saturating_sub(1))
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let index = self.types.iter().position(|ty| ty.kind() == kind && self.name_is(ty.name, name))?;
        u32::try_from(index).ok()
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let start = self.strings.saturating_add(offset as usize);
        let rest = self.bytes.get(start..).unwrap_or_default();
        rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
    }

    fn member_of(&self, id: u32, name: &str, depth: u32) -> Option<Member> {
        let ty = self.types.get(id as usize)?;
        if !matches!(ty.kind(), KIND_STRUCT | KIND_UNION) || depth == 0 {
            return None;
        }
        let has_bit_fields = ty.info >> 31 == 1;
        for i in 0..ty.vlen() {
            let at = ty.data + 12 * i;
            let (name_offset, type_id, offset) =
                (read(self.bytes, at).ok()?, read(self.bytes, at + 4).ok()?, read(self.bytes, at + 8).ok()?);
            let (bit_offset, bit_size) =
                if has_bit_fields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            if name_offset == 0 {
                if let Some(inner) = self.member_of(type_id, name, depth - 1) {
                    return Some(Member { bit_offset: bit_offset + inner.bit_offset, ..inner });
                }
            } else if self.name_is(name_offset, name) {
                return Some(Member { bit_offset, bit_size, type_id });
            }
        }
        None
    }
}

fn read(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Malformed(at))?;
    let word = bytes.get(at..end).and_then(|word| word.try_into().ok()).ok_or(BtfError::Malformed(at))?;
    Ok(u32::from_le_bytes(word))
}

/// Bytes that follow the common part of a type; `None` for a kind that isn't known, behind which nothing can be found.
const fn extra_bytes(ty: &Type) -> Option<usize> {
    Some(match ty.kind() {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7 | 8 | 9 | 10 | 11 | 12 | 16 | 18 => 0,
        // array
        3 => 12,
        // structure, union, data section, 64-bit enumeration
        4 | 5 | 15 | 19 => 12 * ty.vlen(),
        // enumeration, function prototype
        6 | 13 => 8 * ty.vlen(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernels_task_struct_is_understood() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            crate::test_support::skip("this kernel has no BTF");
            return;
        };
        let btf = Btf::parse(&bytes).unwrap();
        let pid = btf.member("task_struct", "pid").unwrap();
        let tgid = btf.member("task_struct", "tgid").unwrap();
        assert_eq!(pid.bit_offset + 32, tgid.bit_offset, "tgid follows pid in every kernel");
        assert_eq!(btf.member("task_struct", "in_iowait").unwrap().bit_size, 1);
        assert!(btf.member("task_struct", "thread_info.flags").is_ok());
        assert_eq!(btf.member("pt_regs", "orig_ax").unwrap().byte_offset(), 120);
        assert_eq!(btf.tracepoint_arguments("sched_switch"), Some(4));
        assert!(matches!(btf.member("task_struct", "no_such"), Err(BtfError::NoMember(..))));
        assert!(matches!(btf.member("no_such", "x"), Err(BtfError::NoType(_))));
    }

    #[test]
    fn cut_off_input_is_an_error_and_not_a_panic() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            crate::test_support::skip("this kernel has no BTF");
            return;
        };
        for length in [0, 1, 7, 23, 24, 25, 100, 1001] {
            if let Ok(btf) = Btf::parse(&bytes[..length.min(bytes.len())]) {
                assert!(btf.member("task_struct", "pid").is_err());
            }
        }
    }
}
