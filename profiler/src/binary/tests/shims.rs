//! Who stands before another allocator, and who is one: the same source in several forms, as compilers make it, and
//! allocators within stripped programs.

use profiler_common::alloc::{AllocFunction, BAD_ALIGNMENT_FAILS};

use super::built::Workshop;
use crate::binary::{Allocator, Image, Layer, LeftOutReason, analyse};
use crate::test_support::skip;

const SHIM: &str = include_str!("../../../tests/programs/shim.c");

/// The shared library that a form of the source makes.
fn shim(workshop: &Workshop, options: &str) -> Image {
    workshop.run(&format!("gcc -fno-builtin -shared -fPIC {options} -o shim.so shim.c"));
    analyse(&workshop.read("shim.so"), None).unwrap()
}

fn reasons(image: &Image) -> Vec<(&str, &LeftOutReason)> {
    image.left_out.iter().map(|left| (left.name.as_str(), &left.reason)).collect()
}

#[test]
fn who_looks_the_next_allocator_up_is_not_counted() {
    let Some(workshop) = Workshop::with(&["gcc"]) else { return };
    workshop.write("shim.c", SHIM.as_bytes());
    for level in ["-O0", "-O1", "-O2", "-O3", "-O2 -fno-omit-frame-pointer", "-Os -fcf-protection=full"] {
        for form in ["", "-DCOPIES", "-DHEAD"] {
            let options = format!("{level} {form}");
            let image = shim(&workshop, &options);
            assert_eq!(image.hooks, [], "{options}");
            let forwards = |(_, reason): &(&str, &LeftOutReason)| **reason == LeftOutReason::Forwards;
            assert_eq!(image.left_out.len(), 4, "{options}");
            assert!(reasons(&image).iter().all(forwards), "{options} {:?}", reasons(&image));
        }
        for form in ["-DEARLY", "-DHELPER"] {
            let options = format!("{level} {form}");
            let image = shim(&workshop, &options);
            assert_eq!(image.hooks, [], "{options}");
            // The same for all: blocks of its own that are given back would be counted at one end only.
            let (_, first) = reasons(&image)[0];
            let some = [LeftOutReason::MayForward, LeftOutReason::Forwards].contains(first);
            assert!(some && reasons(&image).iter().all(|(_, reason)| *reason == first), "{options}");
            assert!(form != "-DEARLY" || *first == LeftOutReason::MayForward, "{options}");
        }
    }
}

#[test]
fn who_calls_back_through_a_pointer_is_an_allocator() {
    let Some(workshop) = Workshop::with(&["gcc"]) else { return };
    workshop.write("shim.c", SHIM.as_bytes());
    for level in ["-O0", "-O1", "-O2", "-O3", "-O2 -fno-omit-frame-pointer", "-Os -fcf-protection=full"] {
        let image = shim(&workshop, &format!("{level} -DWORKS"));
        assert_eq!(image.hooks.len(), 4, "{level} {:?}", reasons(&image));
        assert!(image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(Allocator::Other)));
        // Nobody knows what it does there.
        for hook in &image.hooks {
            let resizes = hook.function == AllocFunction::Realloc;
            assert_eq!(hook.notes.iter().any(|note| note.contains("resized to nothing")), resizes);
        }
    }
}

/// A dynamic program with an archive within it, stripped. `None`, and a skipped test, if it isn't here.
fn with_archive(archive: &str) -> Option<Vec<u8>> {
    let workshop = Workshop::with(&["gcc", "strip"])?;
    let path = workshop.run(&format!("gcc -print-file-name={archive}"));
    if !path.starts_with('/') {
        skip(&format!("there is no {archive}"));
        return None;
    }
    let line = format!("gcc -O1 -fno-builtin -o program source.c {} -lstdc++ -lm -pthread", path.trim());
    workshop.run(&line);
    workshop.run("strip --strip-all -o stripped program");
    Some(workshop.read("stripped"))
}

/// The hooks of the C interface.
fn flags(image: &Image) -> Vec<(AllocFunction, u32)> {
    let plain = image.hooks.iter().filter(|hook| !hook.names[0].starts_with('_'));
    plain.map(|hook| (hook.function, hook.flags & BAD_ALIGNMENT_FAILS)).collect()
}

fn layers_are(image: &Image, allocator: Allocator) {
    let all = image.hooks.iter().all(|hook| hook.layer == Layer::Allocator(allocator));
    assert!(all && !image.hooks.is_empty(), "{image:#x?}");
}

