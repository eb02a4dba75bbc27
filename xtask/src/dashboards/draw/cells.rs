//! Panels of rectangles: single figures, tables, heat maps.

use std::collections::BTreeMap;

use serde_json::Value;

use super::svg::{Anchor, Area, Style, Svg, fitted, width_of};
use super::{Span, lines, theme, units};
use crate::dashboards::answers::Series;
use crate::dashboards::questions::{items, text};

/// Draws a panel of kind `stat`.
pub fn stat(svg: &mut Svg, area: Area, panel: &Value, answers: &[Series], span: Span) {
    let (defaults, options) = (&panel["fieldConfig"]["defaults"], &panel["options"]);
    let Some(series) = answers.first() else { return super::no_data(svg, area) };
    let last = series.points.last().map(|point| point.1);
    let (shown, color) = if let Some(word) = verdict_of(series, options) {
        let color = mapped(&defaults["mappings"], &word).unwrap_or_else(|| theme::TEXT.to_owned());
        (word, color)
    } else {
        let Some(value) = last else { return super::no_data(svg, area) };
        let unit = defaults["unit"].as_str().unwrap_or("short");
        let decimals = defaults["decimals"].as_u64().map(|digits| digits as usize);
        (units::shown(value, unit, decimals), color_of(defaults, value))
    };
    let background = options["colorMode"] == "background";
    let mut ink = color.as_str();
    if background {
        svg.rect(area.inside(-7.0, -31.0, -7.0, -7.0), &color, 3.0, "fill-opacity=\"0.82\"");
        svg.text(area.x + 4.0, area.y - 11.0, Style::new(13.0, "#ffffff").bold(), &text(panel, "title"));
        ink = "#ffffff";
    }
    let graph = options["graphMode"] == "area";
    if graph {
        sparkline(svg, area, series, &color, span);
    }
    let most = if graph { 30.0 } else { 36.0 };
    let size = (area.width * 0.86 / width_of(&shown, 1.0, true)).clamp(16.0, most);
    let y = area.y + area.height * if graph { 0.3 } else { 0.45 } + size * 0.36;
    svg.text(area.x + area.width / 2.0, y, Style::new(size, ink).bold().at(Anchor::Middle), &shown);
}

/// The word that is the panel's value: a text field, or a series' name.
fn verdict_of(series: &Series, options: &Value) -> Option<String> {
    if options["textMode"] == "name" {
        return Some(series.name.clone());
    }
    series.words.values().next().cloned()
}

fn color_of(defaults: &Value, value: f64) -> String {
    if let Some(fixed) = defaults["color"]["fixedColor"].as_str() {
        return theme::color(fixed).to_owned();
    }
    let steps = items(&defaults["thresholds"], "steps").iter();
    let mut reached = steps.filter(|step| step["value"].as_f64().is_none_or(|from| value >= from));
    theme::color(&reached.next_back().map(|step| text(step, "color")).unwrap_or_default()).to_owned()
}

fn sparkline(svg: &mut Svg, area: Area, series: &Series, color: &str, span: Span) {
    let most = series.points.iter().map(|point| point.1).fold(1e-12, f64::max);
    let area = area.inside(-7.0, area.height * 0.66, -7.0, -7.0);
    let place = |(time, value): &(f64, f64)| {
        let x = area.x + area.width * (time - span.from) / (span.to - span.from);
        (x, area.bottom() - (area.height - 2.0) * value.max(0.0) / most)
    };
    let line: Vec<_> = series.points.iter().map(place).collect();
    let (Some(first), Some(last)) = (line.first(), line.last()) else { return };
    let mut shape = line.clone();
    shape.extend([(last.0, area.bottom()), (first.0, area.bottom())]);
    svg.shape(&shape, color, 0.16);
    svg.path(&line, color, 1.2);
}

/// Colour of a value by the panel's mappings.
fn mapped(mappings: &Value, word: &str) -> Option<String> {
    let color = mappings.as_array()?.iter().find_map(|one| one["options"][word]["color"].as_str())?;
    Some(theme::color(color).to_owned())
}

/// A column of a table.
struct Column {
    name: String,
    options: BTreeMap<String, Value>,
}

impl Column {
    fn title(&self) -> String {
        self.options.get("displayName").and_then(Value::as_str).unwrap_or(&self.name).to_owned()
    }

    fn cell_type(&self) -> &str {
        self.options.get("custom.cellOptions").and_then(|one| one["type"].as_str()).unwrap_or("auto")
    }

    fn is_figure(&self) -> bool {
        self.options.contains_key("unit")
    }
}

/// A row: words and figures by column.
#[derive(Clone, Default)]
struct Row {
    words: BTreeMap<String, String>,
    figures: BTreeMap<String, f64>,
}

