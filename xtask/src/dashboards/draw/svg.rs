//! The few shapes that pictures of dashboards are made of.

use std::fmt::Write as _;

/// Where something is, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Area {
    pub fn right(&self) -> f64 {
        self.x + self.width
    }

    pub fn bottom(&self) -> f64 {
        self.y + self.height
    }

    /// What is left without these edges.
    pub fn inside(&self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self {
            x: self.x + left,
            y: self.y + top,
            width: (self.width - left - right).max(1.0),
            height: (self.height - top - bottom).max(1.0),
        }
    }
}

/// Where a text's anchor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub struct Style<'a> {
    pub size: f64,
    pub color: &'a str,
    pub bold: bool,
    pub anchor: Anchor,
}

impl<'a> Style<'a> {
    pub fn new(size: f64, color: &'a str) -> Self {
        Self { size, color, bold: false, anchor: Anchor::Start }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn at(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }
}

/// A picture that is being drawn.
#[derive(Default)]
pub struct Svg(String);

impl Svg {
    pub fn rect(&mut self, area: Area, fill: &str, radius: f64, more: &str) {
        let Area { x, y, width, height } = area;
        self.0.push_str(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\" fill=\"{fill}\" {more}/>\n"
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64, more: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.0.push_str(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" stroke-width=\"{width}\" {more}/>\n"
        ));
    }

    /// Lines from point to point.
    pub fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64) {
        let path = joined(points);
        self.0.push_str(&format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>\n"
        ));
    }

    /// A filled shape.
    pub fn shape(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        let path = joined(points);
        self.0.push_str(&format!("<path d=\"{path}Z\" fill=\"{fill}\" fill-opacity=\"{opacity}\"/>\n"));
    }

    pub fn text(&mut self, x: f64, y: f64, style: Style<'_>, text: &str) {
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if style.bold { "bold" } else { "normal" };
        self.0.push_str(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\" fill=\"{}\" font-weight=\"{weight}\" text-anchor=\"{anchor}\">{}</text>\n",
            style.size,
            style.color,
            escaped(text)
        ));
    }

    /// The whole picture as a file.
    pub fn finish(self, width: f64, height: f64, background: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"DejaVu Sans\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"{background}\"/>\n{}</svg>\n",
            self.0
        )
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    points.iter().enumerate().fold(String::new(), |mut path, (index, (x, y))| {
        let _ = write!(path, "{}{x:.1},{y:.1}", if index == 0 { "M" } else { "L" });
        path
    })
}

/// About how wide a text is: letters of DejaVu Sans by their width.
pub fn width_of(text: &str, size: f64, bold: bool) -> f64 {
    let width = |c: char| match c {
        'i' | 'l' | 'j' | 'I' | '.' | ',' | ':' | ' ' | '\'' | '|' => 0.32,
        'f' | 't' | 'r' | '(' | ')' | '/' | '-' => 0.40,
        'm' | 'w' | 'M' | 'W' | '%' => 0.95,
        'A'..='Z' => 0.70,
        _ => 0.62,
    };
    text.chars().map(width).sum::<f64>() * size * if bold { 1.1 } else { 1.0 }
}

/// A text cut so that it fits, with an ellipsis where something is missing.
pub fn fitted(text: &str, size: f64, room: f64) -> String {
    if width_of(text, size, false) <= room {
        return text.to_owned();
    }
    let mut short: String = text.to_owned();
    while !short.is_empty() && width_of(&short, size, false) + size > room {
        short.pop();
    }
    short + "…"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_does_not_fit_is_cut() {
        assert_eq!(fitted("short", 10.0, 100.0), "short");
        let cut = fitted("_PyObject_MallocWithAVeryLongName", 10.0, 100.0);
        assert!(cut.ends_with('…') && width_of(&cut, 10.0, false) <= 105.0, "{cut}");
    }

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escaped("<a&b>"), "&lt;a&amp;b&gt;");
    }
}
