//! The choice of a site, rule by rule, on code written by hand.

use crate::binary::site::{Site, SiteError, SiteKind, choose, is_emulated};

use profiler_common::alloc::Register;

use super::{BASE, SKEW, text};

/// The site of the function at the begin of `bytes` with two arguments.
fn site(bytes: &[u8]) -> Site {
    choose(&text(bytes, &[0]), BASE, 2).unwrap().0
}

/// Where the site is; `None`: single-stepped at the entry.
fn found(bytes: &[u8]) -> Option<u64> {
    let site = site(bytes);
    match site.kind {
        SiteKind::Emulated => Some(site.offset),
        SiteKind::SingleStepped => {
            assert_eq!(site.offset, 0);
            None
        }
    }
}

fn why(bytes: &[u8]) -> String {
    let site = site(bytes);
    assert_eq!(site.kind, SiteKind::SingleStepped, "{site:?}");
    site.reason
}

const RET: u8 = 0xc3;

#[test]
fn the_entry_itself() {
    assert_eq!(found(&[0x55, RET]), Some(0), "push %rbp");
    assert_eq!(found(&[0x41, 0x54, RET]), Some(0), "push %r12");
    assert_eq!(found(&[0x90, RET]), Some(0), "nop");
    assert_eq!(found(&[0xf3, 0x90, RET]), Some(0), "pause is a nop with a prefix");
    assert_eq!(found(&[0xeb, 0x00, RET]), Some(0), "jmp, short");
    assert_eq!(found(&[0xe9, 0, 0, 0, 0, RET]), Some(0), "jmp");
    assert_eq!(found(&[0xf2, 0xe9, 0, 0, 0, 0, RET]), Some(0), "bnd jmp");
    assert_eq!(found(&[0xe8, 0, 0, 0, 0, RET]), Some(0), "call");
    assert_eq!(found(&[0x74, 0x00, RET]), Some(0), "je, short");
    assert_eq!(found(&[0x0f, 0x87, 0, 0, 0, 0, RET]), Some(0), "ja");
}

#[test]
fn the_first_emulated_instruction_on_the_way() {
    assert_eq!(found(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53, RET]), Some(4), "endbr64; push %rbx");
    assert_eq!(found(&[0x48, 0x85, 0xff, 0x74, 0x00, RET]), Some(3), "test %rdi,%rdi; je");
    assert_eq!(found(&[0x0f, 0x1f, 0x00, 0x53, RET]), Some(3), "nopl (%rax) is single-stepped");
}

/// Kernels from 6.18 to 7.1 make a call of it, which may end the program (docs/decisions/0016).
#[test]
fn no_probe_is_ever_on_a_nop_of_five_bytes() {
    const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
    const TEST: [u8; 3] = [0x48, 0x85, 0xff];
    let at = |bytes: &[u8]| {
        let site = site(bytes);
        (site.offset, site.kind)
    };
    let code = |rest: &[u8]| [&NOP5, rest].concat();
    assert_eq!(at(&code(&[0x55, RET])), (5, SiteKind::Emulated), "push behind it");
    assert_eq!(at(&code(&[&TEST[..], &[RET]].concat())), (5, SiteKind::SingleStepped), "test behind it");
    assert_eq!(at(&code(&code(&[RET]))), (10, SiteKind::SingleStepped), "two of them");
    let with_prefix = [0x66, 0x0f, 0x1f, 0x40, 0x00, 0x48, 0x85, 0xff, RET];
    assert_eq!(at(&with_prefix), (5, SiteKind::SingleStepped), "another form of it");
    assert!(site(&code(&[RET])).reason.starts_with("behind the nop"));
    // Of other lengths they do no harm.
    assert_eq!(at(&[0x0f, 0x1f, 0x40, 0, RET]), (0, SiteKind::SingleStepped), "four bytes");
    // A loop comes back to what is behind the nop: it is passed more often than the function is called.
    let looped = code(&[0x48, 0xff, 0xcf, 0x75, 0xfb, RET]);
    assert_eq!(choose(&text(&looped, &[0]), BASE, 2), Err(SiteError::OnlyNops));
    assert_eq!(choose(&text(&NOP5.repeat(40), &[0]), BASE, 2), Err(SiteError::OnlyNops));
}

