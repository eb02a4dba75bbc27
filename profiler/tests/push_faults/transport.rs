//! What happens between two machines.

use std::time::{Duration, Instant};

use profiler::push::delivery::{Delivered, Outcome, Wait};

use super::{
    PATIENCE, Push,
    fault_server::{Act, Role, points::V1},
    good, misconfigured,
};

fn is_later(delivered: &Delivered) -> bool {
    matches!(delivered.outcome, Outcome::Later { wait: Wait::Backoff(None), .. }) && delivered.stored == 0
}

/// After the fault the same batch is stored, and nothing twice.
fn then_it_works(push: &mut Push, text: &str) {
    push.server.always(Act::Serve);
    let delivered = push.deliver(text);
    assert_eq!(delivered.outcome, Outcome::Done);
    assert_eq!(push.aside(), Vec::<&str>::new());
}

#[test]
fn no_answer_and_half_an_answer_are_no_acknowledgement() {
    let text = good(20).join("\n");
    for act in [
        Act::ResetAfter(0),
        Act::ResetAfter(10),
        Act::StoreThenClose,
        Act::StoreThenRaw(b"HTTP/1.1 20".to_vec()),
        Act::StoreThenRaw(b"HTTP/1.1 204 No Content".to_vec()),
        Act::StoreThenRaw(b"HTTP/1.1 204 No Content\r\nX-Influxdb-Build: O".to_vec()),
        Act::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Act::Raw(vec![0, 159, 146, 150, 13, 10, 13, 10]),
        Act::Raw(b"HTTP/1.1 2O4 No Content\r\n\r\n".to_vec()),
        Act::Raw(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ] {
        let mut push = Push::to(V1);
        push.server.always(act.clone());
        let delivered = push.deliver(&text);
        assert!(is_later(&delivered), "{act:?}: {delivered:?}");
        assert!(delivered.requests <= 3);
        then_it_works(&mut push, &text);
    }
}

#[test]
fn a_status_that_was_read_counts_whatever_comes_after_it() {
    let text = good(20).join("\n");
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\nwith a body\r\nthat isn't allowed",
        "HTTP/1.1 204 No Content\r\nContent-Length: 500\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.0 204 No Content\r\n\r\n",
    ] {
        let mut push = Push::to(V1);
        push.server.always(Act::StoreThenRaw(answer.as_bytes().to_vec()));
        let delivered = push.deliver(&text);
        assert_eq!((delivered.stored, delivered.requests), (20, 1), "{answer}");
        then_it_works(&mut push, &text);
    }
}

#[test]
fn a_refusal_that_was_cut_off_makes_nobody_set_lines_aside() {
    let text = good(20).join("\n");
    for answer in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{\"err",
        "HTTP/1.1 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n<html>The plain HTTP request was sent to HTTPS port</html>",
        "HTTP/1.1 422 Huh\r\n\r\n<html>unable to parse this</html>",
    ] {
        let mut push = Push::to(V1);
        push.server.always(Act::Raw(answer.as_bytes().to_vec()));
        let delivered = push.deliver(&text);
        misconfigured(&delivered);
        assert_eq!((delivered.requests, delivered.quarantined), (1, 0), "{answer}");
        then_it_works(&mut push, &text);
    }
}

#[test]
fn a_page_with_a_friendly_status_is_no_acknowledgement() {
    for body in ["<!DOCTYPE html><p>Please log in", r#"{"error": "timeout"}"#] {
        let mut push = Push::to(V1);
        push.server.plan([Act::Say(200, Vec::new(), body.to_owned())]);
        let delivered = push.deliver("m v=1 1");
        assert!(misconfigured(&delivered).contains("InfluxDB"));
    }
}

#[test]
fn redirects_are_not_followed_but_named() {
    for status in [301, 302, 303, 307, 308] {
        let mut push = Push::to(V1);
        let elsewhere = Push::to(V1);
        let to = format!("{}/write", elsewhere.server.url());
        push.server.always(Act::Say(status, vec![("Location", to.clone())], String::new()));
        assert!(misconfigured(&push.deliver("m v=1 1")).contains(&to));
        assert!(elsewhere.server.seen().is_empty());
    }
}

