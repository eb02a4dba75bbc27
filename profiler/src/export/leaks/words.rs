//! Prose that fits a terminal, and figures in it.

use super::super::terminal::{Style, bytes, interval};
use crate::leaks::Estimate;

/// Text that goes on below where the terminal ends, indented; `indent` is that of its first line.
pub(super) fn prose(lines: &mut Vec<String>, indent: usize, text: &str, style: Style) {
    let plain = |word: &str| word.chars().count().saturating_sub(codes(word));
    let mut line = " ".repeat(indent);
    let mut shown = indent;
    for (number, word) in text.split(' ').enumerate() {
        let length = plain(word);
        if number > 0 && style.width > 0 && shown + 1 + length > style.width {
            let further = if indent < 12 { indent + 2 } else { indent };
            lines.push(std::mem::replace(&mut line, " ".repeat(further)));
            shown = further;
        } else if number > 0 {
            line.push(' ');
            shown += 1;
        }
        line.push_str(word);
        shown += length;
    }
    lines.push(line);
}

/// Characters of a text that set the look and take no place.
pub(super) fn codes(text: &str) -> usize {
    text.split('\x1b').skip(1).map(|code| 1 + code.find('m').map_or(0, |end| end + 1)).sum()
}

/// Whether there is no room for intervals in a table.
pub(super) const fn narrow(style: Style) -> bool {
    style.width > 0 && style.width < 110
}

/// An estimate, with its interval if there is room.
pub(super) fn in_room(estimate: Estimate, per: &str, style: Style) -> String {
    if narrow(style) { format!("{}{per}", bytes(estimate.value)) } else { interval(estimate, per) }
}

/// What lives. Of what was never drawn, only its most is known.
pub(super) fn living(estimate: Estimate) -> String {
    match estimate.high {
        _ if estimate.value > 0.0 => interval(estimate, ""),
        0.0 => "0 B".to_owned(),
        high if high.is_finite() => format!("less than {}", bytes(high)),
        _ => "unknown".to_owned(),
    }
}
