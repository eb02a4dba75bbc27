use proptest::prelude::*;

use super::*;
use crate::{
    binary::go::layout::{Table, Tables},
    worker::protocol::{Reply, decode, encode},
};

/// Bytes that the described file is said to have.
const SIZE: u64 = 0x10_0000;

/// The newest of the tables that are made from real toolchains.
fn table() -> Table {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    let tables = std::fs::read_to_string(directory.join("1.27-amd64.json")).unwrap();
    serde_json::from_str::<Tables>(&tables).unwrap().variants.remove(0)
}

fn module(path: &str) -> Module {
    Module { path: path.into(), version: "v1.2.3".into(), sum: "h1:abc=".into(), replace: None }
}

fn description() -> Description {
    let places = Places {
        base: 0x40_0000,
        table: "1.27.3".into(),
        exact: true,
        found: Found::References { same: 24, of: 26 },
        globals: Globals { memstats: 0x60_0000, mbuckets: Some(0x60_1000), ..Globals::default() },
        layout: Layout::of(&table()).unwrap(),
        text: Span { start: 0x40_1000, end: 0x48_0000 },
        worlds: Some((Span { start: 0x40_2000, end: 0x40_2100 }, Span { start: 0x40_2200, end: 0x40_2300 })),
        world_sites: Some((0x2004, 0x2204)),
        user_starts: vec![0x40_3000],
    };
    let replaced = Module { replace: Some(Box::new(module("example.org/fork"))), ..module("example.org/b") };
    let build = BuildInfo {
        path: "example.org/a/cmd".into(),
        main: Some(module("example.org/a")),
        dependencies: vec![replaced, module("example.org/c")],
        settings: vec![("-ldflags".into(), "-s -w".into())],
    };
    let go = GoImage { version: "go1.27.3".into(), build: Ok(build), runtime: Ok(places) };
    Description {
        go: Some(go),
        crates: vec![("serde".into(), "1.0.0".into())],
        trouble: vec!["something".into()],
    }
}

fn build(description: &mut Description) -> &mut BuildInfo {
    description.go.as_mut().unwrap().build.as_mut().unwrap()
}

fn places(description: &mut Description) -> &mut Places {
    description.go.as_mut().unwrap().runtime.as_mut().unwrap()
}

#[test]
fn a_true_description_goes_through_unchanged() {
    let reply = encode(&Reply::Described(Box::new(description())));
    let Some(Reply::Described(told)) = decode(&reply) else { panic!() };
    assert_eq!(*told, description());
    assert_eq!(believable(*told, SIZE), Some(description()));
    assert_eq!(believable(Description::default(), 0), Some(Description::default()));
}

#[test]
fn lies_are_not_believed() {
    type Lie = fn(&mut Description);
    let lies: [(&str, Lie); 27] = [
        ("modules", |it| build(it).dependencies = vec![module("a"); MODULES + 1]),
        ("settings", |it| build(it).settings = vec![<_>::default(); SETTINGS + 1]),
        ("crates", |it| it.crates = vec![<_>::default(); CRATES + 1]),
        ("troubles", |it| it.trouble = vec![String::new(); TROUBLES + 1]),
        ("a base that no program has", |it| places(it).base = ADDRESS_LIMIT),
        ("a global that no program has", |it| places(it).globals.mheap = ADDRESS_LIMIT),
        ("the last global", |it| places(it).globals.gomaxprocs = u64::MAX),
        ("a global that need not be", |it| places(it).globals.ncpu = Some(ADDRESS_LIMIT)),
        ("code that ends before it begins", |it| places(it).text.end = 0),
        ("code that no program has", |it| places(it).text = Span { start: 1 << 48, end: 1 << 48 }),
        ("more code than file", |it| places(it).text.end = places(it).text.start + SIZE + 1),
        ("a function outside of the code", |it| places(it).worlds.as_mut().unwrap().0.start = 0x40_0fff),
        ("another one", |it| places(it).worlds.as_mut().unwrap().1.end = 0x48_0001),
        ("a function that ends before it begins", |it| {
            places(it).worlds.as_mut().unwrap().1 = Span { start: 0x40_3000, end: 0x40_2fff };
        }),
        ("a probe behind the file", |it| places(it).world_sites = Some((SIZE, 0))),
        ("another probe behind the file", |it| places(it).world_sites = Some((0, u64::MAX))),
        ("more votes than voters", |it| places(it).found = Found::References { same: 2, of: 1 }),
        ("starts", |it| places(it).user_starts = vec![0; STARTS + 1]),
        ("a start that no program has", |it| places(it).user_starts[0] = ADDRESS_LIMIT),
        ("too few classes", |it| _ = places(it).layout.class_sizes.pop()),
        ("too many classes", |it| places(it).layout.class_sizes.push(8)),
        ("a class too large", |it| places(it).layout.class_sizes[67] = LARGEST_CLASS + 1),
        ("reasons", |it| places(it).layout.wait_reasons = vec![String::new(); REASONS + 1]),
        ("a structure too large", |it| places(it).layout.mstats.size = OFFSET_LIMIT),
        ("a field too far away", |it| places(it).layout.heap.cache_alloc = OFFSET_LIMIT),
        ("a field of the last structure", |it| places(it).layout.module_data.etypes = OFFSET_LIMIT),
        ("one that need not be", |it| places(it).layout.g.parent_goid = Some(OFFSET_LIMIT)),
    ];
    for (what, lie) in lies {
        let mut description = description();
        lie(&mut description);
        assert_eq!(believable(description, SIZE), None, "{what}");
    }
}