#[test]
fn silent_and_slow_servers_cost_no_more_than_the_time_allowed() {
    let text = good(20).join("\n");
    for act in [Act::Silence(Duration::from_secs(20)), Act::Trickle(Duration::from_millis(100))] {
        let mut push = Push::impatient(V1);
        push.server.always(act.clone());
        let began = Instant::now();
        let delivered = push.deliver(&text);
        assert!(is_later(&delivered), "{act:?} {delivered:?}");
        assert_eq!(delivered.requests, 1);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    // v3 takes a second for each write.
    let mut push = Push::to(V1);
    push.server.plan([Act::Late(Duration::from_millis(1_200))]);
    assert_eq!(push.deliver(&text).outcome, Outcome::Done);
}

#[test]
fn a_slow_server_gets_smaller_requests_until_it_can_answer_in_time() {
    let mut push = Push::impatient(V1);
    // Half a second is enough for 50 kB.
    push.server.always(Act::Slow(100_000));
    let lines = good(5_000);
    let mut rest = lines.join("\n");
    let whole = rest.len();
    for request in 0..30 {
        let delivered = push.deliver(&rest);
        match delivered.outcome {
            Outcome::Done => break,
            Outcome::Later { wait: Wait::Backoff(_), rest: left, .. } => rest = left,
            outcome => panic!("{outcome:?}"),
        }
        assert!(request < 25, "never done");
    }
    let sizes: Vec<usize> = push.server.writes().iter().map(|seen| seen.body.len()).collect();
    assert!(
        sizes[0] == whole && sizes[1] <= whole / 2 && sizes.iter().all(|&size| size > 1_000),
        "{sizes:?}"
    );
    assert!(lines.iter().all(|line| push.server.store(|store| store.has(line))));
    assert_eq!(push.aside(), Vec::<&str>::new());
}

#[test]
fn a_silent_server_gets_no_requests_that_are_tiny() {
    let mut push = Push::impatient(V1);
    let text = good(3_000).join("\n");
    push.server.always(Act::Silence(Duration::from_secs(20)));
    for _ in 0..6 {
        assert_eq!(push.deliver(&text).requests, 1);
    }
    let smallest = push.server.writes().iter().map(|seen| seen.body.len()).min().unwrap();
    assert!((10_000..20_000).contains(&smallest), "{smallest}");
    push.server.always(Act::Serve);
    let delivered = push.deliver(&text);
    assert!(delivered.outcome == Outcome::Done && delivered.requests < 10, "{delivered:?}");
}

#[test]
fn bodies_and_headers_without_end_cost_no_memory() {
    let mut push = Push::to(V1);
    let mut endless = b"HTTP/1.1 503 Busy\r\n\r\n".to_vec();
    endless.resize(50 << 20, b'x');
    push.server.always(Act::Raw(endless));
    let answer = push.client.write("m v=1 1");
    assert_eq!((answer.result, answer.body.len()), (Ok(503), 64 << 10));
    let mut header = b"HTTP/1.1 400 Bad\r\nX-Influxdb-Error: ".to_vec();
    header.resize(1 << 20, b'x');
    push.server.always(Act::Raw(header));
    let delivered = push.deliver(&good(4).join("\n"));
    assert_eq!((delivered.stored, delivered.quarantined), (0, 0), "{delivered:?}");
    push.server.always(Act::Serve);
    push.deliver_all(&good(4).join("\n"));
}

#[test]
fn a_server_that_is_gone_is_tried_once_and_again_later() {
    let mut push = Push::to(V1);
    let server = super::server(push.server.url(), V1);
    push.server = Push::to(V1).server;
    push.client = profiler::push::client::Client::new(server, PATIENCE).unwrap();
    let delivered = push.deliver("m v=1 1");
    assert!(is_later(&delivered), "{delivered:?}");
    assert_eq!(delivered.requests, 1);
}

#[test]
fn a_name_that_nobody_knows_is_tried_again_later() {
    let url = "http://no-such-machine.invalid:8086".to_owned();
    let mut push = Push::with(Role::new(V1), |server| server.url = url, PATIENCE);
    assert!(is_later(&push.deliver("m v=1 1")));
}

#[test]
fn a_connection_that_was_closed_while_it_was_idle_costs_nothing() {
    let mut push = Push::to(V1);
    push.deliver("m v=1 1");
    push.server.plan([Act::ResetAfter(0)]);
    let delivered = push.deliver("m v=1 2");
    assert_eq!((delivered.stored, delivered.requests, delivered.outcome), (1, 2, Outcome::Done));
}

#[test]
fn what_breaks_only_large_requests_gets_small_ones() {
    let mut push = Push::to(V1);
    push.server.plan([Act::ResetAfter(50), Act::ResetAfter(50)]);
    let delivered = push.deliver(&good(1_000).join("\n"));
    assert_eq!((delivered.stored, delivered.outcome), (1_000, Outcome::Done));
    let sizes: Vec<usize> = push.server.writes().iter().map(|seen| seen.body.len()).collect();
    assert!(sizes.iter().all(|&size| size < 5_000), "{sizes:?}");
}

#[test]
fn something_on_the_way_that_cant_unpack_gets_plain_text() {
    let mut push = Push::to(V1);
    push.server.plan([Act::Say(400, Vec::new(), r#"{"error":"unexpected EOF"}"#.to_owned())]);
    let delivered = push.deliver(&good(10).join("\n"));
    assert_eq!((delivered.stored, delivered.quarantined), (10, 0));
    assert_eq!(push.server.writes()[1].header("content-encoding"), None);
}

#[test]
fn who_is_ending_stops_before_the_next_request() {
    let mut push = Push::to(V1);
    let text = good(10).join("\n");
    let delivered = push.delivery.deliver(&mut push.client, &text, &mut |_, _| panic!(), &|| false);
    assert_eq!(delivered.requests, 0);
    assert!(matches!(delivered.outcome, Outcome::Later { wait: Wait::No, rest, .. } if rest == text));
}
