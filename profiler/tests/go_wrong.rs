//! What isn't right is refused with a reason, and never becomes a wrong number: tables of other versions, damaged files, files of
//! other languages, memory that can't be read.

mod common;

use std::{
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    can_observe,
    child::run_within,
    go::{
        figures::{self, Moment},
        outside::{View, attach},
        target::Target,
        toolchain::{Build, Toolchain},
    },
    profiler::{Watching, profiler},
    within,
};
use profiler::binary::go::{
    self, Places,
    layout::{Layout, Tables},
};

/// A toolchain's program that runs and has something to say.
fn running(toolchain: &Toolchain, build: Build) -> Option<(Target, PathBuf, Arc<Places>)> {
    if !can_observe() {
        return None;
    }
    let program = toolchain.program(build)?;
    let mut target = Target::start(&program, 4, &[]);
    for command in ["work 3000", "gor 20", "gc 2"] {
        target.ask(command);
    }
    let file = std::fs::read(&program).expect("it can be read");
    let image = go::analyse(&file).expect("it is whole").expect("it is Go's");
    Some((target, program, Arc::new(image.runtime.expect("it is known"))))
}

/// Reads a program by these places. Either they are refused, or every figure is right. Whether they were refused.
fn is_refused_or_right(target: &mut Target, program: &Path, places: &Arc<Places>, what: &str) -> bool {
    let pid = target.pid();
    let mut last = Vec::new();
    // A moment may be unlucky; see `cell`.
    for _ in 0..4 {
        let (read, said) = target.stopped("post", || {
            let mut runtime = attach(pid, program, places)?;
            runtime.read(View::MemStats).map_err(|error| error.to_string())
        });
        let Ok(figures) = read else { return true };
        let figures = serde_json::to_value(figures).expect("numbers");
        let tally = figures::compare(Moment::Post, false, &figures, &said);
        if tally.all_equal() {
            return false;
        }
        last = tally.different;
    }
    panic!("{what}: neither refused nor right: {last:#?}");
}

/// All tables of the repository.
fn layouts() -> Vec<(String, Layout)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/binary/go/tables");
    let mut layouts = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it is there").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a table");
        let tables: Tables = serde_json::from_str(&text).expect("a table");
        for (number, variant) in tables.variants.iter().enumerate() {
            let layout = Layout::of(variant).expect("a whole table");
            layouts.push((format!("{} {} {number}", tables.go, tables.arch), layout));
        }
    }
    assert!(layouts.len() >= 8, "there are tables");
    layouts
}

#[test]
fn the_table_of_another_version_is_refused_or_does_no_harm() {
    for toolchain in Toolchain::representative() {
        for build in [Build::Default, Build::Stripped] {
            let Some((mut target, program, places)) = running(&toolchain, build) else { return };
            assert!(
                !is_refused_or_right(&mut target, &program, &places, "its own table"),
                "its own table is refused"
            );
            let mut refused = 0;
            for (name, layout) in layouts() {
                let wrong = Arc::new(Places { layout, ..Places::clone(&places) });
                let what = format!("Go {} read by the table of {name}", toolchain.version);
                refused += usize::from(is_refused_or_right(&mut target, &program, &wrong, &what));
            }
            assert!(refused > 0, "Go {}: no other table is refused", toolchain.version);
            target.end();
        }
    }
}

#[test]
fn globals_at_other_places_are_refused() {
    for toolchain in Toolchain::representative() {
        let Some((mut target, program, places)) = running(&toolchain, Build::Default) else { return };
        type Global = fn(&mut Places) -> &mut u64;
        let globals: [(&str, Global); 6] = [
            ("memstats", |places| &mut places.globals.memstats),
            ("mheap_", |places| &mut places.globals.mheap),
            ("gcController", |places| &mut places.globals.gc_controller),
            ("sched", |places| &mut places.globals.sched),
            ("allp", |places| &mut places.globals.allp),
            ("gomaxprocs", |places| &mut places.globals.gomaxprocs),
        ];
        for (name, global) in globals {
            for away in [8_i64, -8, 64, -4096, 1 << 20, 1 << 40] {
                let mut wrong = Places::clone(&places);
                let place = global(&mut wrong);
                *place = place.wrapping_add_signed(away);
                let what = format!("Go {}, {name} {away} bytes away", toolchain.version);
                is_refused_or_right(&mut target, &program, &Arc::new(wrong), &what);
            }
        }
        target.end();
    }
}

