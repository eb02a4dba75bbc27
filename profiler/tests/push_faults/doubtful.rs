//! Servers that fail (500): on some lines, on everything, or because they have too much to do.

use std::time::Duration;

use profiler::push::delivery::Outcome;

use super::{
    Push,
    fault_server::{Act, Play, points::V1},
    good, misconfigured,
};

/// What was left, and whether anybody has to wait for it.
fn left(outcome: Outcome) -> (String, bool) {
    match outcome {
        Outcome::Done => (String::new(), false),
        Outcome::Later { rest, .. } => (rest, true),
        Outcome::Doubtful { rest, .. } => (rest, false),
        Outcome::Misconfigured { reason, .. } => panic!("{reason}"),
    }
}

/// What a caller does, ten seconds for each window: what failed is sent with what is new, what is doubtful a minute later.
#[derive(Default)]
struct Caller {
    backlog: String,
    doubtful: String,
    doubtful_until: Duration,
    requests: u64,
}

impl Caller {
    fn window(&mut self, push: &mut Push, lines: &[String]) {
        push.waited += Duration::from_secs(10);
        let mut text = lines.join("\n");
        if !self.backlog.is_empty() {
            text = format!("{}\n{text}", std::mem::take(&mut self.backlog));
        }
        if !self.doubtful.is_empty() && push.waited >= self.doubtful_until {
            text = format!("{text}\n{}", std::mem::take(&mut self.doubtful));
        }
        let delivered = push.deliver(&text);
        self.requests += delivered.requests;
        match left(delivered.outcome) {
            (rest, true) => self.backlog = rest,
            (rest, false) if rest.is_empty() => {}
            (rest, false) => {
                assert!(delivered.stored > 0, "the server is well");
                if self.doubtful.is_empty() {
                    self.doubtful_until = push.waited + Duration::from_secs(60);
                    self.doubtful = rest;
                } else {
                    // New ones don't put off the old ones.
                    self.doubtful = format!("{}\n{rest}", self.doubtful);
                }
            }
        }
    }
}

fn window(at: usize) -> Vec<String> {
    (0..40).map(|line| format!("m{},pid={line} v={at}i {}", line % 4, at * 1_000 + line)).collect()
}

fn poisoned(at: usize) -> String {
    format!("m1,name=poison v=1i {at}")
}

#[test]
fn a_poisoned_line_in_every_window_stops_nothing() {
    for play in [V1, Play::V2, Play::V3] {
        let mut push = Push::to(play);
        push.server.poison_with("poison");
        let mut caller = Caller::default();
        for at in 0..120 {
            let mut lines = window(at);
            lines.insert(at % 40, poisoned(at));
            caller.window(&mut push, &lines);
            if at >= 4 {
                assert!(caller.backlog.is_empty(), "{play:?} {at}: nobody waits");
                assert!(window(at).iter().all(|line| push.server.store(|store| store.has(line))), "{at}");
            }
        }
        for at in 120..180 {
            caller.window(&mut push, &window(at));
        }
        assert!((0..180).flat_map(window).all(|line| push.server.store(|store| store.has(&line))));
        let mut wanted: Vec<String> = (0..120).map(poisoned).collect();
        wanted.sort();
        let mut aside = push.aside();
        aside.sort_unstable();
        assert_eq!(aside, wanted, "{play:?}");
        assert!(caller.requests < 180 * 25, "{play:?}: {}", caller.requests);
    }
}

