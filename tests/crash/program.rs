//! The controller as a process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstop::api::wire::{self, Claims, Deploy, Standing};
use backstop::core::input::Verb;
use backstop::core::preview::View;
use backstop::core::release::Release;
use backstop::core::state::PhaseKind;
use backstop::world::clock;

use crate::rig::{SERVICE, signal};

/// `backstop run` in a folder.
pub(crate) struct Program {
    dir: PathBuf,
    child: Child,
}

impl Program {
    /// Starts it and waits until it answers.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(dir: &Path, environment: &[(&str, OsString)]) -> Self {
        let log = File::options().create(true).append(true).open(dir.join("controller.log")).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .arg("--data-dir")
            .arg(dir)
            .arg("run")
            .arg("--specs")
            .arg(dir.join("rollouts"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the controller starts");
        let mut program = Self { dir: dir.to_owned(), child };
        let begin = clock::instant();
        while UnixStream::connect(dir.join("backstop.sock")).is_err() {
            assert!(matches!(program.child.try_wait(), Ok(None)), "the controller ended at once");
            assert!(begin.elapsed() < Duration::from_secs(20), "the controller does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        program
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, which: rustix::process::Signal) {
        signal(self.child.id(), which);
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// One request to its API: status and body; nothing if it went away meanwhile.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        ask(&self.dir, method, path, body)
    }

    /// Deploys a release on a person's word.
    pub(crate) fn deploy(&self, release: &Release) {
        let deploy = Deploy { template: (*release.template).clone(), label: release.label.clone(), claims: Claims::default() };
        let body = serde_json::to_string(&deploy).expect("JSON");
        let answer = self.ask("POST", &format!("/v1/rollouts/{SERVICE}/deploy"), &body);
        assert!(matches!(answer, Some((200..=299, _))), "{answer:?}");
    }

    /// Gives a person's command; nothing if no answer came.
    pub(crate) fn command(&self, verb: Verb) -> Option<u16> {
        command(&self.dir, verb)
    }

    /// Where the rollout stands.
    pub(crate) fn view(&self) -> Option<View> {
        let (_, said) = self.ask("GET", &format!("/v1/rollouts/{SERVICE}"), "")?;
        serde_json::from_str::<Standing>(&said).ok().map(|standing| standing.view)
    }

    /// Brings a release to be known good and stable on a person's word.
    pub(crate) fn settle(&self, release: &Release) {
        let short = Duration::from_secs(30);
        self.deploy(release);
        self.until("judged", short, |view| view.step.as_deref() == Some("judging"));
        self.command(Verb::Promote);
        self.until("watched", short, |view| view.phase == PhaseKind::Watching);
        self.command(Verb::Adopt);
        self.until("settled", short, |view| view.phase == PhaseKind::Idle && view.open.is_empty());
    }

    /// Waits until the rollout looks as wanted.
    pub(crate) fn until(&self, what: &str, patience: Duration, wanted: impl Fn(&View) -> bool) -> View {
        let begin = clock::instant();
        loop {
            let view = self.view();
            if let Some(view) = view.as_ref().filter(|view| wanted(view)) {
                return view.clone();
            }
            if begin.elapsed() > patience {
                let log = std::fs::read_to_string(self.dir.join("controller.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                panic!("{what}: not within {patience:?}; it stands at {view:#?}\n{}", tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Gives a person's command to whatever answers in `dir`.
pub(crate) fn command(dir: &Path, verb: Verb) -> Option<u16> {
    let claims = Claims { rationale: Some("the test says so".into()), ..Claims::default() };
    let body = serde_json::to_string(&wire::Command { verb, claims }).expect("JSON");
    ask(dir, "POST", &format!("/v1/rollouts/{SERVICE}/command"), &body).map(|(status, _)| status)
}

fn ask(dir: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(dir.join("backstop.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: backstop\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Runs the command line in a folder: exit code and what it said.
pub(crate) fn say(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_backstop");
    let output = Command::new(program).arg("--data-dir").arg(dir).args(arguments).stdin(Stdio::null()).output().expect("it starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}
