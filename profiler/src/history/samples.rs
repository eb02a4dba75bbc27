//! Pictures made up for tests.

use std::{
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

/// 2026-11-22T14:00:00Z and so many seconds.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_356_000 + seconds)
}

/// An estimate that is right to a tenth.
pub(crate) fn about(value: f64) -> Estimate {
    Estimate { value, low: value * 0.9, high: value * 1.1 }
}

/// A stack of functions, innermost first.
pub(crate) fn stack(build: &str, offset: u64, names: &[&str]) -> Arc<Stack> {
    let frames = names.iter().zip(offset..).map(|(name, offset)| Frame {
        place: Place { build: build.into(), offset },
        object: "/usr/bin/server".into(),
        functions: vec![Function {
            name: (*name).into(),
            file: Some(format!("src/{name}.c").into()),
            line: 214,
        }],
    });
    Arc::new(Stack { frames: frames.collect(), end: End::Complete })
}

/// A site.
pub(crate) fn site(id: &str, stack: Arc<Stack>, verdict: Verdict, live: f64) -> SiteReport {
    let rate = matches!(verdict, Verdict::Leaking | Verdict::Growing).then(|| about(live / 600.0));
    SiteReport {
        id: id.into(),
        stack,
        source: Source::Allocator,
        live_bytes: about(live),
        live_objects: about(live / 64.0),
        allocated_bytes: about(live * 8.0),
        allocated_objects: about(live / 8.0),
        allocation_rate: live / 75.0,
        free_rate: live / 80.0,
        ages: Ages { median: Duration::from_secs(250), oldest: Duration::from_secs(590) },
        survival: vec![(Duration::from_secs(1), 0.5), (Duration::from_secs(10), 0.125)],
        samples: (240, 30),
        unreferenced: Some((30, 12)),
        judgement: Judgement {
            verdict,
            rate,
            confidence: 0.999,
            since: rate.map(|_| at(192)),
            reason: format!("made up: {live:.0} bytes live here"),
        },
        history: vec![Point { at: at(0), live_bytes: 0.0 }, Point { at: at(600), live_bytes: live }],
    }
}

/// A target with these sites.
pub(crate) fn target(name: &str, sites: Vec<SiteReport>) -> TargetReport {
    let live: f64 = sites.iter().map(|site| site.live_bytes.value).sum();
    let first = sites.first().map(|site| site.judgement.clone()).unwrap_or_default();
    TargetReport {
        target: name.into(),
        pids: vec![1234],
        source: Ok(Source::Allocator),
        sample_bytes: 512 << 10,
        since: at(0),
        watched: Duration::from_secs(600),
        before: Before { anon_bytes: 30 << 20, allocator_bytes: None },
        anon_bytes: 40 << 20,
        live_bytes: about(live),
        explained: Some(Estimate { value: 0.97, low: 0.91, high: 1.03 }),
        judgement: first,
        sites,
        other: (0, Estimate::default()),
        samples: (0, 0),
        losses: vec![("ring_full".to_owned(), 0), ("live_full".to_owned(), 0)],
        ended: None,
        history: vec![Point { at: at(0), live_bytes: 0.0 }, Point { at: at(600), live_bytes: live }],
        anon_history: vec![
            AnonPoint { at: at(0), anon_bytes: 30 << 20 },
            AnonPoint { at: at(600), anon_bytes: 40 << 20 },
        ],
    }
}

/// A server that leaks, with a cache that grows, ten minutes watched.
pub(crate) fn leaking_server(seconds: u64) -> Picture {
    let sites = vec![
        site(
            "a1b2c3d4e5f6",
            stack("aa", 0x100, &["parse_header", "handle", "main"]),
            Verdict::Leaking,
            6_266_880.0,
        ),
        site(
            "0123456789ab",
            stack("aa", 0x200, &["cache_put", "handle", "main"]),
            Verdict::Growing,
            2_097_152.0,
        ),
        site("ba9876543210", stack("aa", 0x300, &["read_config", "main"]), Verdict::Steady, 1_048_576.0),
    ];
    Picture { taken_at: at(seconds), targets: vec![target("server", sites)] }
}
