//! The table of what InfluxDB 1.6.7, 2 and 3.6 do, row by row.

use std::time::Duration;

use profiler::push::{
    client::Api,
    delivery::{Delivered, Outcome, Wait},
};

use super::{
    PATIENCE, Push,
    fault_server::{Act, Play, Role, points::V1},
    good, misconfigured, token, user,
};

const ALL: [Play; 3] = [V1, Play::V2, Play::V3];

fn wait(delivered: &Delivered) -> Option<Duration> {
    match &delivered.outcome {
        Outcome::Later { wait: Wait::Backoff(at_least), .. } => *at_least,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_good_batch_is_one_request_packed_and_with_its_precision() {
    for (play, target) in ALL.into_iter().zip([
        "/write?db=leak%20hunt%2F1&precision=ns",
        "/api/v2/write?org=a%20company&bucket=leak%20hunt%2F1&precision=ns",
        "/api/v3/write_lp?db=leak%20hunt%2F1&precision=nanosecond",
    ]) {
        let mut push = Push::to(play);
        let lines = good(100);
        let delivered = push.deliver(&(lines.join("\n") + "\n"));
        assert_eq!((delivered.stored, delivered.requests, delivered.resent), (100, 1, 0));
        assert_eq!(delivered.outcome, Outcome::Done);
        let [seen] = &push.server.writes()[..] else { panic!("one request") };
        assert_eq!(seen.target, target);
        assert_eq!(seen.header("content-encoding"), Some("gzip"));
        assert_eq!(seen.body, lines.join("\n"));
    }
}

#[test]
fn nothing_is_sent_for_an_empty_batch() {
    for play in ALL {
        let mut push = Push::to(play);
        for text in ["", "\n", "\n\n"] {
            let delivered = push.deliver(text);
            assert_eq!((delivered.requests, delivered.outcome), (0, Outcome::Done));
        }
    }
}

#[test]
fn a_line_that_cant_be_read_is_set_aside_and_the_others_are_stored() {
    for play in ALL {
        for place in [0, 50, 100] {
            let mut push = Push::to(play);
            let mut lines = good(100);
            lines.insert(place, "m1,pid=,x=1 v=1 5".to_owned());
            let delivered = push.deliver(&lines.join("\n"));
            assert_eq!(delivered.outcome, Outcome::Done);
            assert_eq!(push.aside(), ["m1,pid=,x=1 v=1 5"], "{play:?}");
            assert!(push.aside[0].1.contains("400"), "{}", push.aside[0].1);
            assert!(delivered.requests <= 3, "{play:?} names it: {}", delivered.requests);
        }
    }
}

#[test]
fn a_conflict_of_types_is_set_aside_and_the_others_are_stored() {
    for play in ALL {
        let mut push = Push::to(play);
        push.deliver("m1 v=1.5 1");
        let mut lines = good(99);
        lines.retain(|line| !line.starts_with("m1"));
        lines.insert(40, "m1,pid=3 v=5i 5".to_owned());
        let delivered = push.deliver(&lines.join("\n"));
        assert_eq!(delivered.outcome, Outcome::Done, "{play:?}");
        assert_eq!(push.aside(), ["m1,pid=3 v=5i 5"]);
        assert!(delivered.requests <= 15, "{play:?}: {}", delivered.requests);
    }
}

#[test]
fn a_conflict_of_a_whole_measurement_is_found_in_few_requests() {
    for play in ALL {
        let mut push = Push::to(play);
        push.deliver("m1 v=1.5 1");
        let lines = good(4_500);
        let delivered = push.deliver(&lines.join("\n"));
        assert_eq!(delivered.outcome, Outcome::Done, "{play:?}");
        assert_eq!((delivered.stored, delivered.quarantined), (3_000, 1_500));
        assert!(push.aside.iter().all(|(line, _)| line.starts_with("m1")));
        // v3 names lines, but no more than are read of its answer.
        assert!(delivered.requests <= 12, "{play:?}: {}", delivered.requests);
    }
}

#[test]
fn an_unsigned_number_is_refused_by_a_v1_that_wasnt_built_for_it_only() {
    for (play, aside) in [(V1, 1), (Play::V1 { unsigned: true }, 0), (Play::V2, 0), (Play::V3, 0)] {
        let mut push = Push::to(play);
        let delivered = push.deliver("m0 v=1 1\nm1 v=5u 1\nm2 v=1 1");
        assert_eq!((delivered.quarantined, delivered.outcome), (aside, Outcome::Done));
    }
}

#[test]
fn whether_unsigned_numbers_are_taken_is_found_out_without_storing_anything() {
    for (play, takes) in
        [(V1, false), (Play::V1 { unsigned: true }, true), (Play::V2, true), (Play::V3, true)]
    {
        let mut push = Push::to(play);
        assert_eq!(push.client.knows_unsigned().unwrap(), takes, "{play:?}");
        assert!(push.server.store(|store| store.lines.is_empty()));
    }
    let mut push = Push::to(V1);
    push.server.always(Act::Say(204, Vec::new(), String::new()));
    assert!(!push.client.knows_unsigned().unwrap(), "VictoriaMetrics says nothing");
    push.server.always(Act::Say(404, Vec::new(), r#"{"error":"database not found: \"x\""}"#.to_owned()));
    assert_eq!(push.client.knows_unsigned().unwrap_err().result, Ok(404));
}

#[test]
fn an_unknown_database_is_a_wrong_setting_and_loses_nothing() {
    for play in [V1, Play::V2] {
        let mut role = Role::new(play);
        role.databases = vec!["other".to_owned()];
        let mut push = Push::with(role, |_| {}, PATIENCE);
        let text = good(10).join("\n");
        let delivered = push.deliver(&text);
        assert!(misconfigured(&delivered).contains("database"), "{delivered:?}");
        assert_eq!((delivered.requests, delivered.quarantined), (1, 0));
        push.server.role(|role| role.databases.clear());
        assert_eq!(push.deliver(&text).outcome, Outcome::Done);
    }
}

#[test]
fn one_database_too_many_on_v3_is_a_wrong_setting_and_loses_nothing() {
    let mut push = Push::to(Play::V3);
    let words = r#"{"error":"Adding a new database would exceed limit of 5 databases"}"#;
    push.server.plan([Act::Say(422, Vec::new(), words.to_owned())]);
    let delivered = push.deliver(&good(10).join("\n"));
    assert!(misconfigured(&delivered).contains("5 databases"));
    assert_eq!(push.aside(), Vec::<&str>::new());
}

#[test]
fn credentials_are_sent_as_each_generation_wants_them() {
    let wanted = ["Basic cm9vdDpzZTpjcmV0", "Token s3cret", "Bearer s3cret"];
    for (play, wanted) in ALL.into_iter().zip(wanted) {
        let credentials = if play == V1 { user("root", "se:cret") } else { token("s3cret") };
        let mut role = Role::new(play);
        role.authorization = Some(wanted.to_owned());
        let mut push = Push::with(role.clone(), |server| server.credentials = credentials, PATIENCE);
        assert_eq!(push.deliver("m v=1 1").outcome, Outcome::Done, "{play:?}");
        let mut push = Push::with(role, |_| {}, PATIENCE);
        let delivered = push.deliver("m v=1 1");
        assert!(misconfigured(&delivered).contains("401"), "{delivered:?}");
        push.server.plan([Act::Say(403, Vec::new(), play.error("no right"))]);
        let delivered = push.deliver("m v=1 1");
        assert!(misconfigured(&delivered).contains("403"), "{delivered:?}");
    }
}

#[test]
fn what_is_too_large_is_halved_until_it_fits_and_the_size_is_remembered() {
    for play in ALL {
        let mut role = Role::new(play);
        if play == V1 {
            role.most_packed = 1_024;
        } else {
            role.most_raw = 10_000;
        }
        let mut push = Push::with(role, |_| {}, PATIENCE);
        let delivered = push.deliver(&good(3_000).join("\n"));
        assert_eq!((delivered.outcome, delivered.stored), (Outcome::Done, 3_000), "{play:?}");
        let more: Vec<String> = good(6_000).split_off(3_000);
        let again = push.deliver(&more.join("\n"));
        assert!(again.requests <= delivered.requests, "{play:?}: {} {}", again.requests, delivered.requests);
        assert_eq!(push.aside(), Vec::<&str>::new());
    }
}

#[test]
fn a_single_line_that_is_too_large_is_set_aside() {
    for play in [Play::V2, Play::V3] {
        let mut role = Role::new(play);
        role.most_raw = 1_000;
        let mut push = Push::with(role, |_| {}, PATIENCE);
        let giant = format!("m,tag={} v=1 1", "x".repeat(2_000));
        let mut lines = good(50);
        lines.insert(20, giant.clone());
        push.deliver_all(&lines.join("\n"));
        assert_eq!(push.aside(), [giant], "{play:?}");
    }
}

#[test]
fn an_overloaded_server_is_left_alone_for_as_long_as_it_says() {
    let after = |value: &str| vec![("Retry-After", value.to_owned())];
    let date = vec![
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        ("Retry-After", "Sun, 06 Nov 1994 08:50:00 GMT".to_owned()),
    ];
    let text = good(10).join("\n");
    for play in ALL {
        for (status, headers, at_least) in [
            (503, Vec::new(), None),
            (429, Vec::new(), None),
            (502, Vec::new(), None),
            (504, Vec::new(), None),
            (429, after("7"), Some(7)),
            (429, after("100000"), Some(600)),
            (429, after("99999999999999999999999"), Some(600)),
            (503, date.clone(), Some(23)),
            (429, after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0)),
            (429, after("Fri, 06 Nov 2099 08:49:37 GMT"), Some(600)),
            (429, after("soon"), None),
            (429, after("-5"), None),
        ] {
            let mut push = Push::to(play);
            push.server.plan([Act::Say(status, headers, "request throttled, queue full\n".to_owned())]);
            let delivered = push.deliver(&text);
            assert_eq!((wait(&delivered), delivered.requests), (at_least.map(Duration::from_secs), 1));
            assert_eq!(push.deliver(&text).outcome, Outcome::Done);
        }
    }
}

#[test]
fn a_server_that_always_fails_makes_nobody_set_anything_aside() {
    let mut push = Push::to(V1);
    push.server.always(Act::Say(500, Vec::new(), r#"{"error":"panic: index out of range"}"#.to_owned()));
    for text in [good(2_000).join("\n"), "one v=1i 1".to_owned()] {
        for _ in 0..20 {
            let delivered = push.deliver(&text);
            assert!(delivered.requests <= 32);
            assert!(matches!(&delivered.outcome, Outcome::Later { rest, .. } if *rest == text));
        }
    }
    assert_eq!(push.aside(), Vec::<&str>::new());
    push.server.always(Act::Serve);
    assert_eq!(push.deliver(&good(2_000).join("\n")).outcome, Outcome::Done);
}

#[test]
fn a_refusal_that_isnt_about_lines_makes_nobody_set_any_aside() {
    for play in ALL {
        let mut push = Push::to(play);
        for words in
            ["invalid character in database name", "invalid precision", "organization name is required"]
        {
            push.server.always(Act::Say(400, Vec::new(), play.error(words)));
            for _ in 0..20 {
                let delivered = push.deliver(&good(50).join("\n"));
                assert!(
                    matches!(&delivered.outcome, Outcome::Later { reason, .. } if reason.contains(words))
                );
                push.deliver("other v=1 1");
            }
        }
        assert_eq!(push.aside(), Vec::<&str>::new());
        push.server.always(Act::Serve);
        assert_eq!(push.deliver(&good(50).join("\n")).outcome, Outcome::Done);
    }
}

#[test]
fn a_table_that_is_full_takes_no_other_lines_with_it() {
    let mut push = Push::to(Play::V3);
    push.server.fill("m1");
    let lines = good(300);
    push.deliver_all(&lines.join("\n"));
    assert_eq!(push.aside.len(), 100);
    assert!(
        push.aside.iter().all(|(line, reason)| line.starts_with("m1,") && reason.contains("500 columns"))
    );
}

#[test]
fn five_thousand_lines_that_are_all_too_old_are_one_request() {
    let mut push = Push::to(V1);
    push.server.keep_from(i64::MAX);
    let delivered = push.deliver(&good(5_000).join("\n"));
    assert_eq!((delivered.quarantined, delivered.requests, delivered.outcome), (5_000, 1, Outcome::Done));
}

#[test]
fn five_thousand_lines_that_cant_be_read_are_few_requests() {
    for play in ALL {
        let mut push = Push::to(play);
        let lines: Vec<String> = good(5_000).into_iter().map(|line| line.replace('i', "x")).collect();
        let delivered = push.deliver(&lines.join("\n"));
        assert_eq!((delivered.quarantined, delivered.outcome), (5_000, Outcome::Done), "{play:?}");
        assert!(delivered.requests <= 40, "{play:?}: {}", delivered.requests);
    }
}

#[test]
fn a_server_that_names_wrong_lines_makes_nobody_set_good_ones_aside() {
    let partial = |numbers: &[i64]| {
        let data: Vec<String> =
            numbers.iter().map(|at| format!(r#"{{"line_number":{at},"error_message":"x"}}"#)).collect();
        format!(r#"{{"error":"partial write of line protocol occurred","data":[{}]}}"#, data.join(","))
    };
    for numbers in [&[0][..], &[11], &[-1], &[i64::MAX], &[1, 1, 1], &[3, 7], &[], &[2, 400]] {
        let mut push = Push::to(Play::V3);
        push.server.plan([Act::Say(400, Vec::new(), partial(numbers))]);
        let delivered = push.deliver(&good(10).join("\n"));
        assert_eq!((delivered.stored, delivered.outcome), (10, Outcome::Done), "{numbers:?}");
    }
}

#[test]
fn batches_are_split_into_requests_of_five_thousand_lines_and_a_megabyte() {
    let mut push = Push::to(V1);
    let delivered = push.deliver(&good(12_001).join("\n"));
    assert_eq!((delivered.stored, delivered.requests), (12_001, 3));
    let long: Vec<String> = (0..300).map(|at| format!("m,a={} v=1 {at}", "x".repeat(9_990))).collect();
    let delivered = push.deliver(&long.join("\n"));
    assert_eq!(delivered.stored, 300);
    assert!(push.server.writes().iter().all(|seen| seen.body.len() <= 1_000_000));
    assert!(push.server.writes().iter().all(|seen| seen.body.lines().count() <= 5_000));
}

#[test]
fn who_speaks_the_wrong_dialect_stores_nothing_and_loses_nothing() {
    // v3 has the paths of v1 and v2, too, refuses all for one line there, and isn't spoken to through them.
    let mut push = Push::with(Role::new(Play::V3), |server| server.api = Some(Api::V1), PATIENCE);
    assert!(misconfigured(&push.deliver("m v=1 1")).contains("404"));
}
