//! The thread that writes batches to the spool. A disk that is full or hangs holds up nobody else.

use std::time::Duration;

use super::{
    board::{Board, Stage},
    spool::{Spool, SpoolError},
};

/// A disk that has refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Writes until the end.
pub fn run(spool: &Spool, board: &Board) {
    write(spool, board);
    board.keeps_on(false);
}

fn write(spool: &Spool, board: &Board) {
    while let Some(batch) = board.next_to_keep() {
        match spool.append(batch.time, batch.points, &batch.text) {
            Ok(id) => {
                if !board.kept(&batch, id) {
                    // It has been acknowledged already; if it can't be removed it is sent once more.
                    let _removed = spool.remove(id);
                }
            }
            Err(error @ (SpoolError::Unfit { .. } | SpoolError::TooLarge { .. })) => {
                // No disk will ever take it, and others wait behind it.
                tracing::error!("{error}: {} points are given up", batch.points);
                board.give_up(&batch);
            }
            Err(error) => {
                if board.disk_failed() {
                    tracing::error!(
                        "{error}: points wait in memory, where a kill loses them; tried again every {AGAIN:?}"
                    );
                }
                if matches!(board.stage(), Stage::Draining(_) | Stage::Over) {
                    return;
                }
                board.wait_for_window(std::time::Instant::now() + AGAIN);
            }
        }
    }
}