#[test]
fn jemalloc_within_a_stripped_program() {
    let Some(mut bytes) = with_archive("libjemalloc.a") else { return };
    let image = analyse(&bytes, None).unwrap();
    layers_are(&image, Allocator::Jemalloc);
    for (function, refuses) in [
        (AllocFunction::Malloc, 0),
        (AllocFunction::Calloc, 0),
        (AllocFunction::Realloc, 0),
        (AllocFunction::Free, 0),
        (AllocFunction::AlignedAlloc, BAD_ALIGNMENT_FAILS),
        (AllocFunction::PosixMemalign, BAD_ALIGNMENT_FAILS),
    ] {
        assert!(flags(&image).contains(&(function, refuses)), "{function:?} {:?}", flags(&image));
    }
    // Without its texts, it is an allocator all the same, but nobody knows which.
    let text = b"<jemalloc>: ";
    let places: Vec<usize> =
        bytes.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at).collect();
    assert!(places.len() > 10);
    for at in places {
        bytes[at] = b'[';
    }
    let unknown = analyse(&bytes, None).unwrap();
    layers_are(&unknown, Allocator::Other);
    assert_eq!(unknown.hooks.len(), image.hooks.len(), "{:?}", reasons(&unknown));
    assert!(unknown.hooks.iter().any(|hook| hook.notes.iter().any(|note| note.contains("power of two"))));
}

#[test]
fn tcmalloc_within_a_stripped_program() {
    let Some(bytes) = with_archive("libtcmalloc_minimal.a") else { return };
    let image = analyse(&bytes, None).unwrap();
    layers_are(&image, Allocator::Tcmalloc);
    let wrapper = |name: &str| {
        let mut left = image.left_out.iter();
        left.any(|left| {
            left.name.split(", ").any(|one| one == name)
                && matches!(left.reason, LeftOutReason::WrapperOf(AllocFunction::AlignedAlloc))
        })
    };
    assert!(wrapper("valloc") && wrapper("pvalloc") && wrapper("posix_memalign"), "{:?}", reasons(&image));
}

/// Never gives a block back, so that nothing brings `free` into the program.
const NEVER_FREES: &str = r#"
#include <stdlib.h>
int main(int argc, char **argv) { (void)argv; return malloc(argc) == 0; }
"#;

#[test]
fn a_static_program_that_never_frees() {
    let Some(workshop) = Workshop::with(&["musl-gcc", "nm"]) else { return };
    workshop.write("source.c", NEVER_FREES.as_bytes());
    workshop.run("musl-gcc -O1 -fno-builtin -static -o program source.c");
    assert!(workshop.truth("program", "free").is_empty(), "else this tests nothing");
    let image = analyse(&workshop.read("program"), None).unwrap();
    let [hook] = image.hooks.as_slice() else { panic!("{image:#x?}") };
    assert_eq!((hook.function, hook.layer), (AllocFunction::Malloc, Layer::Allocator(Allocator::Musl)));
    let addresses: Vec<u64> = workshop.truth("program", "malloc").iter().map(|&(at, ..)| at).collect();
    assert_eq!(addresses, [hook.address]);
}

#[test]
fn a_program_with_a_malloc_of_its_own_or_none() {
    let Some(workshop) = Workshop::with(&["gcc"]) else { return };
    let with = |source: &str, options: &str| {
        workshop.write("source.c", source.as_bytes());
        workshop.run(&format!("gcc -O1 -fno-builtin {options} -o program source.c"));
        analyse(&workshop.read("program"), None).unwrap().hooks.len()
    };
    let own = "static char pool[4096]; static unsigned long used;\n\
               void *malloc(unsigned long n) { void *p = pool + used; used += n; return p; }\n";
    let defined = format!("{own}int main(void) {{ return malloc(1) == 0; }}\n");
    assert_eq!(with(&defined, ""), 1);
    // A library may have a function of that name without being the one that everybody uses.
    assert_eq!(with(own, "-shared -fPIC"), 0);
    // An import has the address of its stub here, to be compared by others.
    let imports =
        "#include <stdlib.h>\nvoid *(*volatile f)(size_t) = malloc; int main(void) { return f(1) == 0; }\n";
    assert_eq!(with(imports, "-no-pie -fno-pic"), 0);
}
