//! Wishes about InfluxDB, and what becomes of them.

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

fn push(arguments: &[&str], file: &str, environment: Environment<'_>) -> Result<Option<Push>, UsageError> {
    let options = match Cli::try_parse_from([&["profiler"], arguments].concat()).unwrap() {
        Cli { command: Some(Command::Memstatexport { process, server, database, options }), .. } => {
            memstatexport(process, &server, database, options)?
        }
        cli => cli.options,
    };
    resolve(&options.influx, &toml::from_str(file).unwrap(), None, environment)
}

/// Nothing of InfluxDB.
fn nothing(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/me".to_owned())
}

#[test]
fn nothing_is_pushed_unless_somebody_says_where_to() {
    assert_eq!(push(&["--pid", "1"], "", &nothing), Ok(None));
}

#[test]
fn an_address_and_a_database_are_enough() {
    let push = push(&["--influx", "http://db:8086/", "--influx-db", "hunt"], "", &nothing).unwrap().unwrap();
    assert_eq!((push.server.url.as_str(), push.server.database.as_str()), ("http://db:8086", "hunt"));
    assert_eq!((push.server.api, push.interval), (None, DEFAULT_PUSH_INTERVAL));
    assert!(!push.unsigned && push.prefix.is_empty());
    assert!(push.tags.len() == 1 && push.tags[0].0 == "host", "{:?}", push.tags);
    let spool = push.spool.unwrap();
    let name = spool.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("db_8086-hunt-"), "{name}");
}

#[test]
fn each_destination_has_its_own_spool_and_the_same_one_next_time() {
    let of = |url: &str, db: &str| {
        push(&["--influx", url, "--influx-db", db], "", &nothing).unwrap().unwrap().spool.unwrap()
    };
    assert_eq!(of("http://a:1", "x"), of("http://a:1/", "x"));
    let all = [of("http://a:1", "x"), of("https://a:1", "x"), of("http://a:2", "x"), of("http://a:1", "y")];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}

#[test]
fn the_verb_of_gops_is_the_same_in_fewer_words() {
    let told = push(&["memstatexport", "12", "db:8086", "leakhunt"], "", &nothing).unwrap().unwrap();
    let long =
        push(&["--influx", "http://db:8086", "--influx-db", "leakhunt"], "", &nothing).unwrap().unwrap();
    assert_eq!(told, long);
    let twice = push(&["memstatexport", "12", "db:1", "x", "--influx-db", "y"], "", &nothing);
    assert!(twice.unwrap_err().to_string().contains("three arguments"));
}

#[test]
fn secrets_come_from_files_or_the_environment_and_files_go_first() {
    let environment =
        |name: &str| (name == "INFLUX_TOKEN").then(|| "from outside".to_owned()).or_else(|| nothing(name));
    let wish = ["--influx", "http://db:1", "--influx-db", "x"];
    let told = push(&wish, "", &environment).unwrap().unwrap();
    assert_eq!(told.server.credentials.token, Some(Secret::Value("from outside".to_owned())));
    let told = push(&wish, "influx-token-file = '/etc/token'", &environment).unwrap().unwrap();
    assert_eq!(told.server.credentials.token, Some(Secret::File("/etc/token".into())));
}

#[test]
fn every_option_needs_somebody_to_push_to() {
    let options: [&[&str]; 13] = [
        &["--influx-db", "x"],
        &["--influx-org", "x"],
        &["--influx-api", "auto"],
        &["--influx-user", "x"],
        &["--influx-password-file", "/x"],
        &["--influx-token-file", "/x"],
        &["--influx-interval", "10s"],
        &["--influx-tag", "a=b"],
        &["--influx-measurement-prefix", "x"],
        &["--influx-uint"],
        &["--influx-spool", "none"],
        &["--influx-spool-size", "1MiB"],
        &["--influx-spool-age", "1day"],
    ];
    for typed in options {
        let value = typed.get(1).map_or("true".to_owned(), |value| format!("'{value}'"));
        let file = format!("{} = {value}", typed[0].trim_start_matches('-'));
        for result in [push(typed, "", &nothing), push(&[], &file, &nothing)] {
            assert!(result.is_err_and(|error| error.to_string().contains("need --influx ")), "{file}");
        }
    }
}

