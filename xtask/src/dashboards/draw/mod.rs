//! Pictures of dashboards: their panels where the file puts them, drawn of what their own queries have returned.
//!
//! It reads the part of Grafana's format which our dashboards use, and looks like Grafana, so that the README shows what one
//! gets. Colours, units, names and places come from the file.

mod cells;
mod lines;
mod svg;
mod theme;
mod units;

use serde_json::Value;

use self::svg::{Anchor, Area, Style, Svg};
use super::answers::Series;
use super::questions::text;

/// The range that is shown, in seconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

/// A moment that is marked in every panel over time.
#[derive(Clone, Debug)]
pub struct Annotation {
    pub at: f64,
    pub color: String,
}

/// A panel with the answers to its questions, in their order.
pub struct Panel<'a> {
    pub options: &'a Value,
    pub answers: Vec<Vec<Series>>,
}

const COLUMN: f64 = 60.0;
const ROW: f64 = 38.0;
const GAP: f64 = 8.0;
const MARGIN: f64 = 16.0;
const HEADER: f64 = 62.0;

/// A whole dashboard as SVG. `chosen` are the values of its variables, to be shown at the top.
pub fn dashboard(
    options: &Value,
    panels: &[Panel<'_>],
    chosen: &[(String, String)],
    span: Span,
    marks: &[Annotation],
) -> String {
    let mut svg = Svg::default();
    let rows = panels.iter().map(|panel| grid(panel.options, "y") + grid(panel.options, "h"));
    let height = HEADER + rows.fold(0.0, f64::max) * ROW + MARGIN;
    let width = 24.0 * COLUMN + 2.0 * MARGIN;
    header(&mut svg, options, chosen, width);
    for panel in panels {
        let area = Area {
            x: MARGIN + grid(panel.options, "x") * COLUMN,
            y: HEADER + grid(panel.options, "y") * ROW,
            width: grid(panel.options, "w") * COLUMN - GAP,
            height: grid(panel.options, "h") * ROW - GAP,
        };
        draw(&mut svg, area, panel, span, marks);
    }
    svg.finish(width - GAP, height, theme::BACKGROUND)
}

fn grid(panel: &Value, name: &str) -> f64 {
    panel["gridPos"][name].as_f64().unwrap_or(0.0)
}

fn header(svg: &mut Svg, options: &Value, chosen: &[(String, String)], width: f64) {
    svg.text(MARGIN, 39.0, Style::new(19.0, theme::TEXT).bold(), &text(options, "title"));
    let mut x = width - MARGIN - GAP;
    for (label, value) in chosen.iter().rev() {
        let (name, has) =
            (svg::width_of(label, 12.0, false) + 16.0, svg::width_of(value, 12.0, false) + 20.0);
        x -= name + has;
        let area = Area { x, y: 18.0, width: name + has, height: 30.0 };
        let border = format!("stroke=\"{}\"", theme::BORDER);
        svg.rect(area, theme::PANEL, 3.0, &border);
        svg.text(x + 8.0, 37.5, Style::new(12.0, theme::LINK), label);
        svg.text(x + name + 8.0, 37.5, Style::new(12.0, theme::TEXT), value);
        x -= 10.0;
    }
}

fn draw(svg: &mut Svg, area: Area, panel: &Panel<'_>, span: Span, marks: &[Annotation]) {
    let options = panel.options;
    let title = text(options, "title");
    let kind = options["type"].as_str().unwrap_or_default();
    if kind == "row" {
        let y = area.y + area.height - 6.0;
        svg.shape(
            &[(area.x + 2.0, y - 9.0), (area.x + 12.0, y - 9.0), (area.x + 7.0, y - 3.0)],
            theme::DIM,
            1.0,
        );
        return svg.text(area.x + 20.0, y, Style::new(14.5, theme::TEXT).bold(), &title);
    }
    let border = format!("stroke=\"{}\" stroke-width=\"1\"", theme::BORDER);
    svg.rect(area, theme::PANEL, 3.0, &border);
    svg.text(area.x + 11.0, area.y + 20.0, Style::new(13.0, theme::TEXT).bold(), &title);
    let inside = area.inside(8.0, 32.0, 8.0, 8.0);
    let flat: Vec<Series> = panel.answers.iter().flatten().cloned().collect();
    match kind {
        "timeseries" => lines::draw(svg, inside, options, &flat, span, marks),
        "stat" => cells::stat(svg, inside, options, &flat, span),
        "table" => cells::table(svg, inside, options, &panel.answers),
        "heatmap" => {
            let cumulative = options["datasource"]["type"] == "prometheus";
            cells::heatmap(svg, inside, &flat, cumulative, span);
        }
        _ => no_data(svg, inside),
    }
}

fn no_data(svg: &mut Svg, area: Area) {
    let style = Style::new(13.0, theme::DIM).at(Anchor::Middle);
    svg.text(area.x + area.width / 2.0, area.y + area.height / 2.0, style, "No data");
}
