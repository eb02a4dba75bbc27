//! bpf(2) where aya 0.14 has no word for it: programs and links for many probes at once, and a map in our memory.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use aya_obj::generated::{
    bpf_attach_type::BPF_TRACE_UPROBE_MULTI,
    bpf_attr, bpf_cmd,
    bpf_cmd::{BPF_LINK_CREATE, BPF_PROG_LOAD},
    bpf_insn,
    bpf_prog_type::BPF_PROG_TYPE_KPROBE,
};

/// How much of the verifier's words is asked for. A log that doesn't fit fails the load with `ENOSPC`.
const LOG_BYTES: usize = 1 << 20;

/// `BPF_TRACE_UPROBE_SESSION` (include/uapi/linux/bpf.h, Linux 6.13), which aya-obj 0.3 doesn't know.
const UPROBE_SESSION: u32 = 57;
/// `BPF_F_UPROBE_MULTI_RETURN`: the program runs when the function returns.
const MULTI_RETURN: u32 = 1;

/// When the program of a link runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At the instruction.
    Entry,
    /// When the function returns at whose entry the instruction is.
    Return,
    /// Both; at the instruction the program says whether it wants the return (Linux 6.13).
    Session,
}

impl When {
    const fn attach_type(self) -> u32 {
        match self {
            Self::Entry | Self::Return => BPF_TRACE_UPROBE_MULTI as u32,
            Self::Session => UPROBE_SESSION,
        }
    }
}

/// One probe of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where in the file.
    pub file_offset: u64,
    /// What `bpf_get_attach_cookie` says there.
    pub cookie: u64,
}

/// Loads a program that can be linked to many places at once (`uprobe_multi`, Linux 6.6).
///
/// # Errors
///
/// As the kernel says; if the verifier has refused it, with the last line of what it said.
pub fn load_uprobe_multi(instructions: &[bpf_insn], license: &CStr, when: When) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: writing a member of a union of plain numbers; which one counts is told by the command.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = when.attach_type();
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    // SAFETY: the attributes point to instructions and a licence that live through the call.
    let error = match unsafe { bpf_fd(BPF_PROG_LOAD, &attr) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the verifier's words: they cost time and memory that a good program needn't.
    let mut log = vec![0_u8; LOG_BYTES];
    // SAFETY: as above.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = LOG_BYTES as u32;
    load.log_level = 1;
    // SAFETY: as above, and the log has the size that is told.
    if let Ok(program) = unsafe { bpf_fd(BPF_PROG_LOAD, &attr) } {
        return Ok(program);
    }
    let text = String::from_utf8_lossy(&log);
    let words = text.trim_end_matches('\0').lines().rev().find(|line| !line.starts_with("processed "));
    Err(io::Error::new(error.kind(), format!("{error} ({})", words.unwrap_or("no word from the verifier"))))
}

/// Puts a program at many places of a file, for one process only. The probes are there as long as the descriptor.
///
/// # Errors
///
/// As the kernel says. Either all are placed or none.
pub fn link_uprobe_multi(
    (program, when): (BorrowedFd<'_>, When),
    file: &CStr,
    pid: u32,
    points: &[Point],
) -> io::Result<OwnedFd> {
    let offsets: Vec<u64> = points.iter().map(|point| point.file_offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    let mut attr = zeroed_attr();
    // SAFETY: writing members of unions of plain numbers; which ones count is told by the command and the attach type.
    unsafe {
        let link = &mut attr.link_create;
        link.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
        link.attach_type = when.attach_type();
        let multi = &mut link.__bindgen_anon_3.uprobe_multi;
        multi.path = file.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = u32::try_from(points.len()).map_err(io::Error::other)?;
        multi.pid = pid;
        multi.flags = if when == When::Return { MULTI_RETURN } else { 0 };
    }
    // SAFETY: path, offsets and cookies live through the call, and both lists have the length that is told.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attr) }
}

const fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain numbers; all zero is what the kernel wants of members that aren't used.
    unsafe { core::mem::zeroed() }
}

/// A command that makes a descriptor.
///
/// # Safety
///
/// Every address in the attributes is valid for what the command does with it.
unsafe fn bpf_fd(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as told; what they point to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<bpf_attr>()) };
    match i32::try_from(result) {
        // SAFETY: a new descriptor (close-on-exec, as all of bpf(2)), that nobody else knows.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An array map with `BPF_F_MMAPABLE`, as words in our memory. It lives as long as this, whoever else uses it.
pub struct SharedWords {
    base: NonNull<AtomicU32>,
    bytes: usize,
    /// Whole pages.
    mapped: usize,
}

impl SharedWords {
    /// Maps the first `bytes` bytes of the map's values.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn map(map: impl AsFd, bytes: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let mapped = bytes.next_multiple_of(rustix::param::page_size());
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let base = unsafe { mmap(std::ptr::null_mut(), mapped, protection, MapFlags::SHARED, map, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, bytes, mapped })
    }

    /// The word at a byte offset; `None` behind the end.
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.bytes;
        // SAFETY: inside the mapping, which lives as long as the reference, and aligned; others write it too, hence atomic.
        inside.then(|| unsafe { self.base.byte_add(offset).as_ref() })
    }

    /// Two words as one, at a multiple of 8; `None` behind the end.
    pub fn long(&self, offset: usize) -> Option<&AtomicU64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8)? <= self.bytes;
        // SAFETY: as above; the mapping begins with a page. Nobody uses its halves as words of their own.
        inside.then(|| unsafe { self.base.cast().byte_add(offset).as_ref() })
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nobody refers to any more.
        let _unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

// SAFETY: memory that is reached through atomic operations only.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}