/// Draws a panel of kind `table`. `answers` are those of one question each.
pub fn table(svg: &mut Svg, area: Area, panel: &Value, answers: &[Vec<Series>]) {
    const LINE: f64 = 30.0;
    let columns = columns(panel);
    let mut rows = merged(panel, answers);
    let sort = text(&panel["options"]["sortBy"][0], "displayName");
    if let Some(column) = columns.iter().find(|column| column.title() == sort) {
        let by = |row: &Row| row.figures.get(&column.name).copied().unwrap_or(-1.0);
        rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
    }
    if rows.is_empty() {
        return super::no_data(svg, area);
    }
    let places = placed(&columns, area);
    for (column, (x, width)) in columns.iter().zip(&places) {
        let (at, anchor) =
            if column.is_figure() { (x + width - 10.0, Anchor::End) } else { (x + 10.0, Anchor::Start) };
        svg.text(at, area.y + 17.0, Style::new(12.0, theme::LINK).bold().at(anchor), &column.title());
    }
    let fits = ((area.height - LINE) / LINE) as usize;
    for (index, row) in rows.iter().take(fits).enumerate() {
        let top = area.y + LINE * (index + 1) as f64 - 3.0;
        svg.line((area.x, top), (area.right(), top), theme::BORDER, 1.0, "");
        for (column, (x, width)) in columns.iter().zip(&places) {
            let cell = Area { x: *x, y: top, width: *width, height: LINE };
            draw_cell(svg, cell, column, row, &rows);
        }
    }
}

fn draw_cell(svg: &mut Svg, cell: Area, column: &Column, row: &Row, rows: &[Row]) {
    let y = cell.y + 20.0;
    let Some(value) = row.figures.get(&column.name).copied() else {
        let word = row.words.get(&column.name).cloned().unwrap_or_else(|| "–".to_owned());
        let style = Style::new(12.5, theme::TEXT);
        if column.cell_type() == "color-background" {
            let mappings = column.options.get("mappings").unwrap_or(&Value::Null);
            let color = mapped(mappings, &word).unwrap_or_else(|| theme::PANEL.to_owned());
            svg.rect(cell.inside(3.0, 4.0, 3.0, 3.0), &color, 3.0, "fill-opacity=\"0.82\"");
            let style = Style { color: "#ffffff", ..style }.bold();
            return svg.text(cell.x + 12.0, y, style, &word);
        }
        if column.is_figure() {
            return svg.text(
                cell.right() - 10.0,
                y,
                Style { color: theme::DIM, ..style }.at(Anchor::End),
                &word,
            );
        }
        let color = if column.options.contains_key("links") { theme::LINK } else { theme::TEXT };
        let word = fitted(&word, 12.5, cell.width - 16.0);
        return svg.text(cell.x + 10.0, y, Style { color, ..style }, &word);
    };
    let unit = column.options.get("unit").and_then(Value::as_str).unwrap_or("short");
    let decimals = column.options.get("decimals").and_then(Value::as_u64).map(|digits| digits as usize);
    let label = units::shown(value, unit, decimals);
    if column.cell_type() == "gauge" {
        let most = rows.iter().filter_map(|row| row.figures.get(&column.name)).copied().fold(1e-12, f64::max);
        let color = column.options.get("color").and_then(|color| color["fixedColor"].as_str());
        let room = cell.inside(8.0, 9.0, 90.0, 9.0);
        svg.rect(room, theme::BACKGROUND, 2.0, "");
        let bar = Area { width: room.width * (value / most).clamp(0.0, 1.0), ..room };
        svg.rect(bar, theme::color(color.unwrap_or("blue")), 2.0, "");
    }
    svg.text(cell.right() - 10.0, y, Style::new(12.5, theme::TEXT).at(Anchor::End), &label);
}

/// The columns that a table shows, in their order.
fn columns(panel: &Value) -> Vec<Column> {
    let of_override = |one: &Value| Column {
        name: text(&one["matcher"], "options"),
        options: items(one, "properties")
            .iter()
            .map(|property| (text(property, "id"), property["value"].clone()))
            .collect(),
    };
    items(&panel["fieldConfig"], "overrides").iter().map(of_override).collect()
}

/// Where the columns are: those without a width of their own share what is left.
fn placed(columns: &[Column], area: Area) -> Vec<(f64, f64)> {
    let own = |column: &Column| column.options.get("custom.width").and_then(Value::as_f64);
    let taken: f64 = columns.iter().filter_map(own).sum();
    let free = columns.iter().filter(|column| own(column).is_none()).count().max(1);
    let share = (area.width - taken).max(0.0) / free as f64;
    let mut x = area.x;
    let place = |column: &Column| {
        let width = own(column).unwrap_or(share);
        x += width;
        (x - width, width)
    };
    columns.iter().map(place).collect()
}

