//! Against a naive model: a list of blocks, summed up anew for every question.

use super::*;

/// What can be told.
#[derive(Clone, Copy, Debug)]
enum Told {
    Allocated { site: u32, bytes: u64, threshold: u64, pid: u32, late_ns: u64 },
    Freed { which: usize, gone: bool },
    Ended { pid: u32 },
    Time { ns: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Model {
    sample: NewSample,
    /// When, in the order of telling.
    told_ns: u64,
    freed_ns: Option<u64>,
    ended_ns: Option<u64>,
}

fn told() -> impl Strategy<Value = Told> {
    let threshold = prop_oneof![Just(CERTAIN), 1_u64..CERTAIN, 1_u64..100_000];
    prop_oneof![
        8 => (0_u32..12, 1_u64..5_000_000, threshold, 1_u32..4, 0_u64..5_000_000).prop_map(
            |(site, bytes, threshold, pid, late_ns)| Told::Allocated { site, bytes, threshold, pid, late_ns }
        ),
        6 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, gone)| Told::Freed { which: which.index(1 << 20), gone }),
        1 => (1_u32..4).prop_map(|pid| Told::Ended { pid }),
        4 => prop_oneof![0..3 * SECOND, 0..200 * SECOND].prop_map(|ns| Told::Time { ns }),
    ]
}

fn near(one: f64, other: f64, scale: f64) -> bool {
    (one - other).abs() <= 1e-9 * scale.max(1.0)
}