#[test]
fn a_poisoned_backlog_beside_good_new_lines_is_found_out() {
    let mut push = Push::to(V1);
    push.server.poison_with("poison");
    let mut lines = good(2_000);
    for at in 0..3 {
        lines.insert(at * 700, poisoned(at));
    }
    let mut rest = lines.join("\n");
    for round in 0..30 {
        let delivered = push.deliver(&rest);
        if round < 4 {
            assert_eq!((delivered.requests, delivered.stored), (1, 0), "five tries");
        }
        let (next, waits) = left(delivered.outcome);
        rest = next;
        if !waits {
            break;
        }
        // The others are stored meanwhile, whole.
        assert_eq!(push.deliver(&window(round).join("\n")).outcome, Outcome::Done);
    }
    assert_eq!(rest.lines().count(), 3, "{rest}");
    assert!(good(2_000).iter().all(|line| push.server.store(|store| store.has(line))));
    // Alone they are never set aside, among others after four minutes at the earliest.
    for minute in 0_u64.. {
        push.waited += Duration::from_secs(60);
        let delivered = push.deliver(&rest);
        assert!(delivered.quarantined == 0 && delivered.requests <= 3);
        let delivered = push.deliver(&format!("{rest}\nother v=1i {minute}"));
        assert!(delivered.requests <= 4, "they come last, by themselves: {delivered:?}");
        if delivered.outcome == Outcome::Done {
            assert_eq!((minute, delivered.quarantined), (3, 3));
            break;
        }
        assert!(matches!(delivered.outcome, Outcome::Doubtful { .. }) && delivered.quarantined == 0);
    }
}

#[test]
fn an_overloaded_server_that_takes_small_windows_only_makes_nobody_set_the_backlog_aside() {
    for play in [V1, Play::V2] {
        let mut push = Push::to(play);
        push.server.overload(Some(50));
        let backlog = good(1_000).join("\n");
        for round in 0..60 {
            push.waited += Duration::from_secs(60);
            let delivered = push.deliver(&backlog);
            let Outcome::Later { rest, reason, .. } = &delivered.outcome else { panic!("{delivered:?}") };
            assert!(*rest == backlog && reason.contains("cache-max-memory-size"), "{reason}");
            assert_eq!(delivered.requests, 1, "it isn't made worse");
            assert_eq!(push.deliver(&window(round).join("\n")).outcome, Outcome::Done);
        }
        push.server.overload(None);
        assert_eq!(push.deliver(&backlog).outcome, Outcome::Done);
        assert_eq!(push.aside(), Vec::<&str>::new());
    }
}

#[test]
fn an_overload_in_words_that_nobody_knows_sets_nothing_aside_either() {
    let mut push = Push::to(V1);
    let lines = good(300).join("\n");
    for round in 0..40 {
        push.waited += Duration::from_secs(60);
        push.server.always(Act::Say(500, Vec::new(), r#"{"error":"the moon is full"}"#.to_owned()));
        assert_eq!(push.deliver(&lines).stored, 0);
        push.server.always(Act::Serve);
        assert_eq!(push.deliver(&window(round).join("\n")).outcome, Outcome::Done);
    }
    assert_eq!(push.deliver(&lines).outcome, Outcome::Done);
    assert_eq!(push.aside(), Vec::<&str>::new());
}

#[test]
fn a_limit_of_series_sets_nothing_aside_and_is_a_setting() {
    let mut push = Push::to(V1);
    let known = window(0);
    assert_eq!(push.deliver(&known.join("\n")).outcome, Outcome::Done);
    push.server.limit_series(known.len());
    let mut lines = window(1);
    lines.insert(7, "m1,pid=new v=1i 1".to_owned());
    let text = lines.join("\n");
    for text in [text.as_str(), "m1,pid=new v=1i 1"] {
        let delivered = push.deliver(text);
        assert!(misconfigured(&delivered).contains("max-series-per-database"), "{delivered:?}");
        assert!(matches!(&delivered.outcome, Outcome::Misconfigured { rest, .. } if rest == text));
        assert_eq!((delivered.requests, delivered.quarantined), (1, 0));
    }
    assert!(
        window(1).iter().all(|line| push.server.store(|store| store.has(line))),
        "known series are stored"
    );
    push.server.limit_series(1_000);
    assert_eq!(push.deliver(&text).outcome, Outcome::Done);
    assert_eq!(push.aside(), Vec::<&str>::new());
}
