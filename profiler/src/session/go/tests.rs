//! What is lost while a process is read is counted for that process.

use std::sync::mpsc::channel;

use super::*;

fn room() -> GoRoom {
    GoRoom::new(config::Go { read: true, view: View::default(), stops: false }, Duration::from_secs(1))
}

fn own() -> Arc<Process> {
    Arc::new(Process::open(std::process::id()).unwrap())
}

fn restless(held_back: HeldBack) -> Answer {
    Answer {
        program: None,
        figures: Err(GoError::Restless(2)),
        held_back,
        profile: None,
        read_at: Instant::now(),
        took: Duration::ZERO,
        profile_took: Duration::ZERO,
    }
}

#[test]
fn what_was_held_back_is_counted_even_if_the_reading_failed_and_stays_after_execve() {
    let (mut room, process) = (room(), own());
    let mut watch = GoWatch::default();
    watch.take(restless(HeldBack { jumps: 1, counters: 2 }), Instant::now());
    watch.take(restless(HeldBack { jumps: 3, counters: 0 }), Instant::now());
    let told = GoLosses { readings_repeated: 4, counters_held_back: 2, ..GoLosses::default() };
    assert_eq!(watch.part(&process).losses, told);
    assert!(watch.replaced(&mut room, &process).is_none());
    assert_eq!(watch.part(&process).losses, told, "a counter doesn't fall");
}

#[test]
fn a_thread_that_hangs_is_lost_for_the_process_that_it_was_to_read() {
    let (mut room, process) = (room(), own());
    let (mut hangs, mut fine) = (GoWatch::default(), GoWatch::default());
    let (release, hang) = channel::<()>();
    let failed = || Err(GoError::Memory("as the test wants it".to_owned()));
    hangs.ask(&mut room, Instant::now(), move || hang.recv().map_or_else(|_| failed(), |()| failed()));
    fine.ask(&mut room, Instant::now(), failed);
    let lost = |watch: &GoWatch| watch.part(&process).losses.readers_lost;
    assert_eq!((lost(&hangs), lost(&fine)), (1, 0));
    drop(release);
}

#[test]
fn why_a_process_is_not_described_is_told_in_one_word_and_in_words() {
    let process = own();
    let mut watch = GoWatch::default();
    watch.not_described(&NotDescribed::Late { pid: 7, patience: Duration::from_secs(30) });
    let program = watch.part(&process).program.unwrap();
    assert_eq!((program.trouble[0].what, program.trouble[0].kind), ("program", "late"));
    let words = program.trouble().unwrap();
    assert_eq!(words, "process 7 is not described: no answer within 30 s from a file or directory of its");
}
