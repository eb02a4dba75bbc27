//! Values of labels that can have few of them only: so that a query can be checked before it returns nothing.
//!
//! They come from where the code that counts has them. Of all other labels (targets, sites, reasons in words) any value is
//! possible.

use std::collections::BTreeMap;

use profiler_common::{
    alloc::AllocFunction,
    mapping::MappingKind,
    outcome::Outcome,
    sched::{STALL_BOUNDS, ThreadState, stall_bound_ns},
    stops::{STOP_BOUNDS, StopReason, stop_bound_ns},
};

use super::{self as c, Family, Kind};
use crate::{
    export::{causes, families, line_protocol::Reason},
    hunt,
    leaks::Verdict,
    push::figures::{Dropped, Requests},
    session,
    snapshot::AllocState,
    worker,
};

/// The label of a histogram's bounds, which isn't among the family's own.
const BOUND: &str = "le";
/// The same of a summary's shares.
const QUANTILE: &str = "quantile";

/// Labels of a family, and all values of each: those labels only that have few.
pub(super) fn of_family(family: &Family) -> BTreeMap<&'static str, Vec<String>> {
    let labels = family.labels.iter().copied();
    let mut all: BTreeMap<_, _> =
        labels.filter_map(|label| Some((label, of_label(family, label)?))).collect();
    if family.kind == Kind::Histogram {
        all.insert(BOUND, bounds(family).into_iter().chain(["+Inf".to_owned()]).collect());
    }
    if family.kind == Kind::Summary {
        all.insert(QUANTILE, quantiles());
    }
    all
}

/// All values of a label; none if there may be any.
pub(super) fn of_label(family: &Family, label: &str) -> Option<Vec<String>> {
    let is = |families: &[&Family]| families.iter().any(|one| one.name == family.name);
    let functions = |wanted: fn(AllocFunction) -> bool| {
        texts(AllocFunction::ALL.into_iter().filter(|function| wanted(*function)).map(AllocFunction::name))
    };
    let all = match label {
        "verdict" => verdicts(),
        "state" if is(&[&c::THREAD_SECONDS]) => texts(ThreadState::ALL.map(ThreadState::name)),
        "state" if is(&[&c::TARGET_ALLOC_INFO]) => {
            let all = [
                AllocState::Off,
                AllocState::Counting,
                AllocState::Partly(String::new()),
                AllocState::NotCounting(String::new()),
            ];
            texts(all.iter().map(|state| state.tell().0))
        }
        "cause" if is(&[&c::STALLS, &c::STALL_SECONDS]) => texts(causes::names()),
        "cause" if is(&[&c::WORKER_DEATHS]) => named(&worker::Figures::default().deaths()),
        "kind" if is(&[&c::MAPPING_CALLS, &c::MAPPING_BYTES, &c::MAPPING_FAILED]) => {
            texts(MappingKind::ALL.map(MappingKind::name))
        }
        "kind" if is(&[&c::PROCESS_FAULTS]) => texts(families::FAULTS),
        "kind" if is(&[&c::PROCESS_SWITCHES]) => texts(families::SWITCHES),
        "outcome" => named(&Requests::default().named()),
        "reason" if is(&[&c::GO_UNAVAILABLE]) => texts(c::GO_REASONS),
        "reason" if is(&[&c::TARGET_DESCRIPTION_UNAVAILABLE]) => texts(c::DESCRIPTION_REASONS),
        "reason" if is(&[&c::GO_STOPS, &c::GO_STOP_SECONDS]) => texts(StopReason::ALL.map(StopReason::name)),
        "reason" if is(&[&c::INFLUX_DROPPED]) => named(&Dropped::default().named()),
        "reason" if is(&[&c::INFLUX_LEFT_OUT]) => texts(Reason::ALL.map(Reason::name)),
        "reason" if is(&[&c::EVENTS_LOST]) => {
            texts(Outcome::ALL.map(Outcome::reason).into_iter().chain(session::LOST_HERE))
        }
        "reason" if is(&[&c::NOT_OBSERVED]) => texts(session::NOT_OBSERVED),
        "reason" if is(&[&c::SAMPLES_LOST]) => texts(hunt::LOSSES),
        "what" if is(&[&c::GO_UNAVAILABLE]) => texts(c::UNAVAILABLE),
        "what" if is(&[&c::TARGET_DESCRIPTION_UNAVAILABLE]) => texts(c::UNDESCRIBED),
        "exact" => texts(["true", "false"]),
        "kind" if is(&[&c::TARGET_PART_INFO]) => texts(c::PARTS),
        "function" if is(&[&c::ALLOCATIONS, &c::REFUSED, &c::PYTHON_ALLOCATIONS]) => {
            functions(AllocFunction::allocates)
        }
        "function" if is(&[&c::FREES, &c::PYTHON_FREES]) => functions(AllocFunction::frees),
        "function" if is(&[&c::PROBE_HITS, &c::PROBE_SITE_INFO]) => functions(|_| true),
        _ => return None,
    };
    Some(all)
}

