use std::fs::File;

use profiler_common::alloc::AllocFunction;
use proptest::prelude::*;

use super::*;
use crate::{
    binary,
    worker::{
        Analysed,
        analyse::analyse,
        protocol::{Reply, decode, encode},
    },
};

/// The C library that this program runs with, its size, and what is found in it.
fn c_library() -> (String, u64, Image) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("libc.so") || line.contains("/libc-")).unwrap();
    let path = line[line.find('/').unwrap()..].to_owned();
    let bytes = std::fs::read(&path).unwrap();
    let image = binary::analyse(&bytes, None).unwrap();
    assert!(image.hooks.iter().any(|hook| hook.function == AllocFunction::Malloc));
    (path, bytes.len() as u64, image)
}

#[test]
fn a_true_analysis_goes_through_unchanged() {
    let (path, size, image) = c_library();
    let analysed = analyse(&File::open(path).unwrap(), None, true);
    assert_eq!(analysed, Analysed { image: Ok(image.clone()), debug_problem: None });
    let reply = encode(&Reply::Analysed(Box::new(analysed)));
    let Some(Reply::Analysed(analysed)) = decode(&reply) else { panic!() };
    assert_eq!(analysed.image.as_ref(), Ok(&image));
    assert_eq!(believable(analysed.image.unwrap(), size), Some(image));
}

#[test]
fn lies_are_not_believed() {
    let (_, size, image) = c_library();
    type Lie = fn(&mut Image, u64);
    let lies: [(&str, Lie); 12] = [
        ("a site outside", |image, size| image.hooks[0].site.file_offset = size),
        ("a site beyond the last address", |image, _| image.hooks[0].site.offset = u64::MAX),
        ("a flag that there isn't", |image, _| image.hooks[0].flags |= 1 << 31),
        ("too many hooks", |image, _| image.hooks = vec![image.hooks[0].clone(); FUNCTIONS + 1]),
        ("too many names", |image, _| image.hooks[0].names = vec![String::new(); TEXTS + 1]),
        ("too many notes", |image, _| image.hooks[0].notes = vec![String::new(); TEXTS + 1]),
        ("too many calls", |image, _| {
            let hook = image.hooks.iter_mut().find(|hook| !hook.internal_calls.is_empty()).unwrap();
            hook.internal_calls = vec![hook.internal_calls[0].clone(); MAX_INTERNAL_CALLS + 1];
        }),
        ("a call outside", |image, size| {
            let hook = image.hooks.iter_mut().find(|hook| !hook.internal_calls.is_empty()).unwrap();
            hook.internal_calls[0].file_offset = size;
        }),
        ("a return to outside", |image, size| {
            let hook = image.hooks.iter_mut().find(|hook| !hook.internal_calls.is_empty()).unwrap();
            hook.internal_calls[0].returns_to = Some(size + 1);
        }),
        ("a path for a build id", |image, _| image.build_id = Some("../../etc/passwd".to_owned())),
        ("too many problems", |image, _| image.symbol_problems = vec![String::new(); TEXTS + 1]),
        ("too many segments", |image, _| image.segments = vec![image.segments[0]; SEGMENTS + 1]),
    ];
    for (what, lie) in lies {
        let mut image = image.clone();
        lie(&mut image, size);
        assert_eq!(believable(image, size), None, "{what}");
    }
}

#[test]
fn texts_disturb_nobody() {
    let (_, size, mut image) = c_library();
    image.hooks[0].site.reason = format!("\x1b[2J{}", "x".repeat(1 << 20));
    image.symbol_problems = vec!["one\nline".to_owned()];
    image.soname = Some("\u{202e}".to_owned());
    let image = believable(image, size).unwrap();
    let reason = &image.hooks[0].site.reason;
    assert!(reason.len() < TEXT_LIMIT + 4 && reason.starts_with("\u{fffd}[2J"), "{}", reason.len());
    assert_eq!(
        (image.symbol_problems, image.soname),
        (vec!["one\u{fffd}line".into()], Some("\u{fffd}".into()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_noticed_or_does_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (_, size, image) = c_library();
        let mut bytes = encode(&Reply::Analysed(Box::new(Analysed { image: Ok(image), debug_problem: None })));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(Reply::Analysed(analysed)) = decode(&bytes)
            && let Ok(image) = analysed.image
            && let Some(image) = believable(image, size)
        {
            let calls = image.hooks.iter().flat_map(|hook| &hook.internal_calls).map(|call| call.file_offset);
            let sites = image.hooks.iter().map(|hook| hook.site.file_offset);
            prop_assert!(sites.chain(calls).all(|offset| offset < size));
        }
    }
}
