//! A flame graph as SVG: one file that needs nothing else. Roots are at the top; colours are verdicts.
//!
//! Without its script it is a picture with tooltips; with it, a click shows one box in full width and names can be searched.

mod layout;

use std::fmt::Write as _;

use self::layout::{Node, Stacks};
use super::{
    html::{escape, shortened},
    terminal::bytes,
    weigh::Weight,
};
use crate::leaks::TargetReport;

/// Boxes drawn at most, and as many more for what is left out: about 300 bytes each.
const MAX_BOXES: usize = 2_500;

/// Width of the picture.
const WIDTH: f64 = 1200.0;

/// A box that is narrower isn't drawn.
const MIN_WIDTH: f64 = 0.6;

/// Height of a box, and of what is above the first.
const ROW: usize = 18;
const HEAD: usize = 50;

/// Characters of a name in a tooltip, and width of one in a box.
const NAME_LIMIT: usize = 300;
const CHARACTER: f64 = 6.6;

const STYLE: &str = include_str!("flamegraph/style.css");
const SCRIPT: &str = include_str!("flamegraph/script.js");

/// Renders a target's sites by one of their figures. The size is bounded whatever there is to show: under 2 MB.
pub fn render(target: &TargetReport, weight: Weight) -> String {
    let stacks = Stacks::new(target, weight);
    let whole = stacks.whole();
    let total = whole.value();
    let boxes = if total > 0.0 { stacks.boxes(total * MIN_WIDTH / WIDTH, MAX_BOXES) } else { Vec::new() };
    let depth = boxes.iter().map(|node| node.depth + 1).max().unwrap_or(1);
    let height = HEAD + depth * ROW + 26;
    let name = escape(&shortened(&target.target, NAME_LIMIT));
    let mut text = String::with_capacity(boxes.len() * 320 + 8192);
    // Writing to a string can't fail.
    let _infallible = write!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"fg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"flame graph of {name}\"><style>{STYLE}</style>\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\
         <text class=\"title\" x=\"4\" y=\"17\">{name} &#183; {}: {}</text>",
        weight.title(),
        shown(total, weight),
    );
    legend(&mut text);
    if boxes.is_empty() {
        let _infallible =
            write!(text, "<text x=\"4\" y=\"{}\">Nothing to show: no site has any.</text>", HEAD + 13);
    }
    for node in &boxes {
        draw(&mut text, &stacks, node, total, weight);
    }
    let _infallible = writeln!(
        text,
        "<text class=\"small\" x=\"4\" y=\"{}\">Callers are above callees. Estimates from samples. What is narrower than {:.2} % isn&#39;t drawn, \
         or is drawn together.</text><script><![CDATA[{SCRIPT}]]></script></svg>",
        height - 9,
        MIN_WIDTH / WIDTH * 100.0,
    );
    text
}

fn legend(text: &mut String) {
    let words =
        [("leak", "leaking"), ("grow", "growing"), ("calm", "steady or unjudged"), ("rest", "left out")];
    let mut x = 4.0;
    for (class, word) in words {
        let _infallible = write!(
            text,
            "<rect class=\"{class}\" x=\"{x:.0}\" y=\"27\" width=\"12\" height=\"12\"/><text class=\"small\" x=\"{:.0}\" y=\"37\">{word}</text>",
            x + 17.0
        );
        x += 36.0 + word.len() as f64 * CHARACTER;
    }
    let _infallible = write!(
        text,
        "<text class=\"reset tool\" x=\"{}\" y=\"17\" hidden=\"hidden\">whole</text>\
        <text class=\"search tool\" x=\"{}\" y=\"17\" hidden=\"hidden\">search</text>\
        <text class=\"found small\" x=\"{}\" y=\"37\" text-anchor=\"end\"></text>",
        WIDTH - 120.0,
        WIDTH - 60.0,
        WIDTH - 4.0
    );
}