/// What can be said of a target's or a site's memory.
pub(super) fn verdicts() -> Vec<String> {
    texts(Verdict::ALL.map(Verdict::name))
}

/// Upper bounds of a histogram, as they are written everywhere.
pub(super) fn bounds(family: &Family) -> Vec<String> {
    let seconds = |bound_ns: u64| (bound_ns as f64 / 1e9).to_string();
    if family.name == c::GO_STOP_SECONDS.name {
        (0..STOP_BOUNDS).map(stop_bound_ns).map(seconds).collect()
    } else {
        (0..STALL_BOUNDS).map(stall_bound_ns).map(seconds).collect()
    }
}

/// Shares of summaries, as they are written in the text format and in fields.
pub(super) fn quantiles() -> Vec<String> {
    c::QUANTILES.map(|share| share.to_string()).to_vec()
}

fn texts<'a>(all: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    all.into_iter().map(str::to_owned).collect()
}

fn named(all: &[(&'static str, u64)]) -> Vec<String> {
    texts(all.iter().map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{
            catalogue::measurements,
            families::{Families, Value},
            points::{self, Common},
        },
        push::figures::PushFigures,
        snapshot::Snapshot,
        test_support::{
            moment::{self, CONTEXT, snapshot, target},
            picture,
        },
    };

    /// As much as a moment can have.
    fn filled() -> Families {
        let mut shop = target("shop");
        shop.mappings = Some(Default::default());
        shop.go = Some(moment::go());
        shop.programs = vec![moment::go_program().into(), moment::rust_program().into()];
        let mut leaks = picture::realistic();
        for target in &mut leaks.targets {
            target.losses = vec![("cut_stacks".to_owned(), 1)];
        }
        Families::of(
            &Snapshot {
                leaks: Some(leaks.into()),
                worker: Some(worker::Figures::default()),
                push: Some(PushFigures { left_out: vec![("cut", 0)], ..PushFigures::default() }),
                ..snapshot(vec![shop])
            },
            CONTEXT,
        )
    }

    #[test]
    fn every_value_that_is_exported_is_listed() {
        let mut compared = 0;
        for filled in filled().iter() {
            for (label, known) in of_family(filled.family) {
                let Some(at) = filled.family.labels.iter().position(|one| *one == label) else { continue };
                for row in &filled.rows {
                    assert!(known.contains(&row.labels[at]), "{} {label}: {row:?}", filled.family.name);
                    compared += 1;
                }
            }
        }
        assert!(compared > 60, "{compared} values are too few to tell");
    }

    #[test]
    fn every_field_with_a_part_in_braces_has_its_values_and_points_have_no_others() {
        let known = measurements();
        for (name, one) in &known {
            for pattern in one.fields.keys().filter(|field| field.contains('{')) {
                assert!(one.values.contains_key(pattern), "{name}: {pattern}");
            }
        }
        let (families, common) = (filled(), Common::default());
        for point in points::points(&families, 7, &common) {
            let one = &known[&*point.measurement];
            for (field, _) in &point.fields {
                let of_pattern = one.values.iter().any(|(pattern, values)| {
                    let part = pattern.find('{').zip(pattern.find('}'));
                    part.is_some_and(|(from, to)| {
                        values.iter().any(|value| *field == pattern.replace(&pattern[from..=to], value))
                    })
                });
                assert!(one.fields.contains_key(&**field) || of_pattern, "{}: {field}", point.measurement);
            }
        }
    }

    #[test]
    fn bounds_are_those_of_the_histogram_and_its_last_one_is_no_field() {
        let bounds = of_family(&c::STALL_SECONDS).remove(BOUND).unwrap_or_default();
        let families = filled();
        let filled = families.iter().find(|filled| filled.family.name == c::STALL_SECONDS.name);
        let Some(Value::Histogram(histogram)) = filled.map(|filled| &filled.rows[0].value) else {
            panic!("no stalls")
        };
        let written: Vec<_> = histogram.buckets.iter().map(|(bound, _)| bound.to_string()).collect();
        assert_eq!(bounds[..written.len()], written);
        assert_eq!(bounds[written.len()..], ["+Inf"]);
        let fields = &measurements()["profiler_stall"].values["le_{bound}"];
        assert_eq!(fields, &written);
    }
}