#[test]
fn a_return_is_only_taken_where_the_stack_pointer_is_as_at_the_entry() {
    for (code, what) in [
        (&[0x48, 0x83, 0xec, 0x18, 0x74, 0, RET][..], "sub $0x18,%rsp"),
        (&[0x48, 0x83, 0xe4, 0xf0, 0x74, 0, RET], "and $-16,%rsp"),
        (&[0x48, 0x89, 0xc4, 0x74, 0, RET], "mov %rax,%rsp"),
        (&[0x48, 0x8d, 0x24, 0x04, 0x74, 0, RET], "lea (%rsp,%rax),%rsp"),
        (&[0x58, 0x74, 0, RET], "pop %rax"),
        (&[0x6a, 0x01, 0x74, 0, RET], "push $1"),
        (&[0xff, 0x30, 0x74, 0, RET], "push (%rax)"),
        (&[0x66, 0x50, 0x74, 0, RET], "push %ax"),
    ] {
        let site = site(code);
        assert!(site.kind == SiteKind::Emulated && !site.at_entry_depth, "{what}");
    }
    for (code, what) in [
        (&[0x55, RET][..], "push %rbp, which comes behind the probe"),
        (&[0x48, 0x85, 0xff, 0x74, 0x00, RET], "test %rdi,%rdi"),
        (&[0x49, 0x89, 0xe2, 0x74, 0, RET], "mov %rsp,%r10"),
        (&[0x48, 0x83, 0xec, 0x18, RET], "the entry itself"),
    ] {
        assert!(site(code).at_entry_depth, "{what}");
    }
}

#[test]
fn the_stack_may_be_moved() {
    // What was a function's last word on its stack pointer doesn't matter: nothing is read there.
    assert_eq!(found(&[0x48, 0x83, 0xec, 0x18, 0x74, 0, RET]), Some(4), "sub $0x18,%rsp");
    assert_eq!(found(&[0x48, 0x83, 0xe4, 0xf0, 0x74, 0, RET]), Some(4), "and $-16,%rsp");
    assert_eq!(found(&[0x48, 0x89, 0xc4, 0x74, 0, RET]), Some(3), "mov %rax,%rsp");
    assert_eq!(found(&[0x48, 0x8d, 0x24, 0x04, 0x74, 0, RET]), Some(4), "lea (%rsp,%rax),%rsp");
    assert_eq!(found(&[0x58, 0x74, 0, RET]), Some(1), "pop %rax");
    assert_eq!(found(&[0x5c, 0x74, 0, RET]), Some(1), "pop %rsp");
    assert_eq!(found(&[0x6a, 0x01, 0x74, 0, RET]), Some(2), "push $1 isn't emulated");
    assert_eq!(found(&[0xff, 0x30, 0x74, 0, RET]), Some(2), "push (%rax) isn't emulated");
    assert_eq!(found(&[0x66, 0x50, 0x74, 0, RET]), Some(2), "push %ax isn't emulated");
    assert_eq!(found(&[0x49, 0x89, 0xe2, 0x74, 0, RET]), Some(3), "mov %rsp,%r10");
    assert!(why(&[0x5f, 0x74, 0, RET]).contains("overwrites argument 1"), "pop %rdi");
}

