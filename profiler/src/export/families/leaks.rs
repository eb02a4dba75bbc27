//! The families of leaks: the sites of most concern by name, the rest together.

use super::Families;
use crate::{
    export::{catalogue as c, html::shortened, weigh},
    leaks::{SiteReport, TargetReport, Verdict},
    snapshot::Snapshot,
};

/// Longest value of a label that holds a name, characters.
const NAME_LIMIT: usize = 100;

/// What the snapshot knows of a target's leaks, if anybody looks for them.
pub(super) fn target(out: &mut Families, snapshot: &Snapshot, name: &str, top_sites: usize) {
    let Some(picture) = &snapshot.leaks else { return };
    let Some(report) = picture.targets.iter().find(|report| *report.target == *name) else { return };
    whole(out, report);
    sites(out, report, top_sites);
}

/// The process that reads what targets have made.
pub(super) fn worker(out: &mut Families, snapshot: &Snapshot) {
    let Some(figures) = &snapshot.worker else { return };
    out.count(&c::WORKER_STARTS, &[], figures.started);
    for (cause, count) in figures.deaths() {
        out.count(&c::WORKER_DEATHS, &[cause], count);
    }
    out.count(&c::WORKER_FAILED, &[], figures.failed);
    out.count(&c::WORKER_QUARANTINED, &[], figures.quarantined);
}

/// The history on disk.
pub(super) fn history(out: &mut Families, snapshot: &Snapshot) {
    let Some(figures) = &snapshot.history else { return };
    out.count(&c::HISTORY_PICTURES, &[], figures.moments);
    out.count(&c::HISTORY_THINNED, &[], figures.thinned_moments);
    out.count(&c::HISTORY_DROPPED, &[], figures.dropped_sites);
    out.count(&c::HISTORY_FAILED, &[], figures.failed);
}

fn whole(out: &mut Families, report: &TargetReport) {
    let name = &*report.target;
    let judgement = &report.judgement;
    for verdict in Verdict::ALL {
        let is = verdict == judgement.verdict;
        out.flag(&c::LEAK_VERDICT, &[name, verdict.name()], is);
    }
    if let Some(rate) = judgement.rate {
        out.finite(&c::LEAK_RATE, &[name], rate.value);
        out.finite(&c::LEAK_RATE_LOW, &[name], rate.low);
        out.finite(&c::LEAK_RATE_HIGH, &[name], rate.high);
    }
    out.finite(&c::HEAP_LIVE, &[name], report.live_bytes.value);
    out.finite(&c::HEAP_LIVE_LOW, &[name], report.live_bytes.low);
    out.finite(&c::HEAP_LIVE_HIGH, &[name], report.live_bytes.high);
    if let Some(explained) = report.explained {
        out.finite(&c::HEAP_EXPLAINED, &[name], explained.value);
    }
    out.count(&c::HEAP_BEFORE, &[name], report.before.anon_bytes);
    out.count(&c::SAMPLES, &[name], report.samples.0);
    out.count(&c::SAMPLES_LIVE, &[name], report.samples.1);
    out.count(&c::SAMPLE_BYTES, &[name], report.sample_bytes);
    // That the map is full is a state; what is lost by it is counted among the events.
    for (reason, count) in report.losses.iter().filter(|(reason, _)| reason != "live_samples_full") {
        out.count(&c::SAMPLES_LOST, &[name, reason], *count);
    }
}

fn sites(out: &mut Families, report: &TargetReport, top_sites: usize) {
    let name = &*report.target;
    let (top, rest) = report.sites.split_at(report.sites.len().min(top_sites));
    for site in top {
        let labels = [name, &*site.id];
        out.finite(&c::SITE_LIVE, &labels, site.live_bytes.value);
        out.finite(&c::SITE_OBJECTS, &labels, site.live_objects.value);
        if let Some(rate) = site.judgement.rate {
            out.finite(&c::SITE_RATE, &labels, rate.value);
        }
        for verdict in Verdict::ALL {
            let is = verdict == site.judgement.verdict;
            out.flag(&c::SITE_VERDICT, &[name, &site.id, verdict.name()], is);
        }
        let (function, object) = weigh::culprit(&site.stack).unwrap_or_default();
        let (function, object) = (shortened(&function, NAME_LIMIT), shortened(object, NAME_LIMIT));
        out.flag(&c::SITE_INFO, &[name, &site.id, &function, &object], true);
    }
    // Not `sum`, which is -0 for nothing.
    let sum = |of: fn(&SiteReport) -> f64| {
        rest.iter().map(of).filter(|value| value.is_finite()).fold(0.0, |sum, value| sum + value)
    };
    let labels = [name, "other"];
    // Not only those that are listed: of a large program there are more.
    let shown: f64 = top.iter().map(|site| site.live_bytes.value).filter(|value| value.is_finite()).sum();
    out.finite(&c::SITE_LIVE, &labels, (report.live_bytes.value - shown).max(0.0));
    out.value(&c::SITE_OBJECTS, &labels, sum(|site| site.live_objects.value));
    out.value(&c::SITE_RATE, &labels, sum(|site| site.judgement.rate.map_or(0.0, |rate| rate.value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{families::TOP_SITES, prometheus},
        test_support::picture,
    };

    fn rendered(reports: &[TargetReport]) -> String {
        let mut out = Families::default();
        for report in reports {
            whole(&mut out, report);
            sites(&mut out, report, TOP_SITES);
        }
        prometheus::render(out).unwrap()
    }

    #[test]
    fn a_target_has_its_verdict_its_rate_and_its_top_sites() {
        let text = rendered(&picture::realistic().targets);
        for line in [
            "profiler_leak_verdict{target=\"shop\",verdict=\"leaking\"} 1",
            "profiler_leak_verdict{target=\"shop\",verdict=\"steady\"} 0",
            "profiler_leak_bytes_per_second{target=\"shop\"} 10240",
            "profiler_heap_explained_ratio{target=\"shop\"} 0.91",
            "profiler_samples_total{target=\"shop\"} 1504",
            "profiler_samples_live{target=\"shop\"} 500",
            "profiler_samples_lost_total{target=\"shop\",reason=\"samples_full\"} 0",
            "profiler_site_live_bytes{target=\"shop\",site=\"3f0a9c51e27b\"} 3686400",
            "profiler_site_live_bytes{target=\"shop\",site=\"other\"} 132096",
            "profiler_site_leak_verdict{target=\"shop\",site=\"b1946ac92492\",verdict=\"growing\"} 1",
            "profiler_site_info{target=\"shop\",site=\"3f0a9c51e27b\",function=\"cache::Store::remember\",object=\"/usr/bin/shop\"} 1",
            "profiler_leak_verdict{target=\"a \\\"b\\\"/<c>\",verdict=\"unjudged\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}\n{text}");
        }
        assert!(!text.contains("+Inf") && !text.contains("NaN"), "what isn't known isn't shown");
        assert!(!text.contains("profiler_leak_bytes_per_second{target=\"a"), "it is unjudged");
    }

    #[test]
    fn sites_beyond_the_top_are_one_series() {
        let text = rendered(&[picture::huge(25, 2)]);
        assert_eq!(text.matches("\nprofiler_site_live_bytes{").count(), TOP_SITES + 1);
        let other = "profiler_site_live_bytes{target=\"shop\",site=\"other\"} 14367984";
        assert!(text.lines().any(|line| line == other), "what lives but 10 sites of 1000 bytes: {text}");
    }
}
