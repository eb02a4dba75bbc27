//! Series over time: lines, stacks and intervals.

use std::collections::BTreeMap;

use serde_json::Value;

use super::svg::{Anchor, Area, Style, Svg, fitted, width_of};
use super::{Annotation, Span, theme, units};
use crate::dashboards::answers::Series;
use crate::dashboards::questions::{items, text};

const LABEL: f64 = 11.0;

/// What the panel's options say of a series.
#[derive(Clone, Default)]
struct Look {
    color: Option<String>,
    width: Option<f64>,
    fill: Option<f64>,
    /// The other edge of the interval whose upper edge this is.
    fill_below_to: Option<String>,
    hidden: bool,
}

fn looks(panel: &Value) -> BTreeMap<String, Look> {
    let mut looks = BTreeMap::new();
    for one in items(&panel["fieldConfig"], "overrides") {
        let look: &mut Look = looks.entry(text(&one["matcher"], "options")).or_default();
        for property in items(one, "properties") {
            let value = &property["value"];
            match property["id"].as_str().unwrap_or_default() {
                "color" => look.color = value["fixedColor"].as_str().map(str::to_owned),
                "custom.lineWidth" => look.width = value.as_f64(),
                "custom.fillOpacity" => look.fill = value.as_f64(),
                "custom.fillBelowTo" => look.fill_below_to = value.as_str().map(str::to_owned),
                "custom.hideFrom" => look.hidden = value["legend"] == true,
                _ => {}
            }
        }
    }
    looks
}

/// A series with its place and its colour.
struct Drawn<'a> {
    series: &'a Series,
    look: Look,
    color: String,
    /// Where its line runs; in a stack, on top of what is below it.
    points: Vec<(f64, f64)>,
}

/// Where values are on paper.
struct Scale {
    plot: Area,
    span: Span,
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn x(&self, time: f64) -> f64 {
        self.plot.x + self.plot.width * (time - self.span.from) / (self.span.to - self.span.from)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.plot.bottom() - self.plot.height * share.clamp(0.0, 1.0)
    }
}

/// Draws a panel of kind `timeseries`.
pub fn draw(svg: &mut Svg, area: Area, panel: &Value, answers: &[Series], span: Span, marks: &[Annotation]) {
    let defaults = &panel["fieldConfig"]["defaults"];
    let custom = &defaults["custom"];
    let mode = custom["stacking"]["mode"].as_str().unwrap_or("none").to_owned();
    let unit = if mode == "percent" { "percent" } else { defaults["unit"].as_str().unwrap_or("short") };
    let drawn = placed(panel, answers, &mode);
    let legend_height = legend(svg, area, &drawn);
    let room = area.inside(0.0, 4.0, 10.0, legend_height + 20.0);
    let values = drawn.iter().flat_map(|one| one.points.iter().map(|point| point.1));
    let (least, most) = values.fold((0.0_f64, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    // What is hardly below zero needs no room of its own there.
    let least = if least > -0.02 * most { 0.0 } else { least };
    let log = custom["scaleDistribution"]["type"] == "log";
    let most = match (mode.as_str(), defaults["max"].as_f64()) {
        ("percent", _) => 100.0,
        (_, Some(max)) => max,
        _ => most,
    };
    let ticks = if log { log_ticks(&drawn) } else { units::ticks(least, most, unit, room.height / 42.0) };
    let labels: Vec<_> = ticks.iter().map(|tick| units::shown(*tick, unit, None)).collect();
    let widest = labels.iter().map(|label| width_of(label, LABEL, false)).fold(0.0, f64::max);
    let plot = room.inside(widest + 16.0, 0.0, 0.0, 0.0);
    let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
    let scale = Scale { plot, span, low, high, log };
    for (tick, label) in ticks.iter().zip(&labels) {
        let y = scale.y(*tick);
        svg.line((plot.x, y), (plot.right(), y), theme::GRID, 1.0, "");
        svg.text(plot.x - 7.0, y + 4.0, Style::new(LABEL, theme::DIM).at(Anchor::End), label);
    }
    time_axis(svg, plot, span);
    lines(svg, &scale, &drawn, custom, mode != "none");
    for mark in marks.iter().filter(|mark| mark.at > span.from && mark.at < span.to) {
        let x = scale.x(mark.at);
        let color = theme::color(&mark.color);
        svg.line((x, plot.y), (x, plot.bottom()), color, 1.2, "stroke-dasharray=\"4 3\"");
        svg.shape(
            &[(x - 4.5, plot.bottom() + 7.0), (x + 4.5, plot.bottom() + 7.0), (x, plot.bottom())],
            color,
            1.0,
        );
    }
    if drawn.iter().all(|one| one.points.is_empty()) {
        super::no_data(svg, plot);
    }
}

/// The series in their colours, with the lines that they are drawn as.
fn placed<'a>(panel: &Value, answers: &'a [Series], mode: &str) -> Vec<Drawn<'a>> {
    let looks = looks(panel);
    let mut below: BTreeMap<i64, f64> = BTreeMap::new();
    let mut totals: BTreeMap<i64, f64> = BTreeMap::new();
    for (time, value) in answers.iter().flat_map(|one| &one.points) {
        *totals.entry(time.round() as i64).or_default() += value;
    }
    let place = |(index, series): (usize, &'a Series)| {
        let look = looks.get(&series.name).cloned().unwrap_or_default();
        let color = theme::color(look.color.as_deref().unwrap_or(theme::palette(index))).to_owned();
        let points = series.points.iter().map(|(time, value)| {
            let key = time.round() as i64;
            let total = totals.get(&key).copied().filter(|total| *total > 0.0).unwrap_or(1.0);
            let value = if mode == "percent" { value * 100.0 / total } else { *value };
            let base = below.entry(key).or_default();
            *base += value;
            (*time, if mode == "none" { value } else { *base })
        });
        Drawn { series, look, color, points: points.collect() }
    };
    answers.iter().enumerate().map(place).collect()
}