/// Rows of all questions: those with the same labels are one. A label that only one question has is a word.
fn merged(panel: &Value, answers: &[Vec<Series>]) -> Vec<Row> {
    let organize = items(panel, "transformations").iter().find(|one| one["id"] == "organize");
    let renamed = organize.map(|one| &one["options"]["renameByName"]).unwrap_or(&Value::Null);
    let mut rows: Vec<Row> = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        let letter = char::from(b'A' + (index % 26) as u8);
        for series in answer {
            let same = |row: &&mut Row| {
                series.labels.iter().all(|(name, value)| row.words.get(name).is_none_or(|has| has == value))
            };
            let at = rows.iter_mut().find(same);
            let row = match at {
                Some(row) => row,
                None => {
                    rows.push(Row::default());
                    let last = rows.len() - 1;
                    &mut rows[last]
                }
            };
            row.words.extend(series.labels.clone());
            row.words.extend(series.words.clone());
            row.figures.extend(series.figures.clone());
            let column = renamed[format!("Value #{letter}")].as_str();
            if let (Some(column), Some((_, value))) = (column, series.points.last()) {
                row.figures.insert(column.to_owned(), *value);
            }
        }
    }
    rows
}

/// Draws a panel of kind `heatmap`: boxes as bright as there is much in them. From Prometheus the buckets are cumulative.
pub fn heatmap(svg: &mut Svg, area: Area, answers: &[Series], cumulative: bool, span: Span) {
    let mut buckets: Vec<&Series> = answers.iter().collect();
    let bound = |name: &str| if name == "+Inf" { f64::INFINITY } else { name.parse().unwrap_or(f64::NAN) };
    buckets.sort_by(|a, b| bound(&a.name).total_cmp(&bound(&b.name)));
    let mut boxes: Vec<BTreeMap<i64, f64>> = Vec::new();
    for (index, bucket) in buckets.iter().enumerate() {
        let own = bucket.points.iter().map(|(time, value)| {
            let lower = index.checked_sub(1).filter(|_| cumulative).map_or(0.0, |lower| {
                let below = buckets[lower].points.iter().find(|point| (point.0 - time).abs() < 0.5);
                below.map_or(0.0, |point| point.1)
            });
            (time.round() as i64, (value - lower).max(0.0))
        });
        boxes.push(own.collect());
    }
    let most = boxes.iter().flat_map(BTreeMap::values).copied().fold(1e-12, f64::max);
    if buckets.is_empty() {
        return super::no_data(svg, area);
    }
    let plot = area.inside(70.0, 4.0, 10.0, 44.0);
    lines::time_axis(svg, plot, span);
    let height = plot.height / buckets.len() as f64;
    // Several steps are one box: a box has to be seen.
    let apart = buckets[0].points.windows(2).map(|two| two[1].0 - two[0].0).fold(f64::INFINITY, f64::min);
    let apart = if apart.is_finite() { apart } else { 1.0 };
    let step = ((span.to - span.from) / 60.0).max(1.0).ceil().max(apart.round());
    let width = plot.width * step / (span.to - span.from);
    for (index, own) in boxes.iter().enumerate() {
        let y = plot.bottom() - height * (index + 1) as f64;
        if index % 2 == 0 {
            let label = match bound(&buckets[index].name) {
                bound if bound.is_finite() => units::shown(bound, "s", None),
                _ => "longer".to_owned(),
            };
            let style = Style::new(11.0, theme::DIM).at(Anchor::End);
            svg.text(plot.x - 7.0, y + height / 2.0 + 4.0, style, &label);
        }
        let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for (time, value) in own {
            let slot = sums.entry(((*time as f64 - span.from) / step) as i64).or_default();
            *slot = (slot.0 + value, slot.1 + 1.0);
        }
        for (slot, (sum, count)) in sums.into_iter().filter(|(slot, (sum, _))| *slot >= 0 && *sum > 1e-9) {
            let x = plot.x + width * slot as f64;
            let room = Area { x, y, width: width.min(plot.right() - x), height }.inside(0.5, 0.5, 0.5, 0.5);
            svg.rect(room, &theme::heat((sum / count / most).sqrt()), 0.0, "");
        }
    }
    scale(svg, Area { x: plot.x, y: plot.bottom() + 26.0, width: 180.0, height: 8.0 }, most);
}

/// What the colours mean.
fn scale(svg: &mut Svg, area: Area, most: f64) {
    const PARTS: usize = 30;
    let width = area.width / PARTS as f64;
    for part in 0..PARTS {
        let share = part as f64 / (PARTS - 1) as f64;
        let one = Area { x: area.x + width * part as f64, width: width + 0.3, ..area };
        svg.rect(one, &theme::heat(share.sqrt()), 0.0, "");
    }
    let style = Style::new(11.0, theme::DIM);
    svg.text(area.right() + 8.0, area.y + 8.0, style, &format!("up to {}", units::shown(most, "cps", None)));
}
