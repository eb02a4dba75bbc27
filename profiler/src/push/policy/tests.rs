use super::*;

fn says(status: u16, body: &str) -> Answer {
    Answer { result: Ok(status), retry_after: None, location: None, body: body.to_owned() }
}

/// (all, lines) of a refusal.
fn rejected(api: Api, status: u16, body: &str, lines: &[&str]) -> (bool, Option<Vec<usize>>) {
    match meaning(api, &says(status, body), lines) {
        Meaning::Rejected { all, lines, .. } => (all, lines),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bodies_of_influxd_1_6_7_are_understood() {
    // As the real one wrote them.
    let lines = ["a v=1 100", "b v= 100", "c 100", "d,x= v=1 100"];
    let body = r#"{"error":"partial write: unable to parse 'b v= 100': missing field value\nunable to parse 'c 100': invalid field format\nunable to parse 'd,x= v=1 100': missing tag value dropped=0"}"#;
    assert_eq!(rejected(Api::V1, 400, body, &lines), (false, Some(vec![1, 2, 3])));
    let body = r#"{"error":"unable to parse 'a\\ b,c=d v=1 x': bad timestamp\nunable to parse 'e \"v=1': bad timestamp': invalid number"}"#;
    let lines = [r"a\ b,c=d v=1 x", r#"e "v=1': bad timestamp"#];
    assert_eq!(rejected(Api::V1, 400, body, &lines), (true, Some(vec![0, 1])));
    let body = r#"{"error":"partial write: field type conflict: input field \"v\" on measurement \"a\" is type integer, already exists as type float dropped=2"}"#;
    assert_eq!(rejected(Api::V1, 400, body, &["1", "2", "3"]), (false, None));
    assert_eq!(rejected(Api::V1, 400, body, &["1", "2"]), (true, None));
    let body = r#"{"error":"partial write: points beyond retention policy dropped=2"}"#;
    assert_eq!(rejected(Api::V1, 400, body, &["1", "2"]), (true, None));
}

#[test]
fn the_reason_is_shown_and_not_the_line_that_hides_it() {
    let body = format!(r#"{{"error":"unable to parse 'a{} v=1 x': bad timestamp"}}"#, "x".repeat(500));
    let Meaning::Rejected { reason, .. } = meaning(Api::V1, &says(400, &body), &["a"]) else { panic!() };
    assert_eq!(reason, r#"HTTP 400, "unable to parse: bad timestamp""#);
    let body = r#"{"error":"partial write of line protocol occurred","data":[{"original_line":"m v=5i 1","line_number":1,"error_message":"invalid column type"}]}"#;
    let Meaning::Rejected { reason, .. } = meaning(Api::V3, &says(400, body), &["a"]) else { panic!() };
    assert!(reason.ends_with("occurred: invalid column type\""), "{reason}");
}

#[test]
fn what_lines_say_is_not_taken_for_what_the_server_says() {
    for trap in ["too large", "max request size", "limit of 5 databases", "partial write dropped=2"] {
        let lines = [&format!("a v={trap} 1")[..], "b v=1 1"];
        let body = format!(r#"{{"error":"unable to parse '{}': invalid number"}}"#, lines[0]);
        assert_eq!(rejected(Api::V1, 400, &body, &lines), (false, Some(vec![0])), "{trap}");
    }
}

#[test]
fn bodies_that_are_cut_anywhere_never_name_a_line_that_the_whole_doesnt_name() {
    let lines: Vec<String> = (0..20).map(|at| format!("m,t=a{at} v=1x {at}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let bad: Vec<usize> = (0..20).filter(|at| at % 3 == 0).collect();
    let quotes: Vec<String> =
        bad.iter().map(|&at| format!("unable to parse '{}': invalid number", lines[at])).collect();
    let v1 = serde_json::json!({"error": quotes.join("\n")}).to_string();
    let data: Vec<_> = bad
        .iter()
        .map(|at| serde_json::json!({"original_line": lines[*at], "line_number": at + 1, "error_message": "x"}))
        .collect();
    let v3 = format!(
        r#"{{"error":"partial write of line protocol occurred","data":{}}}"#,
        serde_json::Value::from(data)
    );
    for (api, body) in [(Api::V1, v1), (Api::V3, v3)] {
        let mut most = 0;
        for end in 0..=body.len() {
            if let Meaning::Rejected { all, lines: named, .. } =
                meaning(api, &says(400, &body[..end]), &lines)
            {
                let named = named.unwrap_or_default();
                assert!(!all && named.iter().all(|at| bad.contains(at)), "{end}");
                most = most.max(named.len());
                assert!(end < body.len() || named == bad);
            }
        }
        assert_eq!(most, bad.len());
    }
}

#[test]
fn every_status_has_a_meaning_and_only_the_two_hundreds_acknowledge() {
    for status in 100..=999 {
        for body in ["", "x", r#"{"error":"x"}"#, "<p>", "too large"] {
            for api in [Api::V1, Api::V2, Api::V3] {
                let meaning = meaning(api, &says(status, body), &["a", "b"]);
                assert!(meaning != Meaning::Stored || (200..300).contains(&status), "{status}");
                assert!(
                    !matches!(meaning, Meaning::Rejected { .. }) || [400, 422].contains(&status),
                    "{status}"
                );
            }
        }
    }
}

#[test]
fn pauses_grow_to_the_cap_never_fall_below_the_floor_and_differ_between_processes() {
    let (floor, cap) = (Duration::from_secs(1), Duration::from_secs(60));
    let pauses = |seed| {
        let mut backoff = Backoff::new(floor, cap, seed);
        (0..200).map(|_| backoff.next(None)).collect::<Vec<_>>()
    };
    for seed in 0..50 {
        for (failure, pause) in pauses(seed).into_iter().enumerate() {
            let most = floor.saturating_mul(1 << failure.min(6)).min(cap);
            assert!((floor..=most).contains(&pause), "{failure} {pause:?}");
        }
    }
    assert_ne!(pauses(1), pauses(2));
    let late: Vec<f64> = pauses(3)[100..].iter().map(Duration::as_secs_f64).collect();
    let mean = late.iter().sum::<f64>() / late.len() as f64;
    assert!((20.0..40.0).contains(&mean), "anywhere below the cap: {mean}");
    let mut backoff = Backoff::new(floor, cap, 4);
    assert_eq!(backoff.next(Some(Duration::from_secs(90))), Duration::from_secs(90));
    assert_eq!(backoff.next(Some(Duration::MAX)), LONGEST_WISH);
    for _ in 0..100 {
        backoff.next(None);
    }
    backoff.reset();
    assert_eq!(backoff.next(None), floor);
    assert_eq!(backoff.misconfigured(), Duration::from_secs(60));
}

#[test]
fn a_failure_of_the_server_itself_is_waited_for_and_no_line_can_look_like_one() {
    // As the real one (1.6.7) wrote them, or as they are in its source.
    for (api, words) in [
        (Api::V1, "engine: cache-max-memory-size exceeded: (6400/3000)"),
        (
            Api::V2,
            "unexpected error writing points to database: engine: cache-max-memory-size exceeded: (1074000000/1073741824)",
        ),
        (Api::V1, "timeout"),
        (Api::V2, "unexpected error writing points to database: timeout"),
        (Api::V1, "write failed"),
        (Api::V1, "engine is closed"),
        (Api::V1, "[shard 3] engine is closed"),
        (Api::V1, "shard is disabled"),
        (Api::V1, "shard not found"),
        (
            Api::V1,
            "engine: error writing WAL entry: write /w/db/autogen/3/_00001.wal: no space left on device",
        ),
        (Api::V1, "engine: open /d/3/fields.idxl: too many open files"),
        (Api::V1, "meta service unavailable"),
        (Api::V3, "Read-only file system (os error 30)"),
    ] {
        let body = serde_json::json!({"error": words}).to_string();
        let meaning = meaning(api, &says(500, &body), &["a", "b"]);
        assert!(matches!(meaning, Meaning::Later { .. }), "{words}: {meaning:?}");
    }
    for words in [
        "",
        "stream did not contain valid UTF-8",
        "panic: index out of range",
        "engine: field \"no space left on device\" of \"timeout\"",
        "engine: can't store 'x: timeout'",
        "unable to parse 'a v=shard not found 1': x",
        "timeouts: no such table",
    ] {
        let body = serde_json::json!({"error": words}).to_string();
        let meaning = meaning(Api::V1, &says(500, &body), &["a", "b"]);
        assert!(matches!(meaning, Meaning::Broken { .. }), "{words}: {meaning:?}");
    }
}

#[test]
fn a_limit_of_series_is_a_setting_and_no_fault_of_lines() {
    for words in [
        "partial write: max-series-per-database limit exceeded: (1000) dropped=2",
        r#"partial write: max-values-per-tag limit exceeded (200/200): measurement="m" tag="t" value="v" dropped=2"#,
    ] {
        let body = serde_json::json!({"error": words}).to_string();
        for (api, status) in [(Api::V1, 400), (Api::V2, 422)] {
            let meaning = meaning(api, &says(status, &body), &["a", "b"]);
            let Meaning::Misconfigured { reason } = meaning else { panic!("{meaning:?}") };
            assert!(reason.contains("limit exceeded") && reason.contains("no new series"), "{reason}");
        }
    }
    let trap = r#"{"error":"partial write: field type conflict: input field \"v\" on measurement \"max-values-per-tag limit exceeded\" is type integer, already exists as type float dropped=2"}"#;
    assert_eq!(rejected(Api::V1, 400, trap, &["1", "2"]), (true, None));
}

#[test]
fn who_took_too_long_or_has_no_room_gets_less_next_time() {
    let smaller = |answer: &Answer| match meaning(Api::V1, answer, &["a"]) {
        Meaning::Later { smaller, broke_off: false, .. } => smaller,
        other => panic!("{other:?}"),
    };
    assert!(smaller(&Answer::failed(crate::push::policy::Failure::Timeout(String::new()))));
    assert!(!smaller(&Answer::failed(crate::push::policy::Failure::Unreachable(String::new()))));
    for (status, body, wanted) in [
        (504, "", true),
        (408, "", true),
        (500, r#"{"error":"timeout"}"#, true),
        (500, r#"{"error":"engine: cache-max-memory-size exceeded: (144130/100000)"}"#, true),
        (500, r#"{"error":"engine is closed"}"#, false),
        (503, "", false),
        (429, "", false),
    ] {
        assert_eq!(smaller(&says(status, body)), wanted, "{status}");
    }
}
