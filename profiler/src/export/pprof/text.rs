//! A heap profile as text, for people (`?debug=1`), in the shape that Go's own has.

use std::fmt::Write as _;

use super::{Row, Wish, changes, rows};
use crate::{leaks::Picture, stack::Frame};

/// Renders the sites as text, those with most live bytes first; against an earlier picture if there is one.
pub fn text(picture: &Picture, earlier: Option<&Picture>, wish: &Wish<'_>) -> String {
    let mut rows = match earlier {
        Some(earlier) => changes(picture, earlier, wish),
        None => rows(picture, wish),
    };
    rows.retain(|row| row.rounded() != [0; 4]);
    rows.sort_by_key(|row| std::cmp::Reverse(row.rounded()[3]));
    let mut sum = [0_i64; 4];
    for row in &rows {
        sum.iter_mut().zip(row.rounded()).for_each(|(sum, value)| *sum = sum.saturating_add(value));
    }
    let mut text = format!("heap profile: {} @ heapprofile\n", figures(sum));
    for row in &rows {
        // Writing to a string can't fail.
        let _infallible = one(&mut text, row);
    }
    text
}

fn figures([alloc_objects, alloc_space, inuse_objects, inuse_space]: [i64; 4]) -> String {
    format!("{inuse_objects}: {inuse_space} [{alloc_objects}: {alloc_space}]")
}

fn one(text: &mut String, row: &Row<'_>) -> std::fmt::Result {
    let values = row.rounded();
    // Bytes without blocks (of the other sites only the bytes are known) are an error to readers: a remark to them.
    let remark = if values[2] == 0 && values[3] != 0 || values[0] == 0 && values[1] != 0 { "# " } else { "" };
    write!(text, "{remark}{} @", figures(values))?;
    for frame in row.frames {
        write!(text, " {:#x}", frame.place.offset)?;
    }
    let site = if row.site.is_empty() { "other sites" } else { row.site };
    writeln!(text, "\n#\ttarget {}, site {site} {}", one_line(row.target), row.verdict)?;
    for frame in row.frames {
        lines(text, frame)?;
    }
    writeln!(text)
}

fn lines(text: &mut String, frame: &Frame) -> std::fmt::Result {
    let offset = frame.place.offset;
    if frame.functions.is_empty() {
        for name in frame.names() {
            writeln!(text, "#\t{offset:#x}\t{}", one_line(&name))?;
        }
    }
    for function in &frame.functions {
        write!(text, "#\t{offset:#x}\t{}", one_line(&function.name))?;
        match &function.file {
            Some(file) => writeln!(text, "\t{}:{}", one_line(file), function.line)?,
            None => writeln!(text, "\t{}", one_line(&frame.object))?,
        }
    }
    Ok(())
}

fn one_line(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
