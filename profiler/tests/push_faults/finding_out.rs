//! Which generation a server is, who may write to it, and what of that is shown to whom.

use std::path::PathBuf;

use profiler::push::{
    client::{Api, Client, ClientError, Credentials, Secret},
    delivery::Outcome,
};

use super::{
    PATIENCE, Push,
    fault_server::{Act, Play, Role, points::V1},
    misconfigured, server, token, user,
};

fn unknown(role: Role) -> Push {
    Push::with(role, |server| server.api = None, PATIENCE)
}

#[test]
fn each_generation_is_recognized_and_then_written_to() {
    for (play, api, version) in [
        (V1, Api::V1, "InfluxDB 1.6.7~rc0"),
        (Play::V2, Api::V2, "InfluxDB 2.7.1"),
        (Play::V3, Api::V3, "InfluxDB 3.6.0"),
    ] {
        let mut push = unknown(Role::new(play));
        assert_eq!(push.deliver("m v=1 1").outcome, Outcome::Done);
        assert_eq!(push.deliver("m v=1 2").outcome, Outcome::Done);
        let found = push.client.find_out().unwrap();
        assert_eq!((found.api, found.version.as_str()), (api, version));
        assert_eq!(
            push.server.seen().iter().filter(|seen| seen.method == "GET").count(),
            2,
            "once, and for us"
        );
    }
}

#[test]
fn a_server_that_wants_to_know_who_asks_is_told() {
    for (play, credentials, wanted) in [
        (V1, user("root", "se:cret"), "Basic cm9vdDpzZTpjcmV0"),
        (Play::V2, token("s3cret"), "Token s3cret"),
        (Play::V3, token("s3cret"), "Token s3cret"),
    ] {
        let mut role = Role::new(play);
        role.authorization = Some(wanted.to_owned());
        role.ping_wants_authorization = true;
        let mut push = Push::with(
            role,
            |server| {
                server.api = None;
                server.credentials = credentials;
            },
            PATIENCE,
        );
        push.client.find_out().unwrap();
        let questions = push.server.seen();
        assert_eq!(questions[0].header("authorization"), None, "not before it asks");
    }
    let mut role = Role::new(Play::V3);
    role.authorization = Some("Bearer x".to_owned());
    role.ping_wants_authorization = true;
    let mut push = unknown(role);
    assert!(misconfigured(&push.deliver("m v=1 1")).contains("401"));
    assert!(push.server.writes().is_empty());
}

