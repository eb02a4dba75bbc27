//! A server with a certificate that nobody has signed but itself.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use profiler::push::{
    client::Client,
    delivery::{Delivered, Delivery, Outcome},
};

use super::{PATIENCE, fault_server::points::V1, misconfigured, server};

const TLS_SERVER: &str = "
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
httpd = http.server.HTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + '/cert.pem', sys.argv[1] + '/key.pem')
httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
print(httpd.server_address[1], flush=True)
httpd.serve_forever()
";

fn skip() {
    println!("SKIPPED: no openssl or no python3");
    assert!(std::env::var_os("PROFILER_TESTS_MUST_RUN").is_none(), "no openssl or no python3");
}

struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// Makes a certificate and serves with it. `None`: there is no openssl or no python3.
fn serve(directory: &Path, is_authority: &str) -> Option<(Guarded, u16)> {
    std::fs::create_dir_all(directory).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext"])
        .arg(format!("basicConstraints=critical,CA:{is_authority}"))
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut child = Command::new("python3")
        .args(["-c", TLS_SERVER])
        .arg(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take()?).read_line(&mut line);
    let child = Guarded(child);
    read.ok()?;
    Some((child, line.trim().parse().ok()?))
}

fn push(url: String) -> Delivered {
    let mut client = Client::new(server(url, V1), PATIENCE).unwrap();
    Delivery::default().deliver(&mut client, "m v=1 1", &mut |_, _| panic!("set aside"), &|| true)
}

/// Whether lines were stored by who trusts the certificates of a file, and what was said. A variable of the environment can't be
/// set for one thread.
fn trusting(url: &str, file: &Path) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tls::pushes_to_the_server_of_the_environment", "--nocapture"]);
    let output = command.env("PUSH_TEST_URL", url).env("SSL_CERT_FILE", file).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A part of the tests below, which run it with another environment; without that there is nothing to be done.
#[test]
fn pushes_to_the_server_of_the_environment() {
    let Ok(url) = std::env::var("PUSH_TEST_URL") else { return };
    let delivered = push(url);
    println!("{:?}", delivered.outcome);
    assert_eq!(delivered.outcome, Outcome::Done);
}

#[test]
fn a_certificate_that_nobody_trusts_is_a_wrong_setting_and_can_be_trusted() {
    let directory = std::env::temp_dir().join(format!("profiler-push-tls-{}", std::process::id()));
    let Some((_server, port)) = serve(&directory, "FALSE") else {
        return skip();
    };
    let url = format!("https://127.0.0.1:{port}");
    let delivered = push(url.clone());
    let reason = misconfigured(&delivered);
    assert!(reason.contains("certificate") && reason.contains("SSL_CERT_FILE"), "{reason}");
    let output = trusting(&url, &directory.join("cert.pem"));
    assert!(output.0, "{}", output.1);
    // The wrong protocol on the right port, both ways round.
    let delivered = push(format!("http://127.0.0.1:{port}"));
    assert!(!matches!(delivered.outcome, Outcome::Done) && delivered.quarantined == 0, "{delivered:?}");
    let plain = super::FaultServer::playing(V1);
    let delivered = push(format!("https://127.0.0.1:{}", plain.port()));
    assert!(!matches!(delivered.outcome, Outcome::Done), "{delivered:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_certificate_of_an_authority_is_no_servers_and_that_is_said() {
    let directory = std::env::temp_dir().join(format!("profiler-push-ca-{}", std::process::id()));
    let Some((_server, port)) = serve(&directory, "TRUE") else {
        return skip();
    };
    let (stored, said) = trusting(&format!("https://127.0.0.1:{port}"), &directory.join("cert.pem"));
    assert!(!stored && said.contains("CA:FALSE"), "{said}");
    std::fs::remove_dir_all(directory).unwrap();
}
