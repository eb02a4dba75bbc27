//! The page of one target: verdict, graph, sites, flame graph. One file of HTML that needs nothing else, and no script.

mod graph;

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use super::{
    flamegraph,
    html::{escape, segment, shortened},
    leaks,
    terminal::{bytes, duration, grouped},
    weigh::{self, Weight},
};
use crate::{
    leaks::{Estimate, SiteReport, TargetReport, Verdict},
    stack::{End, Frame},
};

const STYLE: &str = include_str!("page/style.css");

/// Rows of the table at most; the rest are in the JSON.
const MAX_ROWS: usize = 100;

/// Renders a target's page. `weight` is what its flame graph is drawn by.
pub fn render(target: &TargetReport, taken_at: SystemTime, weight: Weight) -> String {
    let mut text = String::with_capacity(256 << 10);
    // Writing to a string can't fail.
    let _infallible = write!(
        text,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name} &middot; profiler</title>\
         <style>{STYLE}</style></head><body><p class=\"up\"><a href=\"/\">profiler</a></p>\
         <header><h1>{name}</h1><p class=\"sub\">{}</p></header>",
        about(target, taken_at),
        name = escape(&shortened(&target.target, 200)),
    );
    verdict(&mut text, target, taken_at);
    facts(&mut text, target);
    text.push_str("<h2>Live bytes</h2>");
    text.push_str(&graph::render(target, taken_at));
    sites(&mut text, target, taken_at);
    flames(&mut text, target, weight);
    losses(&mut text, target);
    links(&mut text, target);
    text.push_str("</body></html>\n");
    text
}

/// Who, since when, on what ground.
fn about(target: &TargetReport, taken_at: SystemTime) -> String {
    let pids: Vec<_> = target.pids.iter().take(8).map(u32::to_string).collect();
    let more = if target.pids.len() > 8 { " and more" } else { "" };
    let word = if target.pids.len() == 1 { "pid" } else { "pids" };
    let mut told = format!(
        "{word} {}{more} &middot; watched for {} &middot; {}",
        pids.join(", "),
        duration(target.watched.as_secs_f64()),
        day(taken_at),
    );
    if let Some(end) = &target.ended {
        let _infallible = write!(told, " &middot; <strong>ended: {}</strong>", escape(end));
    }
    told
}