#[test]
fn arguments_must_be_intact() {
    assert!(why(&[0x31, 0xff, 0x74, 0, RET]).contains("overwrites argument 1"), "xor %edi,%edi");
    assert!(
        why(&[0x40, 0xb6, 1, 0x74, 0, RET]).contains("overwrites argument 2"),
        "mov $1,%sil: a part of it"
    );
    assert!(
        why(&[0x48, 0x0f, 0x44, 0xf8, 0x74, 0, RET]).contains("overwrites argument 1"),
        "cmove %rax,%rdi"
    );
    assert!(why(&[0x48, 0x87, 0xf0, 0x74, 0, RET]).contains("overwrites argument 2"), "xchg %rsi,%rax");
    assert_eq!(found(&[0x48, 0x89, 0xf8, 0x74, 0, RET]), Some(3), "mov %rdi,%rax copies only");
    // mul %rsi writes rdx: the third argument
    let mul = [0x48, 0xf7, 0xe6, 0x70, 0, RET];
    assert_eq!(found(&mul), Some(3));
    assert!(choose(&text(&mul, &[0]), BASE, 3).unwrap().0.reason.contains("overwrites argument 3"));
    // The site's own instruction is not yet executed.
    assert_eq!(found(&[0x57, 0x5f, RET]), Some(0), "push %rdi");
}

#[test]
fn prefixes_that_the_kernel_rejects() {
    assert!(!is_emulated(&[0x66, 0x90]), "xchg %ax,%ax");
    assert!(!is_emulated(&[0x66, 0xe9, 0, 0, 0, 0]));
    assert!(!is_emulated(&[0x2e, 0x74, 0]), "branch hint");
    assert!(!is_emulated(&[0x41, 0x90]), "xchg %r8d,%eax");
    assert!(!is_emulated(&[0x48, 0x55]), "push with another REX prefix");
    assert!(!is_emulated(&[0x66, 0x55]), "push %bp");
    assert!(!is_emulated(&[0x0f, 0x1f, 0x44, 0, 0]), "5 byte nop");
    assert!(!is_emulated(&[0xff, 0x25, 0, 0, 0, 0]), "jmp *(%rip)");
    assert!(!is_emulated(&[0xe3, 0]), "jrcxz");
    assert!(!is_emulated(&[]));
    assert_eq!(found(&[0x48, 0x85, 0xff, 0x66, 0x90, 0x74, 0, RET]), Some(5), "on over the 66 90");
    let refused =
        |bytes: &[u8]| matches!(choose(&text(bytes, &[0]), BASE, 1), Err(SiteError::Refused { .. }));
    assert!(refused(&[0x66, 0x90, RET]));
    assert!(refused(&[0x41, 0x90, RET]), "the kernel would execute a nop");
    assert!(refused(&[0x2e, 0x74, 0, RET]));
    assert!(refused(&[0xf0, 0xff, 0x07, RET]), "lock incl (%rdi)");
    assert!(refused(&[0xcc, RET]));
    assert!(refused(&[0xf4, RET]));
}

#[test]
fn the_way_ends() {
    assert!(why(&[0x48, 0x85, 0xff, RET]).contains("leaves the straight way"), "test; ret");
    assert!(why(&[0xff, 0xe0, 0x55]).contains("leaves the straight way"), "jmp *%rax");
    assert!(
        why(&[0xff, 0xd0, 0x55]).contains("leaves the straight way"),
        "call *%rax: the callee may do anything"
    );
    assert!(why(&[0x48, 0x85, 0xff, 0x0f, 0x0b, 0x55]).contains("leaves the straight way"), "ud2");
    assert!(why(&[0x48, 0x85, 0xff, 0xf4, 0x55]).contains("leaves the straight way"), "hlt");
    assert!(why(&[0x48, 0x85, 0xff, 0x0f, 0x05, 0x55]).contains("leaves the straight way"), "syscall");
    assert!(why(&[0x48, 0x85, 0xff, 0xe3, 0x00, 0x55, RET]).contains("leaves the straight way"), "jrcxz");
    assert!(why(&[0x48, 0x85, 0xff, 0x06, 0x55]).contains("no instruction"), "06 is none in 64 bit mode");
    assert!(why(&[0x48, 0x85, 0xff]).contains("no instruction"), "the segment ends");
    let many: Vec<u8> = [0x48, 0x85, 0xff].repeat(17).into_iter().chain([0x55, RET]).collect();
    assert!(why(&many).contains("among the first 16"));
    assert_eq!(found(&many[3..]), Some(48), "exactly 16 before it");
    let long: Vec<u8> =
        [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0].repeat(7).into_iter().chain([0x55, RET]).collect();
    assert!(why(&long).contains("within 64 bytes"), "mov $imm64,%rax, 10 bytes each");
}

