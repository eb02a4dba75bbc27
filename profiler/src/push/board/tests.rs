use std::time::SystemTime;

use super::*;

fn batch(points: u32, bytes: usize) -> Batch {
    Batch { time: SystemTime::now(), after: None, points, text: "x".repeat(bytes) }
}

fn id(sequence: u32) -> BatchId {
    BatchId { time_ns: 1, sequence, points: 1 }
}

/// What the disk is to do now.
fn work(board: &Board) -> Work {
    board.next_for_disk(Instant::now()).expect("it isn't over")
}

/// The batch that the disk is to write now.
fn to_write(board: &Board) -> Arc<Batch> {
    match work(board) {
        Work::Append(batch) => batch,
        work => panic!("{work:?}"),
    }
}

/// A board with somebody who works for the disk.
fn with_disk() -> Board {
    let board = Board::default();
    board.disk(true);
    board
}

#[test]
fn a_full_memory_gives_up_the_oldest_that_nobody_holds_and_counts_it() {
    let board = Board::default();
    for _ in 0..4 {
        board.add(batch(7, MEMORY / 3));
    }
    let figures = board.figures();
    assert_eq!((figures.backlog_points, figures.dropped.memory_full), (21, 7));
    assert!(figures.memory_bytes <= MEMORY as u64);
    let held = board.only_in_memory().0.unwrap();
    board.add(batch(1, MEMORY + 1));
    assert_eq!(board.figures().dropped.memory_full, 21, "but for what is being sent");
    board.sent(&held, None);
    assert_eq!(board.figures().backlog_points, 1, "one that is too large alone has its chance");
}

#[test]
fn what_was_sent_from_memory_while_the_disk_wrote_it_goes_again() {
    let board = with_disk();
    board.add(batch(1, 1));
    let first = to_write(&board);
    assert!(board.only_in_memory().0.is_none(), "the disk takes it");
    assert!(board.disk_failed(), "it took the one before");
    assert!(!board.disk_failed());
    let sending = board.only_in_memory().0.unwrap();
    board.sent(&sending, None);
    assert!(!board.kept(&first, id(1)));
    assert!(!board.holds());
    // The other way round: it is on disk when the answer comes.
    board.add(batch(2, 2));
    let second = to_write(&board);
    board.disk_failed();
    let sending = board.only_in_memory().0.unwrap();
    assert!(board.kept(&second, id(2)));
    board.sent(&sending, Some(batch(1, 1)));
    assert!(
        matches!(work(&board), Work::Carry(Order::Replace(ids, rest)) if ids == [id(2)] && rest.points == 1)
    );
    assert!(!board.holds());
}

#[test]
fn what_is_kept_is_sent_first_and_only_so_much_of_it() {
    let board = with_disk();
    for sequence in 0..FRESH as u32 + 2 {
        board.add(batch(1, 1));
        assert!(board.kept(&to_write(&board), id(sequence)));
    }
    let two = board.take_fresh(2, 100).unwrap();
    assert_eq!(
        (two.ids.clone(), two.points, two.text.as_str()),
        (vec![id(2), id(3)], 2, "xx"),
        "the older ones are backlog"
    );
    // What is under way, and what is next, isn't read as backlog.
    assert!(board.take_backlog().is_none());
    let Work::Read(passed) = work(&board) else { panic!("it was asked for") };
    assert_eq!(passed.len(), FRESH);
    board.offer(Some(Chunk { ids: vec![id(0)], points: 1, text: "x".to_owned(), doubtful: false }));
    board.dealt_with([Order::Remove(two.ids)]);
    assert!(matches!(work(&board), Work::Carry(Order::Remove(ids)) if ids.len() == 2));
    assert_eq!(board.take_backlog().unwrap().ids, [id(0)]);
}

#[test]
fn a_backlog_that_cannot_be_read_is_not_asked_for_at_once_again() {
    let board = with_disk();
    assert!(board.take_backlog().is_none());
    assert!(matches!(work(&board), Work::Read(_)));
    board.offer(None);
    assert!(board.take_backlog().is_none());
    assert!(matches!(work(&board), Work::Tend), "nothing is to be done");
}

#[test]
fn a_disk_that_hangs_is_told_once_and_what_it_holds_is_sent_from_memory() {
    let board = with_disk();
    board.add(batch(3, 1));
    let held = to_write(&board);
    assert_eq!(board.only_in_memory(), (None, false));
    board.lock().busy_since = Instant::now().checked_sub(PATIENCE * 2);
    let (batch, tell) = board.only_in_memory();
    assert!(tell && Arc::ptr_eq(&batch.unwrap(), &held));
    assert!(!board.only_in_memory().1, "once");
    assert_eq!(board.figures().spool_failures, 1);
}

#[test]
fn what_the_server_fails_on_waits_and_holds_up_nobody() {
    let board = Board::default();
    board.add(Batch { after: Some(Instant::now() + Duration::from_secs(60)), ..batch(1, 1) });
    assert!(board.only_in_memory().0.is_none());
    board.add(batch(2, 1));
    assert_eq!(board.only_in_memory().0.unwrap().points, 2);
}

#[test]
fn the_end_comes_in_order_and_wakes_everybody() {
    let board = with_disk();
    let far = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| board.next_for_disk(far).is_none());
        let waiter = scope.spawn(|| board.wait_for_window(far));
        board.close(Some(crate::test_support::moment::snapshot(Vec::new())), Instant::now());
        assert!(waiter.join().unwrap(), "woken long before its time");
        assert!(board.take_last().is_some() && board.take_last().is_none());
        board.closed();
        assert!(matches!(board.stage(), Stage::Draining(_)));
        board.over();
        assert!(keeper.join().unwrap(), "nothing more comes");
        board.disk(false);
    });
    board.wait_until_over(Duration::from_secs(60));
}

#[test]
fn the_end_waits_for_the_disk_but_not_for_ever() {
    const SLOW: Duration = Duration::from_millis(100);
    let board = with_disk();
    board.over();
    let began = Instant::now();
    board.wait_until_over(SLOW);
    assert!(began.elapsed() >= SLOW, "somebody still writes");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SLOW);
            board.disk(false);
        });
        board.wait_until_over(SLOW * 600);
    });
    assert!(began.elapsed() >= SLOW * 2 && began.elapsed() < SLOW * 300, "{:?}", began.elapsed());
}

#[test]
fn what_is_doubtful_goes_out_with_what_is_new_only() {
    let board = with_disk();
    assert!(board.take_backlog().is_none());
    board.offer(Some(Chunk { ids: vec![id(7)], points: 1, text: "d".to_owned(), doubtful: true }));
    assert!(board.take_backlog().is_none() && board.take_fresh(9, 9).is_none());
    board.add(batch(2, 1));
    assert!(board.kept(&to_write(&board), id(8)));
    let both = board.take_fresh(9, 9).unwrap();
    assert_eq!((both.ids.clone(), both.points, both.text.as_str()), (vec![id(8), id(7)], 3, "xd"));
    // Neither is read meanwhile.
    board.take_backlog();
    assert!(matches!(work(&board), Work::Read(passed) if passed == both.ids));
}