/// A moment by the calendar.
fn day(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

fn verdict(text: &mut String, target: &TargetReport, taken_at: SystemTime) {
    let judgement = &target.judgement;
    let rate = judgement.rate.map(|rate| {
        format!(
            "<span class=\"rate\">{}</span> <span class=\"dim\">{}</span>",
            per_second(rate.value),
            between(rate, per_second)
        )
    });
    let said = match judgement.verdict {
        Verdict::Leaking => "It leaks.",
        Verdict::Growing => "It grows; whether it will level off can&#39;t be told yet.",
        Verdict::Steady => "It doesn&#39;t grow.",
        Verdict::Unjudged => "Too little is known to say.",
    };
    let mut more = String::new();
    if let Some(since) = judgement.since {
        let ago = taken_at.duration_since(since).unwrap_or_default();
        let _infallible = write!(more, " Since {} ({} ago).", day(since), duration(ago.as_secs_f64()));
    }
    if judgement.verdict != Verdict::Unjudged && judgement.confidence.is_finite() {
        let _infallible = write!(more, " Confidence {}.", confidence(judgement.confidence));
    }
    let _infallible = write!(
        text,
        "<section class=\"verdict {class}\"><p class=\"said\">{said} {}</p><p>{}.{more}</p></section>",
        rate.unwrap_or_default(),
        escape(judgement.reason.trim_end_matches('.')),
        class = judgement.verdict.name(),
    );
}

/// Never rounded up to certainty.
fn confidence(value: f64) -> String {
    if value >= 0.9995 {
        "above 99.9 %".to_owned()
    } else {
        format!("{:.1} %", (value * 1000.0).floor() / 10.0)
    }
}

fn facts(text: &mut String, target: &TargetReport) {
    let mut rows: Vec<(&str, String)> = vec![
        (
            "Live bytes, all sites",
            format!(
                "{} <span class=\"dim\">{}</span>",
                bytes(target.live_bytes.value),
                between(target.live_bytes, bytes)
            ),
        ),
        ("Anonymous memory now", bytes(target.anon_bytes as f64)),
    ];
    let before = format!(
        "{} of anonymous memory was there before; nothing is known of who allocated it",
        bytes(target.before.anon_bytes as f64)
    );
    let allocator = target
        .before
        .allocator_bytes
        .map(|used| format!("; {} of it in use by the allocator&#39;s own count", bytes(used as f64)));
    rows.push(("Before the watch", before + &allocator.unwrap_or_default()));
    let explained = target.explained.map_or_else(
        || "too little growth to tell".to_owned(),
        |share| {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            format!(
                "{} of the growth of anonymous memory <span class=\"dim\">{}</span>",
                percent(share.value),
                between(share, percent)
            )
        },
    );
    rows.push(("Explained by live bytes", explained));
    let source = match &target.source {
        Ok(source) => format!("{}, one per {} on average", source.name(), bytes(target.sample_bytes as f64)),
        Err(reason) => format!("none: {}", escape(reason)),
    };
    rows.push(("Samples", source));
    text.push_str("<dl>");
    for (name, value) in rows {
        let _infallible = write!(text, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    text.push_str("</dl>");
}

fn sites(text: &mut String, target: &TargetReport, taken_at: SystemTime) {
    text.push_str("<h2>Sites</h2>");
    if target.sites.is_empty() {
        text.push_str("<p class=\"dim\">None yet.</p>");
        return;
    }
    text.push_str("<div class=\"wide\"><table><thead><tr><th>verdict</th><th>site</th><th class=\"n\">growth</th><th class=\"n\">live</th><th class=\"n\">age</th></tr></thead><tbody>");
    for site in target.sites.iter().take(MAX_ROWS) {
        row(text, site, taken_at);
    }
    text.push_str("</tbody></table></div>");
    let hidden = target.sites.len().saturating_sub(MAX_ROWS);
    let (samples, live) = target.other;
    let _infallible = write!(
        text,
        "<p class=\"dim\">{}Sites that had no place any more: {} samples, {}.</p>",
        if hidden > 0 { format!("{hidden} more sites are in the JSON. ") } else { String::new() },
        grouped(samples as f64),
        bytes(live.value),
    );
}

fn row(text: &mut String, site: &SiteReport, taken_at: SystemTime) {
    let judgement = &site.judgement;
    let rate = judgement.rate.map_or_else(
        || "<span class=\"dim\">unknown</span>".to_owned(),
        |rate| {
            format!("{}<br><span class=\"dim\">{}</span>", per_second(rate.value), between(rate, per_second))
        },
    );
    let (name, object) = weigh::culprit(&site.stack).unwrap_or_else(|| ("[no stack]".to_owned(), ""));
    let mut more = escape(&judgement.reason);
    if let Some(since) = judgement.since {
        let ago = taken_at.duration_since(since).unwrap_or_default();
        let _infallible = write!(more, "; for {}", duration(ago.as_secs_f64()));
    }
    if let Some((looked_for, lost)) = site.unreferenced {
        let _infallible = write!(more, "; {lost} of {looked_for} old blocks unreferenced");
    }
    let _infallible = write!(
        text,
        "<tr id=\"{id}\"><td><span class=\"tag {class}\">{class}</span></td>\
         <td><details><summary><code>{}</code> <span class=\"dim\">{}</span></summary>",
        escape(&shortened(&name, 120)),
        escape(&shortened(object.rsplit('/').next().unwrap_or(object), 60)),
        id = escape(&site.id),
        class = judgement.verdict.name(),
    );
    stack(text, site);
    let _infallible = write!(
        text,
        "</details><p class=\"why dim\">{more} &middot; {} live of {} samples &middot; <code>{}</code></p></td>\
         <td class=\"n\">{rate}</td><td class=\"n\">{}<br><span class=\"dim\">{}</span></td>\
         <td class=\"n\">{}<br><span class=\"dim\">up to {}</span></td></tr>",
        grouped(site.samples.1 as f64),
        grouped(site.samples.0 as f64),
        escape(&site.id),
        bytes(site.live_bytes.value),
        between(site.live_bytes, bytes),
        leaks::age(site.ages.median),
        leaks::age(site.ages.oldest),
    );
}

fn stack(text: &mut String, site: &SiteReport) {
    text.push_str("<ol>");
    for frame in &site.stack.frames {
        frame_lines(text, frame);
    }
    if site.stack.end != End::Complete {
        let _infallible = write!(text, "<li class=\"dim\">[{}]</li>", site.stack.end.name());
    }
    text.push_str("</ol>");
    if !site.survival.is_empty() {
        let alive = |(age, share): &(Duration, f64)| {
            format!("{:.0} % after {}", share * 100.0, duration(age.as_secs_f64()))
        };
        let alive: Vec<_> = site.survival.iter().map(alive).collect();
        let _infallible = write!(text, "<p class=\"dim\">Alive: {}</p>", alive.join(", "));
    }
}

fn frame_lines(text: &mut String, frame: &Frame) {
    let object = escape(&shortened(&frame.object, 120));
    if frame.functions.is_empty() {
        for name in frame.names() {
            let _infallible = write!(
                text,
                "<li><code>{}</code> <span class=\"dim\">{object}</span></li>",
                escape(&shortened(&name, 240))
            );
        }
    }
    for (number, function) in frame.functions.iter().enumerate() {
        let inlined = if number + 1 < frame.functions.len() { " (inlined)" } else { "" };
        let place = match &function.file {
            Some(file) => format!("{}:{}", escape(&shortened(file, 120)), function.line),
            None => object.clone(),
        };
        let name = escape(&shortened(&function.name, 240));
        let _infallible =
            write!(text, "<li><code>{name}</code> <span class=\"dim\">{place}{inlined}</span></li>");
    }
}

fn flames(text: &mut String, target: &TargetReport, weight: Weight) {
    text.push_str("<h2 id=\"flames\">Flame graph</h2><p class=\"tabs\">");
    for one in Weight::ALL {
        let class = if one == weight { " class=\"here\"" } else { "" };
        let _infallible =
            write!(text, "<a href=\"?value={}#flames\"{class}>{}</a> ", one.name(), one.title());
    }
    text.push_str("</p>");
    text.push_str(&flamegraph::render(target, weight));
}

fn losses(text: &mut String, target: &TargetReport) {
    let some: Vec<_> = target.losses.iter().filter(|(_, count)| *count > 0).collect();
    if some.is_empty() {
        text.push_str("<h2>Losses</h2><p class=\"dim\">Nothing was lost.</p>");
        return;
    }
    text.push_str("<h2>Losses</h2><ul>");
    for (reason, count) in some {
        let _infallible = write!(text, "<li><code>{}</code> {}</li>", escape(reason), grouped(*count as f64));
    }
    text.push_str("</ul>");
}

fn links(text: &mut String, target: &TargetReport) {
    let name = segment(&target.target);
    let _infallible = write!(
        text,
        "<h2>Take it with you</h2><p>\
         <a href=\"/targets/{name}/flamegraph.svg\">flame graph (SVG)</a> &middot; <a href=\"/targets/{name}/folded\">folded stacks</a> &middot; \
         <a href=\"/debug/pprof/heap?target={name}\">pprof</a> &middot; <a href=\"/api/v1/leaks\">JSON</a></p>"
    );
}

fn between(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    let end = |value: f64| if value.is_finite() { show(value) } else { "unknown".to_owned() };
    format!("({} to {})", end(estimate.low), end(estimate.high))
}

fn per_second(rate: f64) -> String {
    // A slow leak is told by the hour: nobody sees anything in 0 B/s.
    if rate.abs() >= 1.0 || rate == 0.0 {
        format!("{}/s", bytes(rate))
    } else {
        format!("{}/h", bytes(rate * 3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture;

    fn page(target: usize) -> String {
        let picture = picture::realistic();
        render(&picture.targets[target], picture.taken_at, Weight::Live)
    }

    #[test]
    fn the_page_tells_the_verdict_in_words_with_rate_and_interval() {
        let page = page(0);
        for told in [
            "It leaks. <span class=\"rate\">10.0 KiB/s</span> <span class=\"dim\">(8.8 KiB/s to 11.2 KiB/s)</span>",
            "Since 2026-01-02 02:01:05 UTC (1 h 03 min ago). Confidence above 99.9 %.",
            "50.0 MiB of anonymous memory was there before",
            "91 % of the growth of anonymous memory",
            "<code>cache::Store::remember</code>",
            "std::map&lt;std::string; int&gt;::insert</code> <span class=\"dim\">/usr/include/c++/12/bits/stl_map.h:612 (inlined)",
            "<code>ring_full</code> 12",
        ] {
            assert!(page.contains(told), "missing: {told}\n{page}");
        }
    }

    #[test]
    fn hostile_names_are_text_and_nothing_is_loaded_from_elsewhere() {
        for page in [page(0), page(1)] {
            assert_eq!(page.matches("<script").count(), 1, "the flame graph's own");
            assert!(!page.contains("alert(\""), "{page}");
            let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
            for loader in ["http:", "https:", "url(", "src=", "@import", "<link"] {
                assert!(!elsewhere.contains(loader), "{loader}");
            }
        }
    }

    #[test]
    fn a_target_of_which_nothing_is_known_has_a_page_as_well() {
        let page = page(1);
        assert!(page.contains("Too little is known to say."));
        assert!(page.contains("ended: killed for memory"));
        assert!(page.contains("<h1>a &quot;b&quot;/&lt;c&gt;</h1>"));
        assert!(page.contains("href=\"/targets/a%20%22b%22%2F%3Cc%3E/folded\""));
        assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
    }

    #[test]
    fn certainty_is_never_rounded_up_and_slow_leaks_are_told_by_the_hour() {
        assert_eq!(confidence(0.9494), "94.9 %");
        assert_eq!(confidence(1.0), "above 99.9 %");
        assert_eq!(per_second(0.5), "1.8 KiB/h");
    }
}