#[test]
fn texts_disturb_nobody() {
    let mut lying = description();
    let long = format!("\x1b[2J{}", "x".repeat(1 << 16));
    build(&mut lying).settings[0].1.clone_from(&long);
    build(&mut lying).dependencies[0].replace.as_mut().unwrap().path.clone_from(&long);
    build(&mut lying).main.as_mut().unwrap().sum.clone_from(&long);
    places(&mut lying).layout.wait_reasons = vec![String::new(), long.clone()];
    lying.go.as_mut().unwrap().version.clone_from(&long);
    lying.crates[0].1.clone_from(&long);
    lying.trouble[0].clone_from(&long);
    let mut told = believable(lying, SIZE).unwrap();
    let texts = [
        (told.trouble[0].clone(), TEXT_LIMIT),
        (told.crates[0].1.clone(), NAME_LIMIT),
        (told.go.as_ref().unwrap().version.clone(), NAME_LIMIT),
        (build(&mut told).settings[0].1.clone(), TEXT_LIMIT),
        (build(&mut told).dependencies[0].replace.as_ref().unwrap().path.clone(), TEXT_LIMIT),
        (build(&mut told).main.as_ref().unwrap().sum.clone(), NAME_LIMIT),
        (places(&mut told).layout.wait_reasons[1].clone(), REASON_LIMIT),
    ];
    for (text, limit) in texts {
        assert!(text.len() <= limit + 3 && text.starts_with("\u{fffd}[2J"), "{}", text.len());
    }
    let go = told.go.as_mut().unwrap();
    (go.build, go.runtime) = (Err("a\nb".into()), Err("c\nd".into()));
    let go = believable(told, SIZE).unwrap().go.unwrap();
    assert_eq!((go.build, go.runtime), (Err("a\u{fffd}b".into()), Err("c\u{fffd}d".into())));
}

#[test]
fn replacements_of_replacements_are_not_even_read() {
    // A message as the process could make it, were the type as deep as it looks: 4 million modules, one in the other.
    let plain = encode(&module("a"));
    assert_eq!(plain.last(), Some(&0), "nothing in its place");
    let deep = [0_u8, 0, 0, 1].repeat(1 << 22);
    let told: Option<Module> = decode(&deep);
    assert_eq!(told, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_noticed_or_does_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = encode(&Reply::Described(Box::new(description())));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(Reply::Described(told)) = decode(&bytes)
            && let Some(told) = believable(*told, SIZE)
            && let Some(Ok(places)) = told.go.map(|go| go.runtime)
        {
            prop_assert!(places.text.start <= places.text.end && places.layout.is_below(OFFSET_LIMIT));
        }
    }
}
