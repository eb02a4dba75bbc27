//! `leaks --history` without a process: what a history has kept. Nothing is touched but that file, which is only read.

use std::{io::Write as _, path::Path, process::ExitCode, time::SystemTime};

use anyhow::{Context as _, bail};

use crate::{
    cli::Look,
    export::{comparison, json, leaks},
    history::{History, Moment, Told, compare},
    leaks::Picture,
    screen::SCREEN,
};

/// Shows the last picture of a history, or two side by side.
///
/// # Errors
///
/// If a history can't be read or has nothing in it.
pub fn run(look: &Look) -> anyhow::Result<ExitCode> {
    let style = SCREEN.style();
    let text = match &look.compared {
        None => {
            let (picture, told) = picture(&look.history, Moment::Last)?;
            if look.json {
                format!("{}\n", json::leaks(&picture)?)
            } else {
                format!("{}\n{}", leaks::kept(&told, style), leaks::render(&picture, style, look.top))
            }
        }
        Some(compared) => {
            let (before, _) = picture(&look.history, compared.from)?;
            let (after, _) = picture(compared.against.as_deref().unwrap_or(&look.history), compared.to)?;
            let comparison = compare(&before, &after, compared.by);
            if look.json {
                comparison::json(&comparison)?
            } else {
                comparison::render(&comparison, style, look.top)
            }
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("can't print"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn picture(path: &Path, moment: Moment) -> anyhow::Result<(Picture, Told)> {
    let history = History::read(path)?;
    let told = history.told()?;
    let Some(range) = told.range else { bail!("the history {} has no picture yet", path.display()) };
    let at = moment.resolve(range, SystemTime::now());
    let picture = history.picture_at(at)?;
    Ok((picture.with_context(|| format!("the history {} has no picture yet", path.display()))?, told))
}
