//! The text of build information: hand-made, random, damaged.

use proptest::prelude::*;

use super::super::build_info::parse;
use super::super::{BuildInfo, Module};

fn module(path: &str, version: &str, sum: &str) -> Module {
    Module { path: path.to_owned(), version: version.to_owned(), sum: sum.to_owned(), replace: None }
}

#[test]
fn every_kind_of_line_is_understood_and_others_do_no_harm() {
    let text = b"path\texample.com/a/cmd\nmod\texample.com/a\t(devel)\t\n=>\t./a\t\t\nhint\tfrom the future\nnonsense\n\
        dep\tb.org/b\tv1.2.3\th1:AAA=\n=>\tc.org/c\tv0.0.1\th1:BBB=\ndep\td.org/d\tv2.0.0\n=>\tone\tv1\t\n=>\ttwo\tv1\t\n\
        dep\tbroken\nbuild\t-race=true\nbuild\t\"a key\"=`a value`\nbuild\t-ldflags=\"-X \\\"a=\\x41\\u00e9\\n\\\"\"\n\
        build\tempty=\nbuild\t=none\nbuild\tno value\n";
    let mut info = BuildInfo {
        path: "example.com/a/cmd".to_owned(),
        main: Some(module("example.com/a", "(devel)", "")),
        dependencies: vec![module("b.org/b", "v1.2.3", "h1:AAA="), module("d.org/d", "v2.0.0", "")],
        settings: Vec::new(),
    };
    info.main.as_mut().unwrap().replace = Some(Box::new(module("./a", "", "")));
    info.dependencies[0].replace = Some(Box::new(module("c.org/c", "v0.0.1", "h1:BBB=")));
    // Only the line behind the module is its.
    info.dependencies[1].replace = Some(Box::new(module("one", "v1", "")));
    for (key, value) in
        [("-race", "true"), ("a key", "a value"), ("-ldflags", "-X \"a=Aé\n\""), ("empty", "")]
    {
        info.settings.push((key.to_owned(), value.to_owned()));
    }
    assert_eq!(parse(text), Ok(info));
}

#[test]
fn more_modules_than_any_program_has_are_refused() {
    let text = "dep\ta\tv1\n".repeat(4096);
    assert_eq!(parse(text.as_bytes()).unwrap().dependencies.len(), 4096);
    assert!(parse((text + "dep\ta\tv1\n").as_bytes()).unwrap_err().contains("4096"));
    assert!(parse("build\ta=b\n".repeat(1025).as_bytes()).is_err());
}

/// What Go's own writer would write (`BuildInfo.String` in Go's src/runtime/debug/mod.go).
fn written(info: &BuildInfo) -> String {
    let mut text = format!("path\t{}\n", info.path);
    let mut line = |kind: &str, module: &Module| {
        text += &format!("{kind}\t{}\t{}\t{}\n", module.path, module.version, module.sum);
        if let Some(replace) = &module.replace {
            text += &format!("=>\t{}\t{}\t{}\n", replace.path, replace.version, replace.sum);
        }
    };
    if let Some(main) = &info.main {
        line("mod", main);
    }
    info.dependencies.iter().for_each(|module| line("dep", module));
    for (key, value) in &info.settings {
        let quote = |text: &str| {
            let escaped: String = text
                .chars()
                .map(|c| {
                    if c.is_ascii_graphic() && !matches!(c, '"' | '\\') {
                        c.to_string()
                    } else {
                        format!("\\U{:08x}", c as u32)
                    }
                })
                .collect();
            if escaped == text && !text.contains(['=', '`']) { escaped } else { format!("\"{escaped}\"") }
        };
        text += &format!("build\t{}={}\n", quote(key), quote(value));
    }
    text
}

prop_compose! {
    fn any_module()(path in "[a-z./]{1,20}", version in "v[0-9.]{1,8}", sum in "(h1:[A-Za-z0-9+/]{8}=)?") -> Module {
        module(&path, &version, &sum)
    }
}

prop_compose! {
    fn replaced()(module in any_module(), replace in proptest::option::of(any_module())) -> Module {
        Module { replace: replace.map(Box::new), ..module }
    }
}

prop_compose! {
    fn any_info()(
        path in "[a-z./]{0,20}",
        main in proptest::option::of(replaced()),
        dependencies in proptest::collection::vec(replaced(), 0..8),
        settings in proptest::collection::vec((".{1,12}", ".{0,20}"), 0..8),
    ) -> BuildInfo {
        BuildInfo { path, main, dependencies, settings }
    }
}

proptest! {
    #[test]
    fn what_go_writes_is_read_as_it_was_meant(info in any_info()) {
        prop_assert_eq!(parse(written(&info).as_bytes()), Ok(info));
    }

    #[test]
    fn no_text_makes_it_fail(info in any_info(), cuts in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..16)) {
        let mut text = written(&info).into_bytes();
        for (place, byte) in cuts {
            let length = text.len();
            if length > 0 {
                text[usize::from(place) % length] = byte;
            }
        }
        prop_assert!(parse(&text).is_ok());
    }
}
