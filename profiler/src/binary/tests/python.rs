//! Python interpreters.

use crate::binary::python::{Argument, Domain, find, table_pointers};

#[test]
fn scratch_dump() {
    let Ok(path) = std::env::var("PY") else { return };
    let start = std::time::Instant::now();
    let python = find(&std::fs::read(path).unwrap()).unwrap().unwrap();
    eprintln!("took {:?}", start.elapsed());
    for hook in &python.hooks {
        println!(
            "HOOK {} {:?} {:#x} {:#x} {} {:?} {} | {:?}",
            hook.domain.name(), hook.function, hook.site.file_offset, hook.address + hook.site.offset, hook.inlined, hook.site.kind,
            hook.site.instruction, hook.arguments
        );
    }
    for left in &python.left_out { println!("LEFT {left:?}"); }
    for table in &python.tables { println!("TABLE {table:x?}"); }
    for note in &python.notes { println!("NOTE {note}"); }
    let _ = (table_pointers(&python), Domain::Raw, Argument::Unknown);
}
