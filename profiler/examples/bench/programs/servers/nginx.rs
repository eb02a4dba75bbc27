//! nginx with one worker under wrk.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{
    super::{
        child::{self, Running, free_port},
        load::{Done, Load, Stage, program, text},
    },
    answers, log_to,
};

/// What wrk prints at its end.
const TELL: &str = include_str!("../sources/wrk.lua");
const PAGE: usize = 4096;

struct Nginx {
    server: Running,
    url: String,
    script: String,
    client_cpu: Option<usize>,
    done: Option<Done>,
}

/// The worker stays root, as the page lies where nobody else may have to look. Its places are its own, not those of the system.
fn configuration(directory: &str, port: u16) -> String {
    format!(
        "daemon off; master_process on; worker_processes 1; user root; pid {directory}/pid; error_log {directory}/log;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
         access_log off; keepalive_requests 100000000; default_type text/html;\n\
         client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;\n\
         uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;\n\
         server {{ listen 127.0.0.1:{port}; root {directory}/www; }}\n\
         }}\n"
    )
}

pub fn start(stage: &Stage) -> anyhow::Result<Box<dyn Load>> {
    let (directory, port) = (stage.scratch.room("nginx")?, free_port()?);
    let place = text(&directory)?;
    if place.contains(|letter: char| letter.is_whitespace() || "{};\"'$".contains(letter)) {
        bail!("nginx's configuration can't name {place}");
    }
    let (page, script) = (directory.join("www/index.html"), directory.join("wrk.lua"));
    fs::create_dir(directory.join("www"))?;
    fs::write(page, "x".repeat(PAGE))?;
    fs::write(&script, TELL)?;
    let configured = directory.join("nginx.conf");
    fs::write(&configured, configuration(place, port))?;
    let mut command = Command::new(program("nginx")?);
    command.args(["-p", place, "-e", &format!("{place}/log"), "-c"]).arg(configured);
    log_to(&mut command, &directory)?;
    let mut server = Running::start(&mut command, "nginx", Signal::TERM, stage.target_cpu)?;
    answers(&mut server, port, "nginx", &directory)?;
    Ok(Box::new(Nginx {
        server,
        url: format!("http://127.0.0.1:{port}/index.html"),
        script: text(&script)?.to_owned(),
        client_cpu: stage.client_cpu,
        done: None,
    }))
}

impl Load for Nginx {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn forks(&self) -> bool {
        true
    }

    /// Whole seconds: wrk knows no others.
    fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        let seconds = time.as_secs_f64().round().max(1.0);
        let mut command = Command::new(program("wrk")?);
        command.args(["-t", "1", "-c", "16", "-d", &format!("{seconds}s"), "-s", &self.script, &self.url]);
        let limit = Duration::from_secs_f64(seconds + 20.0);
        let printed = child::run(&mut command, "wrk", limit, self.client_cpu)?;
        let line = printed.lines().find_map(|line| line.strip_prefix("measured ")).unwrap_or_default();
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [operations, us, p99_us, failed] = numbers[..] else { bail!("wrk says: {printed}") };
        if failed > 0.0 {
            bail!("{failed} of wrk's {operations} requests failed");
        }
        self.done = Some(Done { operations, seconds: us / 1e6, p99_us });
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<Done> {
        self.done.take().context("wrk didn't run")
    }
}