fn sum<'a>(models: impl Iterator<Item = &'a Model>) -> Sum {
    let mut sum = Sum::default();
    for model in models {
        sum.add(&Sum::of(weight(model.sample.threshold), model.sample.bytes));
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_books_say_what_a_list_of_all_blocks_says(
        script in prop::collection::vec(told(), 1..300),
        windows in prop_oneof![Just(30_usize), Just(200_000)],
        sites in prop_oneof![Just(5_usize), Just(50)],
        in_order in any::<bool>(),
    ) {
        let limits = Limits { sites, windows, buckets: 40, idle_ns: 50 * SECOND, ..Limits::default() };
        let mut ledger = ledger(limits);
        let mut models: Vec<Model> = Vec::new();
        let mut now_ns = 0;
        let mut places: HashMap<u64, Placed> = HashMap::new();
        let mut forgotten = std::collections::HashSet::new();
        let mut traffic = 0.0;
        for told in script {
            match told {
                Told::Time { ns } => now_ns += ns,
                Told::Allocated { site, bytes, threshold, pid, late_ns } => {
                    let id = models.len() as u64;
                    let at_ns = if in_order { now_ns } else { now_ns.saturating_sub(late_ns) };
                    let new = NewSample { pid, ..sample(id, site, bytes, threshold, at_ns) };
                    let ended = models.iter().any(|model| {
                        model.sample.pid == pid && model.ended_ns.is_some_and(|ended_ns| ended_ns >= SINCE + at_ns)
                    });
                    // A process that ended in the same instant with nothing alive isn't in this model.
                    if ended || ledger.ended.iter().any(|(ended, _, ns)| *ended == pid && *ns >= SINCE + at_ns) {
                        continue;
                    }
                    traffic += weight(threshold) * bytes as f64;
                    let placed = ledger.allocated(new);
                    if let Placed::Site(Some(old)) = placed {
                        forgotten.insert(old.0);
                    }
                    places.insert(id, placed);
                    models.push(Model { sample: new, told_ns: now_ns, freed_ns: None, ended_ns: None });
                }
                Told::Freed { which, gone } => {
                    let count = models.len().max(1);
                    let Some(model) = models.get_mut(which % count) else { continue };
                    if model.freed_ns.is_none() && model.ended_ns.is_none() {
                        model.freed_ns = Some(now_ns);
                        if gone {
                            ledger.gone(model.sample.id, SINCE + now_ns);
                        } else {
                            ledger.freed(model.sample.id, SINCE + now_ns);
                        }
                    }
                }
                Told::Ended { pid } => {
                    for model in models.iter_mut().filter(|model| model.sample.pid == pid) {
                        if model.freed_ns.is_none() && model.ended_ns.is_none() {
                            model.ended_ns = Some(SINCE + now_ns);
                        }
                    }
                    ledger.process_ended(pid, None, SINCE + now_ns);
                }
            }
        }
        let lives = |model: &&Model| model.freed_ns.is_none() && model.ended_ns.is_none();
        // All together.
        let live = sum(models.iter().filter(lives));
        prop_assert_eq!(ledger.all.live.n, live.n);
        prop_assert!(near(ledger.live_bytes().value, live.bytes, traffic));
        let allocated = sum(models.iter());
        let figures = ledger.figures_of_all(SINCE + now_ns);
        prop_assert_eq!(figures.samples, (allocated.n, live.n));
        prop_assert!(near(figures.allocated_bytes.value, allocated.bytes, traffic));
        // The parts make the whole.
        let mut parts = Sum::default();
        let mut parts_allocated = Sum::default();
        for site in &ledger.sites {
            parts.add(&site.live);
            parts_allocated.add(&site.allocated);
        }
        prop_assert_eq!(parts.n, live.n);
        prop_assert!(near(parts.bytes, live.bytes, traffic));
        prop_assert_eq!(parts_allocated.n, allocated.n);
        prop_assert!(near(parts_allocated.bytes, allocated.bytes, traffic));
        prop_assert_eq!(ledger.windows, ledger.sites.iter().map(|site| site.cells().0).sum::<usize>());
        prop_assert_eq!(ledger.buckets, ledger.sites.iter().map(|site| site.cells().1).sum::<usize>());
        prop_assert!(ledger.windows <= windows);
        // Every site that never lost its place, nor was ever without one.
        let all_sites: Vec<SiteIndex> = ledger.sites().map(|(site, _)| site).collect();
        for site in all_sites {
            let mine: Vec<&Model> = models.iter().filter(|model| model.sample.site == site).collect();
            let apart = mine.iter().any(|model| places.get(&model.sample.id) == Some(&Placed::Other));
            if apart || forgotten.contains(&site.0) {
                continue;
            }
            let evidence = ledger.evidence(site, SINCE + now_ns).unwrap();
            let live = sum(mine.iter().copied().filter(lives));
            prop_assert_eq!(evidence.live.len() as u64, live.n);
            let freed: u64 = evidence.lifetimes.freed.iter().map(|sum| sum.n).sum();
            prop_assert_eq!(freed, mine.iter().filter(|model| model.freed_ns.is_some()).count() as u64);
            let surviving: u64 = evidence.windows.iter().map(|window| window.surviving.n).sum();
            prop_assert_eq!(surviving, live.n);
            for window in &evidence.windows {
                prop_assert!(window.surviving.n <= window.allocated.n);
                prop_assert!(window.floor.bytes <= window.live_at_end.bytes * (1.0 + 1e-6));
                check(&mine, window, evidence.windows.last() == Some(window), traffic)?;
            }
        }
    }
}

/// A window against the model, by the order of telling.
fn check(mine: &[&Model], window: &Window, is_last: bool, traffic: f64) -> Result<(), TestCaseError> {
    let inside = |ns: u64| SINCE + ns >= window.begin_ns && (is_last || SINCE + ns < window.end_ns);
    let end_of = |model: &Model| model.freed_ns.or(model.ended_ns.map(|ns| ns - SINCE));
    // Told late: booked where its own time lies if that window is still open, so both are right.
    let sure = |model: &&&Model| inside(model.told_ns) && inside(model.sample.at_ns - SINCE);
    let maybe = |model: &&&Model| inside(model.told_ns) || inside(model.sample.at_ns - SINCE);
    prop_assert!(window.allocated.n >= mine.iter().filter(sure).count() as u64);
    prop_assert!(window.allocated.n <= mine.iter().filter(maybe).count() as u64);
    let freed = mine.iter().filter(|model| model.freed_ns.is_some_and(inside)).count() as u64;
    prop_assert_eq!(window.freed.n, freed);
    let lives_at = |ns: u64| {
        sum(mine
            .iter()
            .copied()
            .filter(|model| model.told_ns <= ns && end_of(model).is_none_or(|end_ns| end_ns > ns)))
    };
    if mine.iter().all(|model| model.told_ns == model.sample.at_ns - SINCE) {
        let end_ns = if is_last { u64::MAX - 1 } else { window.end_ns - SINCE - 1 };
        let there = lives_at(end_ns);
        prop_assert_eq!(window.live_at_end.n, there.n);
        prop_assert!((window.live_at_end.bytes - there.bytes).abs() <= 1e-6 * (there.bytes + traffic * 1e-6));
        // The least after every event inside, and at the beginning. Events of one instant have no order here: not below.
        let begin_ns = window.begin_ns - SINCE;
        let mut floor = if begin_ns == 0 { 0.0 } else { lives_at(begin_ns - 1).bytes };
        for model in mine {
            for ns in [Some(model.told_ns), end_of(model)].into_iter().flatten().filter(|ns| inside(*ns)) {
                floor = floor.min(lives_at(ns).bytes);
            }
        }
        prop_assert!(window.floor.bytes <= floor * (1.0 + 1e-6) + traffic * 1e-9);
        let instants: std::collections::HashSet<u64> =
            mine.iter().flat_map(|model| [Some(model.told_ns), end_of(model)]).flatten().collect();
        let events = mine.iter().map(|model| 1 + usize::from(end_of(model).is_some())).sum::<usize>();
        if instants.len() == events {
            prop_assert!(window.floor.bytes >= floor * (1.0 - 1e-6) - traffic * 1e-9);
        }
    }
    Ok(())
}
