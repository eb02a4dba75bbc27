//! Pictures of leaks for the tests of everything that shows them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    leaks::{
        Ages, AnonPoint, Before, Estimate, Judgement, Picture, Point, SiteReport, Source, TargetReport,
        Verdict,
    },
    stack::{End, Frame, Function, Place, Stack},
};

/// When the realistic picture was taken: 2026-01-02 03:04:05 UTC.
pub const TAKEN_AT: u64 = 1_767_323_045;

/// The program, a library without symbols, the C library.
const SHOP: (&str, &str) = ("/usr/bin/shop", "5ca1ab1e00000000000000000000000000000001");
const PLUGIN: (&str, &str) = ("/opt/shop/plugin.so", "/opt/shop/plugin.so:81920");
const LIBC: (&str, &str) =
    ("/usr/lib/x86_64-linux-gnu/libc.so.6", "93ac6d7b00000000000000000000000000000002");
const STDCXX: (&str, &str) = ("/usr/lib/libstdc++.so.6.0.30", "c0de000000000000000000000000000000000003");

/// A moment of the picture's clock.
pub fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An estimate with an interval of an eighth to either side: exact in any format.
pub fn about(value: f64) -> Estimate {
    Estimate { value, low: value * 0.875, high: value * 1.125 }
}

fn frame((object, build): (&str, &str), offset: u64, names: &[(&str, &str, u32)]) -> Frame {
    let functions = names.iter().map(|(name, file, line)| Function {
        name: (*name).into(),
        file: (!file.is_empty()).then(|| (*file).into()),
        line: *line,
    });
    Frame {
        place: Place { build: build.into(), offset },
        object: object.into(),
        functions: functions.collect(),
    }
}

fn bottom() -> Vec<Frame> {
    vec![
        frame(SHOP, 0x2100, &[("server::run", "src/server.cc", 210)]),
        frame(SHOP, 0x1100, &[("main", "src/main.cc", 12)]),
        frame(SHOP, 0x1050, &[("_start", "", 0)]),
    ]
}

/// A site of that stack (innermost first), with 64 points of history that end at its live bytes.
pub fn site(id: &str, frames: Vec<Frame>, end: End, live: f64, judgement: Judgement) -> SiteReport {
    let grows = judgement.rate.is_some_and(|rate| rate.low > 0.0);
    let point = |i: u64| Point {
        at: at(TAKEN_AT - (63 - i) * 60),
        live_bytes: if grows {
            live * (i + 1) as f64 / 64.0
        } else {
            (live * (1.0 + 0.1 * ((i % 7) as f64 - 3.0) / 3.0)).round()
        },
    };
    SiteReport {
        id: id.into(),
        stack: Arc::new(Stack { frames, end }),
        source: Source::Allocator,
        live_bytes: about(live),
        live_objects: about(live / 64.0),
        allocated_bytes: about(live * 3.0),
        allocated_objects: about(live * 3.0 / 64.0),
        allocation_rate: live / 100.0,
        free_rate: live / 200.0,
        ages: Ages { median: Duration::from_secs(1800), oldest: Duration::from_secs(3780) },
        survival: vec![
            (Duration::from_secs(1), 0.9),
            (Duration::from_secs(10), 0.5),
            (Duration::from_secs(100), 0.25),
        ],
        samples: (300, 100),
        unreferenced: None,
        judgement,
        history: (0..64).map(point).collect(),
    }
}

fn judged(verdict: Verdict, rate: Option<f64>, reason: &str) -> Judgement {
    Judgement {
        verdict,
        rate: rate.map(about),
        confidence: if verdict == Verdict::Leaking { 0.9995 } else { 0.8 },
        since: matches!(verdict, Verdict::Leaking | Verdict::Growing).then(|| at(TAKEN_AT - 3780)),
        reason: reason.to_owned(),
    }
}