#[test]
fn nothing_is_written_to_what_isnt_known_to_be_an_influxdb() {
    let say = |status, body: &str| Act::Say(status, Vec::new(), body.to_owned());
    for act in [
        say(200, "OK"),
        say(204, ""),
        say(200, "<html>nginx</html>"),
        say(200, r#"{"version":"8.1.0","name":"elastic"}"#),
        say(200, r#"{"status":"ok"}"#),
        say(404, "no"),
        say(400, r#"{"error":"partial write: x dropped=1"}"#),
        say(413, ""),
        Act::Say(204, vec![("X-Influxdb-Version", "9.1".to_owned())], String::new()),
        Act::Say(204, vec![("X-Influxdb-Version", "relay".to_owned())], String::new()),
    ] {
        let mut role = Role::new(V1);
        role.questions = vec![("/ping", act.clone()), ("/health", act.clone())];
        let mut push = unknown(role);
        let delivered = push.deliver("m v=1 1");
        assert!(misconfigured(&delivered).contains("--influx-api"), "{act:?} {delivered:?}");
        assert!(push.server.writes().is_empty());
        assert_eq!((delivered.quarantined, delivered.stored), (0, 0));
    }
}

#[test]
fn a_server_that_cant_say_now_what_it_is_is_asked_again_later() {
    for act in [
        Act::Say(503, Vec::new(), String::new()),
        Act::Say(500, Vec::new(), String::new()),
        Act::Raw(Vec::new()),
        Act::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ] {
        let mut role = Role::new(Play::V3);
        role.questions = vec![("/ping", act.clone()), ("/health", act.clone())];
        let mut push = unknown(role);
        for _ in 0..10 {
            let delivered = push.deliver("m v=1 1\nm v=1 2");
            assert!(matches!(delivered.outcome, Outcome::Later { .. }), "{act:?} {delivered:?}");
        }
        assert!(push.server.writes().is_empty());
        push.server.role(|role| role.questions.clear());
        assert_eq!(push.deliver("m v=1 1").outcome, Outcome::Done);
    }
}

#[test]
fn victoria_metrics_is_spoken_to_as_v1() {
    let mut role = Role::new(V1);
    let hostname = vec![("X-Server-Hostname", "vm".to_owned())];
    role.questions = vec![
        ("/ping", Act::Say(400, hostname.clone(), "unsupported path requested".to_owned())),
        ("/health", Act::Say(200, hostname, "OK".to_owned())),
    ];
    let mut push = unknown(role);
    assert_eq!(push.deliver("m v=1 1").outcome, Outcome::Done);
    assert_eq!(push.client.find_out().unwrap().version, "VictoriaMetrics");
}

#[test]
fn another_generation_in_the_same_place_is_found_out() {
    let mut push = Push::with(
        Role::new(V1),
        |server| {
            server.api = None;
            server.org = Some("o".to_owned());
        },
        PATIENCE,
    );
    push.deliver("m v=1 1");
    let before = push.client.generation();
    push.deliver("m v=1 1");
    assert_eq!(push.client.generation(), before);
    push.server.role(|role| role.play = Play::V2);
    misconfigured(&push.deliver("m v=1 2"));
    let after = push.client.generation();
    assert_ne!(after, before, "known before anything is sent to the other one");
    assert!(push.client.knows_unsigned().unwrap());
    assert_eq!(push.deliver("m v=1 2").outcome, Outcome::Done);
    assert_eq!(push.client.generation(), after, "nothing new since it was asked");
    // Who was told which it is has nothing to find out.
    let mut told = Push::to(V1);
    told.deliver("m v=1 1");
    told.server.role(|role| role.play = Play::V2);
    misconfigured(&told.deliver("m v=1 2"));
    assert_eq!(told.client.generation(), 0);
}

#[test]
fn v2_without_an_organisation_is_a_wrong_setting() {
    let mut push = unknown(Role::new(Play::V2));
    push.client = Client::new(
        profiler::push::client::Server { api: None, org: None, ..server(push.server.url(), Play::V2) },
        PATIENCE,
    )
    .unwrap();
    assert!(misconfigured(&push.deliver("m v=1 1")).contains("organisation"));
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("profiler-push-{name}-{}", std::process::id()))
}

#[test]
fn a_token_that_is_replaced_is_read_again_when_it_is_refused() {
    let path = file("rotated");
    std::fs::write(&path, "first\n").unwrap();
    let mut role = Role::new(Play::V3);
    role.authorization = Some("Bearer first".to_owned());
    let credentials = Credentials { token: Some(Secret::File(path.clone())), ..Credentials::default() };
    let mut push = Push::with(role, |server| server.credentials = credentials, PATIENCE);
    assert_eq!(push.deliver("m v=1 1").outcome, Outcome::Done);
    push.server.role(|role| role.authorization = Some("Bearer second".to_owned()));
    assert!(misconfigured(&push.deliver("m v=1 2")).contains("401"));
    std::fs::write(&path, "second").unwrap();
    let delivered = push.deliver("m v=1 2");
    assert_eq!((delivered.outcome, delivered.requests), (Outcome::Done, 1));
    // What can't be read leaves the old one in use.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(push.deliver("m v=1 3").outcome, Outcome::Done);
}

#[test]
fn secrets_that_cant_be_used_are_refused_and_never_shown() {
    let text = |error: Result<Client, ClientError>| error.err().unwrap().to_string();
    let with = |credentials| {
        Client::new(
            profiler::push::client::Server { credentials, ..server("http://h".to_owned(), V1) },
            PATIENCE,
        )
    };
    for (name, contents) in
        [("empty", "\n"), ("binary", "hu\0sh"), ("lines", "hush\nhush"), ("long", &"hush".repeat(2_000))]
    {
        let path = file(name);
        std::fs::write(&path, contents).unwrap();
        let error =
            text(with(Credentials { token: Some(Secret::File(path.clone())), ..Credentials::default() }));
        assert!(!error.contains("hush"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
    for path in ["/nonexistent/token", "/dev/zero", "/tmp"] {
        let error =
            text(with(Credentials { token: Some(Secret::File(path.into())), ..Credentials::default() }));
        assert!(error.starts_with(&format!("can't read the secret in {path}: ")), "{error}");
    }
    let wrong = profiler::push::client::Server {
        credentials: Credentials { password: Some(Secret::Value("hush".to_owned())), ..token("hush") },
        ..server("http://u:hush@h:8086".to_owned(), V1)
    };
    assert!(!format!("{wrong:?}").contains("hush"));
    assert!(!text(Client::new(wrong, PATIENCE)).contains("hush"));
}

#[test]
fn addresses_that_cant_be_are_refused() {
    for url in [
        "",
        "h",
        "h:8086",
        "ftp://h",
        "http://",
        "http:///x",
        "http://h?u=1",
        "http://h/#x",
        "http://h:x",
        "http://a b",
    ] {
        assert!(Client::new(server(url.to_owned(), V1), PATIENCE).is_err(), "{url}");
    }
    for url in ["http://h", "https://h:1/prefix/", "http://[::1]:8086", " http://127.0.0.1:8086/ "] {
        assert!(Client::new(server(url.to_owned(), V1), PATIENCE).is_ok(), "{url}");
    }
    let nameless =
        profiler::push::client::Server { database: String::new(), ..server("http://h".to_owned(), V1) };
    assert!(matches!(Client::new(nameless, PATIENCE), Err(ClientError::Database)));
}

#[test]
fn a_prefix_of_the_path_is_kept() {
    let mut push = Push::with(Role::new(V1), |server| server.url += "/influx/", PATIENCE);
    misconfigured(&push.deliver("m v=1 1"));
    assert_eq!(push.server.writes()[0].path(), "/influx/write");
}