#[test]
fn nothing_may_lead_into_the_way() {
    // test %rdi,%rdi; push %rbp; jmp (to the push)
    assert!(
        why(&[0x48, 0x85, 0xff, 0x55, 0xeb, 0xfd]).contains("leads in"),
        "own short loop back to the site"
    );
    // nop...: the loop goes to an instruction behind the site, which is fine
    assert_eq!(found(&[0x48, 0x85, 0xff, 0x55, 0x90, 0xeb, 0xfd]), Some(3));
    // Into the middle of the way, by 4-byte branches from anywhere in the segment, calls included.
    for opcode in [&[0xe9][..], &[0xe8], &[0x0f, 0x85]] {
        let mut code = vec![0x48, 0x85, 0xff, 0x55, RET];
        code.resize(0x1000, 0xcc);
        code.extend_from_slice(opcode);
        let displacement = 3 - (code.len() as i32 + 4);
        code.extend(displacement.to_le_bytes());
        assert!(why(&code).contains("leads in"), "{opcode:x?}");
        // One byte further is behind the site.
        let at = code.len() - 4;
        code[at..].copy_from_slice(&(displacement + 1).to_le_bytes());
        assert_eq!(found(&code), Some(3), "{opcode:x?}");
    }
    // By a short branch of a neighbour before it or behind it.
    let before = [0x90, 0x74, 0x05, RET, 0xcc, 0x48, 0x85, 0xff, 0x55, RET];
    let (site, _) = choose(&text(&before, &[0, 5]), BASE + 5, 1).unwrap();
    assert!(site.reason.contains("leads in"), "{site:?}");
    let behind = [0x48, 0x85, 0xff, 0x55, RET, 0xeb, 0xfc];
    assert!(why(&behind).contains("leads in"), "not part of the function's own flow");
}

#[test]
fn a_loop_to_the_entry_leaves_no_site() {
    let choose = |bytes: &[u8]| choose(&text(bytes, &[0]), BASE, 1).map(|(site, _)| site);
    assert_eq!(choose(&[0x55, 0x74, 0xfd, RET]), Err(SiteError::EntryRepeats { from: BASE + 1 }));
    // Also where another function, to which it jumps, jumps back.
    let mut bytes = vec![0x55, 0xe9, 0x0a, 0, 0, 0];
    bytes.resize(16, 0xcc);
    bytes.extend([0xeb, 0xee]);
    assert_eq!(choose(&bytes), Err(SiteError::EntryRepeats { from: BASE + 16 }));
    // Another function that jumps there is a caller: one pass for one call.
    let other = [0x55, RET, 0xeb, 0xfc];
    assert_eq!(choose(&other).unwrap().kind, SiteKind::Emulated);
    // And recursion by a call is another call.
    assert_eq!(choose(&[0x55, 0xe8, 0xfa, 0xff, 0xff, 0xff, RET]).unwrap().offset, 0);
}

#[test]
fn no_other_function_may_begin_on_the_way() {
    let bytes = [0x48, 0x85, 0xff, 0x48, 0x85, 0xf6, 0x55, RET];
    assert_eq!(found(&bytes), Some(6));
    for inside in [3, 6] {
        let (site, _) = choose(&text(&bytes, &[0, inside]), BASE, 2).unwrap();
        assert!(site.reason.contains("another function begins"), "{site:?}");
    }
    assert_eq!(choose(&text(&bytes, &[0, 7]), BASE, 2).unwrap().0.offset, 6, "behind the site is fine");
}