#[test]
fn a_tag_may_be_called_what_no_field_ever_is() {
    for (field, name, may) in [
        ("pid", "pid", true),
        ("pid", "pids", false),
        ("le_{bound}", "le_0.5", true),
        ("le_{bound}", "level", false),
        ("{kind}_page_faults", "major_page_faults", true),
        ("{kind}_page_faults", "page_faults", false),
        ("{a}_x_{b}_y", "1_x_2_y", true),
        ("{a}_x_{b}_y", "1_2_y", false),
        ("a{b}a", "a", false),
    ] {
        assert_eq!(may_be(field, name), may, "{field} {name}");
    }
    assert!(
        push(&["--influx", "http://db:1", "--influx-db", "x", "--influx-tag", "level=1"], "", &nothing)
            .is_ok()
    );
}

#[test]
fn who_has_no_home_is_asked_for_a_place() {
    let server =
        push(&["--influx", "http://db:1", "--influx-db", "x"], "", &nothing).unwrap().unwrap().server;
    let base = |environment: &[(&str, &str)], root| {
        let of =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        let spool = default_spool(&server, &of, root)?;
        Ok::<_, UsageError>(spool.parent().unwrap().display().to_string())
    };
    assert!(base(&[], false).unwrap_err().to_string().contains("--influx-spool"));
    assert!(base(&[("HOME", "relative")], false).is_err());
    let cases: [(&[_], _, _); 4] = [
        (&[], true, "/var/lib/profiler/influx"),
        (&[("HOME", "/h")], false, "/h/.local/state/profiler/influx"),
        (&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")], false, "/s/profiler/influx"),
        (&[("HOME", "/h"), ("STATE_DIRECTORY", "/v")], false, "/v/influx"),
    ];
    for (environment, root, expected) in cases {
        assert_eq!(base(environment, root).unwrap(), expected);
    }
}

#[test]
fn bad_wishes_are_told_in_one_line() {
    let to = ["--influx", "http://db:1", "--influx-db", "x"];
    let cases: &[(&[&str], &str)] = &[
        (&["--influx", "http://db:1"], "--influx-db"),
        (&["--influx-db", "x"], "--influx http"),
        (&["--influx", "db:1", "--influx-db", "x"], "http://HOST:PORT"),
        (&["--influx", "http://me:secret@db:1", "--influx-db", "x"], "everybody"),
        (&["--influx", "me:secret@db:1", "--influx-db", "x"], "everybody"),
        (&["--influx", "http://me:/secret@db:1", "--influx-db", "x"], "everybody"),
        (&["--influx", "http://db:1/write?db=x", "--influx-db", "x"], "no address"),
        (&["--influx-api", "v2", to[0], to[1], to[2], to[3]], "--influx-org"),
        (&["--influx-tag", "a", to[0], to[1], to[2], to[3]], "KEY=VALUE"),
        (&["--influx-tag", "time=1", to[0], to[1], to[2], to[3]], "taken"),
        (&["--influx-tag", "target=1", to[0], to[1], to[2], to[3]], "taken"),
        (&["--influx-tag", "minor_page_faults=1", to[0], to[1], to[2], to[3]], "taken"),
        (&["--influx-tag", "le_0.001=1", to[0], to[1], to[2], to[3]], "taken"),
        (&["--influx-tag", "a=1", "--influx-tag", "a=2", to[0], to[1], to[2], to[3]], "twice"),
        (&["--influx-tag", "a=b\\", to[0], to[1], to[2], to[3]], "no control characters"),
        (&["--influx-measurement-prefix", "a b", to[0], to[1], to[2], to[3]], "letters"),
        (&["--influx-interval", "1ms", to[0], to[1], to[2], to[3]], "shortest"),
        (&["--influx-spool-size", "1KiB", to[0], to[1], to[2], to[3]], "1MiB"),
    ];
    for (arguments, part) in cases {
        let error = push(arguments, "", &nothing).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{arguments:?}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
