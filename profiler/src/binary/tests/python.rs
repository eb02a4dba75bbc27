//! Python interpreters.

use crate::binary::python::{Argument, Domain, find, table_pointers};

#[test]
fn scratch_dump() {
    let Ok(path) = std::env::var("PY") else { return };
    let start = std::time::Instant::now();
    let python = find(&std::fs::read(path).unwrap()).unwrap().unwrap();
    eprintln!("took {:?}", start.elapsed());
    for (kind, hook) in python
        .hooks
        .iter()
        .map(|hook| ("HOOK", hook))
        .chain(python.releases.iter().map(|hook| ("RELEASE", hook)))
    {
        let h = &hook.hook;
        println!(
            "{kind} {} {:?} {:#x} {:#x} {} {:?} {} | {:?} {:?} {:?} {:?}",
            hook.domain.name(),
            h.function,
            h.site.file_offset,
            h.address + h.site.offset,
            hook.inlined,
            h.site.kind,
            h.site.instruction,
            h.op,
            h.registers,
            hook.bytes,
            h.internal_calls
        );
    }
    for left in &python.left_out {
        println!("LEFT {left:?}");
    }
    for table in &python.tables {
        println!("TABLE {table:x?}");
    }
    for note in &python.notes {
        println!("NOTE {note}");
    }
    let _ = (table_pointers(&python), Domain::Raw, Argument::Unknown);
}