fn lines(svg: &mut Svg, scale: &Scale, drawn: &[Drawn<'_>], custom: &Value, stacked: bool) {
    let width = custom["lineWidth"].as_f64().unwrap_or(1.0);
    let opacity = custom["fillOpacity"].as_f64().unwrap_or(0.0);
    let paper = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().map(|(time, value)| (scale.x(*time), scale.y(*value))).collect()
    };
    let base = scale.y(scale.low.max(0.0));
    // From the top of a stack to its bottom, so that each layer covers what is below the next.
    let order: Vec<&Drawn<'_>> = if stacked { drawn.iter().rev().collect() } else { drawn.iter().collect() };
    for one in &order {
        let line = paper(&one.points);
        let (Some(first), Some(last)) = (line.first(), line.last()) else { continue };
        let opacity = one.look.fill.unwrap_or(opacity) / 100.0;
        let other = one.look.fill_below_to.as_ref();
        let other = other.and_then(|name| drawn.iter().find(|lower| lower.series.name == *name));
        let mut shape = line.clone();
        match other {
            Some(lower) => shape.extend(paper(&lower.points).into_iter().rev()),
            None => shape.extend([(last.0, base), (first.0, base)]),
        }
        if stacked {
            svg.shape(&shape, theme::PANEL, 1.0);
        }
        if opacity > 0.0 {
            svg.shape(&shape, &one.color, opacity);
        }
    }
    for one in &order {
        let width = one.look.width.unwrap_or(width);
        if width > 0.0 {
            svg.path(&paper(&one.points), &one.color, width * 0.9);
        }
    }
}

/// Powers of 16 around all values, from 1 KiB; what is 0 is drawn at the bottom.
fn log_ticks(drawn: &[Drawn<'_>]) -> Vec<f64> {
    let values = drawn.iter().flat_map(|one| one.points.iter().map(|point| point.1));
    let most = values.fold(16_384.0_f64, f64::max);
    let mut ticks = vec![1024.0];
    while ticks[ticks.len() - 1] < most && ticks.len() < 12 {
        ticks.push(ticks[ticks.len() - 1] * 16.0);
    }
    ticks
}

/// Times below a plot.
pub fn time_axis(svg: &mut Svg, plot: Area, span: Span) {
    let length = span.to - span.from;
    let wanted = (plot.width / 90.0).max(2.0);
    let steps = [5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
    let step = steps.into_iter().find(|step| length / step <= wanted).unwrap_or(7200.0);
    let mut at = (span.from / step).ceil() * step;
    while at <= span.to {
        let x = plot.x + plot.width * (at - span.from) / length;
        let day = at as u64 % 86_400;
        let label = format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60);
        svg.line((x, plot.y), (x, plot.bottom()), theme::GRID, 1.0, "");
        if x > plot.x + 38.0 && x < plot.right() - 20.0 {
            let style = Style::new(LABEL, theme::DIM).at(Anchor::Middle);
            svg.text(x, plot.bottom() + 16.0, style, &label);
        }
        at += step;
    }
}

/// Names and colours below the plot, in at most two lines; returns how high they are.
fn legend(svg: &mut Svg, area: Area, drawn: &[Drawn<'_>]) -> f64 {
    const LINE: f64 = 18.0;
    let mut lines: Vec<Vec<(f64, &Drawn<'_>)>> = vec![Vec::new()];
    let (mut x, mut left_out) = (area.x + 8.0, 0);
    for one in drawn.iter().filter(|one| !one.look.hidden && !one.series.name.is_empty()) {
        let width = width_of(&fitted(&one.series.name, LABEL, 220.0), LABEL, false) + 34.0;
        let room = area.right() - if lines.len() == 2 { 60.0 } else { 0.0 };
        if x + width > room && x > area.x + 8.0 {
            if lines.len() == 2 {
                left_out += 1;
                continue;
            }
            lines.push(Vec::new());
            x = area.x + 8.0;
        }
        if left_out == 0 {
            if let Some(line) = lines.last_mut() {
                line.push((x, one));
            }
            x += width;
        } else {
            left_out += 1;
        }
    }
    let height = LINE * lines.len() as f64 + 4.0;
    let top = area.bottom() - height;
    for (index, line) in lines.iter().enumerate() {
        let y = top + LINE * index as f64 + 10.0;
        for (x, one) in line {
            svg.rect(Area { x: *x, y: y - 2.0, width: 13.0, height: 4.0 }, &one.color, 2.0, "");
            let name = fitted(&one.series.name, LABEL, 220.0);
            svg.text(x + 18.0, y + 4.0, Style::new(LABEL, theme::TEXT), &name);
        }
        if index == 1 && left_out > 0 {
            let more = format!("+ {left_out} more");
            svg.text(x, y + 4.0, Style::new(LABEL, theme::DIM), &more);
        }
    }
    height
}
