//! Live bytes over time: all sites together, the largest of them, and how anonymous memory has grown meanwhile.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use crate::{
    export::{
        html::{escape, shortened},
        terminal::{bytes, duration},
        weigh,
    },
    leaks::{Point, SiteReport, TargetReport, Verdict},
};

/// Lines of single sites.
const MAX_LINES: usize = 5;

/// The name of that line.
const MEMORY: &str = "growth of anonymous memory";

/// Moments of the sum.
const MOMENTS: u32 = 64;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 8.0;

/// The graph with its legend.
pub fn render(target: &TargetReport, taken_at: SystemTime) -> String {
    let of_sites = target.sites.iter().flat_map(|site| &site.history);
    let times = of_sites.chain(&target.history).map(|point| point.at);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return "<p class=\"dim\">No history yet.</p>".to_owned();
    };
    let span = last.duration_since(first).unwrap_or_default();
    if span.is_zero() {
        return "<p class=\"dim\">No history yet.</p>".to_owned();
    }
    let moments: Vec<_> = (0..=MOMENTS).map(|i| first + span / MOMENTS * i).collect();
    let (sum, all): (Vec<_>, _) = if target.history.len() > 1 {
        (target.history.clone(), "all sites")
    } else {
        let listed = |at: &SystemTime| target.sites.iter().map(|site| value_at(&site.history, *at)).sum();
        let points = moments.iter().map(|at| Point { at: *at, live_bytes: listed(at) });
        (points.collect(), "all sites that are listed")
    };
    let anonymous = growth_of_memory(target, first, last);
    let top = sum.iter().chain(&anonymous).map(|point| point.live_bytes).fold(0.0, f64::max);
    let unit = step(top / 4.0);
    let scale = Scale { first, span, top: ((top / unit).ceil() * unit).max(unit) };
    let mut text = String::new();
    // Writing to a string can't fail.
    let _infallible = write!(
        text,
        "<svg class=\"graph\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"live bytes over time\">"
    );
    scale.axes(&mut text, unit, taken_at);
    if anonymous.len() > 1 {
        scale.line(&mut text, "anon", &anonymous, MEMORY);
    }
    scale.line(&mut text, "sum", &sum, all);
    let shown: Vec<_> = target.sites.iter().filter(|site| site.history.len() > 1).take(MAX_LINES).collect();
    for (number, site) in shown.iter().enumerate() {
        scale.line(&mut text, &format!("s{number}"), &site.history, &name(site));
    }
    let _infallible = write!(text, "</svg><ul class=\"legend\"><li class=\"sum\">{all}</li>");
    if anonymous.len() > 1 {
        let _infallible = write!(text, "<li class=\"anon\">{MEMORY}</li>");
    }
    for (number, site) in shown.iter().enumerate() {
        let word =
            if site.judgement.verdict == Verdict::Unjudged { "" } else { site.judgement.verdict.name() };
        let _infallible = write!(
            text,
            "<li class=\"s{number}\"><a href=\"#{}\">{}</a> <span class=\"dim\">{word}</span></li>",
            escape(&site.id),
            escape(&name(site))
        );
    }
    text.push_str("</ul>");
    text
}

/// By how much anonymous memory was above its first reading: what live bytes explain, or don't.
fn growth_of_memory(target: &TargetReport, first: SystemTime, last: SystemTime) -> Vec<Point> {
    let begin = target.anon_history.first().map_or(0, |point| point.anon_bytes);
    let within = target.anon_history.iter().filter(|point| (first..=last).contains(&point.at));
    within
        .map(|point| Point { at: point.at, live_bytes: point.anon_bytes.saturating_sub(begin) as f64 })
        .collect()
}

fn name(site: &SiteReport) -> String {
    shortened(&weigh::culprit(&site.stack).map_or_else(|| site.id.to_string(), |(name, _)| name), 50)
}

/// What a site had at a moment: on the straight line between its points, nothing before the first.
fn value_at(history: &[Point], at: SystemTime) -> f64 {
    let after = history.iter().position(|point| point.at >= at);
    let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
    match after {
        Some(0) => {
            history.first().filter(|point| point.at == at).map_or(0.0, |point| finite(point.live_bytes))
        }
        Some(next) => {
            let (before, next) = (history[next - 1], history[next]);
            let whole = next.at.duration_since(before.at).unwrap_or_default().as_secs_f64();
            let part = at.duration_since(before.at).unwrap_or_default().as_secs_f64();
            let share = if whole > 0.0 { part / whole } else { 1.0 };
            finite(before.live_bytes) + (finite(next.live_bytes) - finite(before.live_bytes)) * share
        }
        None => history.last().map_or(0.0, |point| finite(point.live_bytes)),
    }
}

/// A round number of bytes (1, 2, 4, 8 ... by powers of two) that is at least the value.
fn step(value: f64) -> f64 {
    let mut step = 1.0;
    while step < value && step < 1e18 {
        step *= 2.0;
    }
    step
}

struct Scale {
    first: SystemTime,
    span: Duration,
    top: f64,
}

impl Scale {
    fn x(&self, at: SystemTime) -> f64 {
        let passed = at.duration_since(self.first).unwrap_or_default().as_secs_f64();
        LEFT + passed / self.span.as_secs_f64() * (WIDTH - LEFT - 4.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if value.is_finite() { (value / self.top).clamp(0.0, 1.0) } else { 0.0 };
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    fn axes(&self, text: &mut String, unit: f64, taken_at: SystemTime) {
        let mut value = 0.0;
        while value <= self.top {
            let y = self.y(value);
            let _infallible = write!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                bytes(value)
            );
            value += unit;
        }
        for quarter in 0..=4 {
            let at = self.first + self.span / 4 * quarter;
            let ago = taken_at.duration_since(at).unwrap_or_default();
            let label = if ago.as_secs_f64() < 0.5 {
                "now".to_owned()
            } else {
                format!("{} ago", duration(ago.as_secs_f64()))
            };
            let anchor = match quarter {
                0 => "start",
                4 => "end",
                _ => "middle",
            };
            let _infallible = write!(
                text,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
                self.x(at),
                HEIGHT - 6.0
            );
        }
    }

    fn line(&self, text: &mut String, class: &str, points: &[Point], name: &str) {
        let places: Vec<_> = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", self.x(point.at), self.y(point.live_bytes)))
            .collect();
        let _infallible = write!(
            text,
            "<polyline class=\"{class}\" points=\"{}\"><title>{}</title></polyline>",
            places.join(" "),
            escape(name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture::at;

    #[test]
    fn between_two_points_the_value_lies_on_the_line() {
        let history = [Point { at: at(10), live_bytes: 100.0 }, Point { at: at(20), live_bytes: 200.0 }];
        for (moment, value) in [(5, 0.0), (10, 100.0), (15, 150.0), (20, 200.0), (30, 200.0)] {
            assert_eq!(value_at(&history, at(moment)), value, "at {moment}");
        }
    }

    #[test]
    fn the_scale_has_round_numbers() {
        assert_eq!(step(3.0e6), 4_194_304.0);
        assert_eq!(step(0.0), 1.0);
    }
}