/// Two targets: one with every verdict, inlined functions, a stack that is lost, names that are hostile to every format;
/// and one about which nothing can be said.
pub fn realistic() -> Picture {
    let mut inlined = vec![
        frame(STDCXX, 0xa0b0, &[("operator new(unsigned long)", "", 0)]),
        frame(
            SHOP,
            0x3210,
            &[
                ("std::map<std::string; int>::insert", "/usr/include/c++/12/bits/stl_map.h", 612),
                ("cache::Store::remember", "src/cache.cc", 44),
            ],
        ),
    ];
    inlined.extend(bottom());
    let mut parse = vec![
        frame(LIBC, 0x9d7f0, &[("strdup", "", 0)]),
        frame(SHOP, 0x4040, &[("parse_header", "src/http.cc", 91)]),
    ];
    parse.extend(bottom());
    let mut pool = vec![frame(SHOP, 0x5050, &[("Pool<Connection>::take", "src/pool.cc", 7)])];
    pool.extend(bottom());
    let mut hostile = vec![frame(
        SHOP,
        0x6060,
        &[("<script>alert(\"1\")</script>\n;&'\u{0}\u{7}\u{202e}]]>", "a\nb<c>&\"", 3)],
    )];
    hostile.extend(bottom());
    let lost = vec![frame(PLUGIN, 0x4d20, &[]), frame(PLUGIN, 0x9f10, &[])];
    let mut leaking = site(
        "3f0a9c51e27b",
        inlined,
        End::Complete,
        3_686_400.0,
        judged(Verdict::Leaking, Some(10_240.0), "38 of 41 old blocks are pointed to by nothing any more"),
    );
    leaking.unreferenced = Some((41, 38));
    let growing = judged(Verdict::Growing, Some(512.0), "it has grown for 1 h 03 min without slowing down");
    let mut sites = vec![
        leaking,
        site("b1946ac92492", parse, End::Complete, 1_843_200.0, growing),
        site(
            "591785b794601",
            pool,
            End::Complete,
            8_388_608.0,
            judged(Verdict::Steady, Some(-3.0), "it goes up and down and doesn't grow"),
        ),
        site(
            "d3b07384d113",
            hostile,
            End::Complete,
            65_536.0,
            judged(Verdict::Unjudged, None, "only 3 <samples> & none is old"),
        ),
        site("edec5b2c1f0e", lost, End::Lost, 262_144.0, judged(Verdict::Unjudged, None, "only 9 samples")),
    ];
    sites[2].id = "591785b79460".into();
    let losses = [("samples_full", 0), ("ring_full", 12)].map(|(reason, count)| (reason.to_owned(), count));
    let shop = TargetReport {
        target: "shop".into(),
        pids: vec![4711],
        source: Ok(Source::Allocator),
        sample_bytes: 524_288,
        since: at(TAKEN_AT - 3780),
        watched: Duration::from_secs(3780),
        before: Before { anon_bytes: 52_428_800, allocator_bytes: Some(41_943_040) },
        anon_bytes: 68_157_440,
        live_bytes: about(14_377_984.0),
        explained: Some(Estimate { value: 0.91, low: 0.84, high: 0.99 }),
        judgement: judged(Verdict::Leaking, Some(10_240.0), "one site leaks: cache::Store::remember"),
        sites,
        other: (4, about(132_096.0)),
        samples: (1504, 500),
        losses: losses.to_vec(),
        ended: None,
        history: (0..64)
            .map(|i| Point {
                at: at(TAKEN_AT - (63 - i) * 60),
                live_bytes: 14_377_984.0 * (i + 1) as f64 / 64.0,
            })
            .collect(),
        anon_history: (0..64)
            .map(|i| AnonPoint { at: at(TAKEN_AT - (63 - i) * 60), anon_bytes: 52_428_800 + i * 245_760 })
            .collect(),
    };
    let quiet = TargetReport {
        target: "a \"b\"/<c>".into(),
        pids: vec![1, 2],
        source: Err("its allocator isn't known".to_owned()),
        sample_bytes: 524_288,
        since: at(TAKEN_AT - 60),
        watched: Duration::from_secs(60),
        before: Before { anon_bytes: 4096, allocator_bytes: None },
        anon_bytes: 4096,
        live_bytes: Estimate { value: 0.0, low: 0.0, high: f64::INFINITY },
        explained: None,
        judgement: judged(Verdict::Unjudged, None, "there are no samples: its allocator isn't known"),
        sites: Vec::new(),
        other: (0, Estimate::default()),
        samples: (0, 0),
        losses: Vec::new(),
        ended: Some("killed for memory".to_owned()),
        history: Vec::new(),
        anon_history: Vec::new(),
    };
    Picture { taken_at: at(TAKEN_AT), targets: vec![shop, quiet] }
}

/// The realistic picture `seconds` later: the leak has gone on, the pool has shrunk, one site is gone and one is new.
pub fn later(seconds: u64) -> Picture {
    let mut picture = realistic();
    picture.taken_at = at(TAKEN_AT + seconds);
    let sites = &mut picture.targets[0].sites;
    let leaked = 10_240.0 * seconds as f64;
    sites[0].live_bytes = about(3_686_400.0 + leaked);
    sites[0].live_objects = about((3_686_400.0 + leaked) / 64.0);
    sites[0].allocated_bytes = about(11_059_200.0 + leaked);
    sites[0].allocated_objects = about((11_059_200.0 + leaked) / 64.0);
    sites[2].live_bytes = about(4_194_304.0);
    sites[2].live_objects = about(65_536.0);
    sites.truncate(4);
    let fresh = vec![
        frame(SHOP, 0x7070, &[("fresh", "src/fresh.cc", 1)]),
        frame(SHOP, 0x1100, &[("main", "src/main.cc", 12)]),
    ];
    sites.push(site("0123456789ab", fresh, End::Complete, 1024.0, judged(Verdict::Unjudged, None, "new")));
    picture
}

/// A target with so many sites, each with so many frames of two functions with long names: the worst that may come.
pub fn huge(sites: usize, frames: usize) -> TargetReport {
    let mut target = realistic().targets.remove(0);
    let mut known: HashMap<(usize, usize, usize), Function> = HashMap::new();
    let mut name = |site: usize, depth: usize, part: usize| {
        // The outer frames are shared by many, the inner ones by none, as it is in life.
        let group = if depth >= 4 { site % 50 } else { site };
        let fresh = || Function {
            name: format!("n{group}_{depth}_{part}_{}", "<&>".repeat(20)).into(),
            file: None,
            line: 0,
        };
        known.entry((group, depth, part)).or_insert_with(fresh).clone()
    };
    let mut one = |number: usize| {
        let frame = |depth: usize| Frame {
            place: Place { build: SHOP.1.into(), offset: (number * frames + depth) as u64 },
            object: SHOP.0.into(),
            functions: vec![name(number, depth, 0), name(number, depth, 1)],
        };
        let stack: Vec<_> = (0..frames).map(frame).collect();
        let mut site = site(&format!("{number:012x}"), stack, End::Complete, 1000.0, Judgement::default());
        site.history.clear();
        site
    };
    target.sites = (0..sites).map(&mut one).collect();
    target
}