#[test]
fn damaged_files_are_refused_or_understood() {
    for toolchain in Toolchain::representative() {
        let Some((mut target, program, _)) = running(&toolchain, Build::Stripped) else { return };
        let file = std::fs::read(&program).expect("it can be read");
        let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
        for part in 0..12 {
            let length = file.len() * part / 12;
            damaged.push((format!("cut to {length} bytes"), file[..length].to_vec()));
        }
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).expect("it is below")
        };
        for number in 0..12 {
            // The head, and everything.
            let reach = if number % 2 == 0 { 4096 } else { file.len() };
            let mut bytes = file.clone();
            for _ in 0..200 {
                let at = next(reach);
                bytes[at] = u8::try_from(next(256)).expect("a byte");
            }
            damaged.push((format!("damage {number}"), bytes));
        }
        damaged.push(("nothing but zeroes".to_owned(), vec![0; file.len()]));
        for (what, bytes) in damaged {
            let began = Instant::now();
            let image = go::analyse(&bytes);
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
            if let Ok(Some(image)) = image
                && let Ok(places) = image.runtime
            {
                is_refused_or_right(&mut target, &program, &Arc::new(places), &what);
            }
        }
        target.end();
    }
}

#[test]
fn a_program_of_another_language_is_none_of_gos() {
    for name in ["/bin/true", "/bin/bash", env!("CARGO_BIN_EXE_profiler")] {
        let Ok(file) = std::fs::read(name) else { continue };
        assert_eq!(go::analyse(&file), Ok(None), "{name}");
    }
    assert!(go::analyse(b"").is_err());
    if !can_observe() {
        return;
    }
    let ended = run_within(
        &mut profiler(["memstats", "--json", &std::process::id().to_string()]),
        Duration::from_secs(30),
    );
    assert!(!ended.status.success());
    assert!(ended.complaints().iter().any(|line| line.contains("Go")), "{:?}", ended.complaints());
}

#[test]
fn a_program_without_a_profile_says_so() {
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some((target, program, _)) = running(&toolchain, Build::NoProfile) else { return };
    let outside = common::go::outside::Outside::of(target.pid(), &program).expect("it is understood");
    let refused = outside.heap().expect_err("there is no profile");
    assert!(refused.contains("linker") && refused.contains("profil"), "{refused}");
    target.end();
}

#[test]
fn memory_that_never_comes_holds_up_nobody() {
    let Some(toolchain) = Toolchain::newest() else { return };
    let Some((mut target, program, places)) = running(&toolchain, Build::Default) else { return };
    let exe = std::fs::metadata(&program).expect("it is there");
    assert!(exe.st_size() > 0);
    // A page in the middle of the figures, and nothing else on it.
    let page = places.globals.memstats.div_ceil(4096) * 4096;
    let watching = Watching::process(target.pid());
    let known = || watching.get("/metrics").text().contains("profiler_go_goroutines{");
    assert!(within(Duration::from_secs(30), known), "it is known as Go's");
    target.ask(&format!("hang {page}"));
    // Both end: one that begins now, and one that is at it.
    let began = Instant::now();
    let ended =
        run_within(&mut profiler(["memstats", "--json", &target.pid().to_string()]), Duration::from_secs(90));
    assert!(!ended.status.success(), "{:?}", String::from_utf8_lossy(&ended.stdout));
    println!("gave up after {:?}: {:?}", began.elapsed(), ended.complaints());
    for _ in 0..3 {
        let answer = watching.get("/metrics");
        assert!(answer.took < Duration::from_secs(5), "a scrape took {:?}", answer.took);
        std::thread::sleep(Duration::from_millis(500));
    }
    let stale = || !watching.get("/metrics").text().contains("profiler_go_memstats_alloc_bytes{");
    assert!(within(Duration::from_secs(60), stale), "what can't be read any more isn't shown");
    let finished = watching.finish();
    assert!(finished.status.success(), "{:?}", finished.complaints);
    // It can't answer; dropping it kills it.
    drop(target);
}