/// One box with its tooltip, and its name as far as there is room.
fn draw(text: &mut String, stacks: &Stacks, node: &Node, total: f64, weight: Weight) {
    let (x, width) = (node.before / total * WIDTH, node.value() / total * WIDTH);
    let y = HEAD + node.depth * ROW;
    let named = node.name.and_then(|name| stacks.names.get(name as usize));
    let name = match named {
        Some(name) => name.as_str(),
        None if node.depth == 0 => "all",
        None => "[smaller ones, left out]",
    };
    let share = |part: f64, of: f64| if of > 0.0 { part / of * 100.0 } else { 0.0 };
    let mut told = format!(
        "{}: {}, {:.2} %",
        shortened(name, NAME_LIMIT),
        shown(node.value(), weight),
        share(node.value(), total)
    );
    for (part, word) in node.parts.iter().zip(["leaking", "growing"]) {
        if *part > 0.0 {
            let _infallible = write!(told, "; {:.0} % of it {word}", share(*part, node.value()));
        }
    }
    let _infallible = write!(
        text,
        "<g class=\"box {}\"><title>{}</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\"/>",
        class(node, named.is_some()),
        escape(&told),
        ROW - 1
    );
    let room = ((width - 6.0) / CHARACTER) as usize;
    if room >= 3 {
        let label = escape(&shortened(name, room));
        let _infallible = write!(text, "<text x=\"{:.2}\" y=\"{}\">{label}</text>", x + 3.0, y + 13);
    }
    text.push_str("</g>");
}

/// A box has the colour of what makes up half of it.
fn class(node: &Node, named: bool) -> &'static str {
    let half = node.value() / 2.0;
    match node.parts {
        _ if !named && node.depth > 0 => "rest",
        [leaking, ..] if leaking >= half => "leak",
        [leaking, growing, _] if leaking + growing >= half => "grow",
        _ => "calm",
    }
}

fn shown(value: f64, weight: Weight) -> String {
    match weight {
        Weight::Live | Weight::Allocated => bytes(value),
        Weight::Lost => format!("{}/s", bytes(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::picture;

    #[test]
    fn boxes_have_the_colour_of_their_verdict_and_a_legend_says_what_it_means() {
        let svg = render(&picture::realistic().targets[0], Weight::Live);
        assert!(svg.contains("<g class=\"box leak\"><title>operator new(unsigned long): 3.5 MiB, 25.88 %; 100 % of it leaking</title>"), "{svg}");
        assert!(svg.contains("<g class=\"box grow\"><title>strdup: 1.8 MiB"), "{svg}");
        assert!(svg.contains("<g class=\"box calm\"><title>Pool&lt;Connection&gt;::take: 8.0 MiB"), "{svg}");
        for word in ["leaking", "growing", "steady or unjudged", "left out"] {
            assert!(svg.contains(&format!(">{word}</text>")), "{word}");
        }
    }

    #[test]
    fn hostile_names_are_text_and_nothing_is_loaded_from_elsewhere() {
        for weight in Weight::ALL {
            let mut target = picture::realistic().targets.remove(0);
            target.target = "</svg><script>]]>".into();
            let svg = render(&target, weight);
            assert_eq!(svg.matches("<script").count(), 1, "only our own");
            assert_eq!(svg.matches("]]>").count(), 1);
            assert_eq!(svg.matches("</svg>").count(), 1);
            assert!(!svg.contains('\0') && !svg.contains('\u{202e}'));
            let elsewhere = svg.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("http:") && !elsewhere.contains("https:") && !elsewhere.contains("url("),
                "{svg}"
            );
        }
    }

    #[test]
    fn a_target_without_sites_says_so() {
        let svg = render(&picture::realistic().targets[1], Weight::Live);
        assert!(svg.contains("Nothing to show"));
    }

    #[test]
    fn its_size_is_bounded_whatever_there_is() {
        let target = picture::huge(4_000, 128);
        let svg = render(&target, Weight::Live);
        assert!(svg.len() < 2 << 20, "{} bytes", svg.len());
        assert!(svg.contains("left out]: "), "and what isn't drawn is said");
    }
}