#[test]
fn what_is_told_of_the_site() {
    let site = site(&[0x48, 0x85, 0xff, 0x55, RET]);
    assert_eq!(site.file_offset, BASE + 3 - SKEW);
    assert_eq!(site.instruction, "push %rbp");
    assert_eq!(self::site(&[0x0f, 0x84, 0xa, 0, 0, 0]).instruction, "je 0x10010");
    assert_eq!(choose(&text(&[0x55], &[]), 7, 1), Err(SiteError::NoExecutableBytes));
    assert_eq!(choose(&text(&[0x06], &[]), BASE, 1), Err(SiteError::NotAnInstruction));
}

/// The site of the function at the begin of `bytes` and where its two arguments are there.
fn followed(bytes: &[u8]) -> (Option<u64>, Vec<Register>) {
    let (site, registers) = choose(&text(bytes, &[0]), BASE, 2).unwrap();
    ((site.kind == SiteKind::Emulated).then_some(site.offset), registers)
}

#[test]
fn arguments_are_followed() {
    use Register::{R12, Rbx, Rdi, Rsi};
    let lost = (None, vec![Rdi, Rsi]);
    let xor_edi = [0x31, 0xff];
    let code = |parts: &[&[u8]]| [&parts.concat()[..], &[0x74, 0, RET]].concat();
    let mov_rdi_rbx: &[u8] = &[0x48, 0x89, 0xfb];
    assert_eq!(
        followed(&code(&[mov_rdi_rbx])),
        (Some(3), vec![Rdi, Rsi]),
        "where it was, as long as it is there"
    );
    assert_eq!(followed(&code(&[mov_rdi_rbx, &xor_edi])), (Some(5), vec![Rbx, Rsi]));
    assert_eq!(
        followed(&code(&[&[0x48, 0x8b, 0xdf], &xor_edi])),
        (Some(5), vec![Rbx, Rsi]),
        "the other encoding"
    );
    // mov %rdi,%rbx; mov %rbx,%r12; xor %edi,%edi; xor %ebx,%ebx
    let chain = code(&[mov_rdi_rbx, &[0x49, 0x89, 0xdc], &xor_edi, &[0x31, 0xdb]]);
    assert_eq!(followed(&chain), (Some(10), vec![R12, Rsi]));
    // mov %rdi,%rsi: the second argument is gone, whatever becomes of the first.
    assert_eq!(followed(&code(&[&[0x48, 0x89, 0xfe]])), lost);
    // mov %rsi,%rbx; mov %rdi,%rsi; xor %edi,%edi: both have moved.
    let moved = code(&[&[0x48, 0x89, 0xf3], &[0x48, 0x89, 0xfe], &xor_edi]);
    assert_eq!(followed(&moved), (Some(8), vec![Rsi, Rbx]));
    // What changes a copy spoils it: add $1,%rbx; lea 1(%rdi),%rbx is none; mov %edi,%ebx loses half of it.
    assert_eq!(followed(&code(&[mov_rdi_rbx, &[0x48, 0x83, 0xc3, 1], &xor_edi])), lost);
    assert_eq!(followed(&code(&[&[0x48, 0x8d, 0x5f, 1], &xor_edi])), lost);
    assert_eq!(followed(&code(&[&[0x89, 0xfb], &xor_edi])), lost);
    assert_eq!(followed(&code(&[&[0x48, 0x0f, 0x44, 0xdf], &xor_edi])), lost, "cmove copies sometimes");
    // Neither memory nor the stack pointer is a place.
    assert_eq!(followed(&code(&[&[0x48, 0x89, 0x7c, 0x24, 0x08], &xor_edi])), lost);
    assert_eq!(followed(&code(&[&[0x48, 0x89, 0xfc], &xor_edi])), lost);
}
