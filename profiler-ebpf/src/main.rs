//! The kernel side: counts what targets do and keeps the sums in maps. Nothing per event leaves the kernel.
//!
//! `maps` lists every map with who writes and who reads it, `kernel_data` is the only file that knows kernel
//! structures, `probes/<family>.rs` holds the programs.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod kernel_data;
mod maps;
mod probes;

/// The helpers used here ask for a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier only accepts programs whose every access is checked.
    loop {}
}
