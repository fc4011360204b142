//! One child process: started in a group of its own with a clean environment, or found again after the host died.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::decide::inside;
use super::metrics::lock;
use super::record::ChildRecord;
use crate::core::release::Process;

/// Time between looks at a child that cannot be waited for.
const FOUND_LOOK: Duration = Duration::from_millis(50);

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    /// Process id, which is also its process group.
    pub(crate) pid: u32,
    /// Start time in clock ticks since boot.
    pub(crate) started: u64,
    /// Its loopback port.
    pub(crate) port: u16,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Own(tokio::process::Child),
    /// The child of a host that died: it cannot be waited for, only looked at.
    Found,
}

/// What a start needs.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// Folder of the unpacked artifact; also the working folder.
    pub(crate) root: &'a Path,
    /// Program, arguments, environment.
    pub(crate) template: &'a Process,
    /// The release, for `$BACKSTOP_RELEASE`.
    pub(crate) release: &'a str,
    /// `$PATH`, unless the template sets it.
    pub(crate) path: Option<&'a str>,
    /// `$PORT`.
    pub(crate) port: u16,
    /// Where its output goes. A file, not a pipe, so that the child outlives the host.
    pub(crate) log: &'a Path,
}

impl Child {
    /// Starts a child. The error is a sentence.
    pub(crate) fn spawn(start: &Start<'_>) -> Result<Self, String> {
        let program = program(start.root, &start.template.command)?;
        let output = open_log(start.log).map_err(|error| format!("cannot write {}: {error}", start.log.display()))?;
        let errors = output.try_clone().map_err(|error| format!("cannot write {}: {error}", start.log.display()))?;
        let mut command = Command::new(&program);
        command.args(&start.template.command[1..]).current_dir(start.root).env_clear();
        if let Some(path) = start.path {
            command.env("PATH", path);
        }
        command.envs(&start.template.env).env("PORT", start.port.to_string()).env("BACKSTOP_RELEASE", start.release);
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().map_err(|error| format!("`{}` cannot be started: {error}", start.template.command[0]))?;
        let pid = child.id().ok_or("it ended before it began")?;
        // A child that has ended already is a zombie until it is waited for, so its start time can still be read.
        Ok(Self { pid, started: started(pid).unwrap_or_default(), port: start.port, handle: Handle::Own(child) })
    }

    /// The process of `record` if it still runs: same boot, same process id, same start time.
    pub(crate) fn find(record: &ChildRecord, boot: &str) -> Option<Self> {
        if record.boot != boot {
            return None;
        }
        group(record.pid)?;
        let child = Self { pid: record.pid, started: record.started, port: record.port, handle: Handle::Found };
        child.is_itself().then_some(child)
    }

    /// Waits for its end and says how it ended.
    pub(crate) async fn exited(&mut self) -> String {
        match &mut self.handle {
            Handle::Own(child) => match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("ended, but how is unknown: {error}"),
            },
            Handle::Found => {
                while self.is_itself() {
                    tokio::time::sleep(FOUND_LOOK).await;
                }
                "ended".to_owned()
            }
        }
    }

    /// Whether the process of this id is still the child.
    fn is_itself(&self) -> bool {
        stat(self.pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z") && start_time(&fields) == Some(self.started))
    }

    /// Sends `signal` to the whole group. A group that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        // Nothing keeps the id of a child that is not ours from being used again once it has ended.
        if matches!(self.handle, Handle::Found) && !self.is_itself() {
            return;
        }
        if let Some(group) = group(self.pid)
            && let Err(error) = kill_process_group(group, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid, ?signal, %error, "cannot signal a child");
        }
    }
}

/// 0 would be our own group and 1 is init: neither is ever a child.
fn group(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn program(root: &Path, command: &[String]) -> Result<PathBuf, String> {
    let path = root.join(inside(command)?);
    let real = fs::canonicalize(&path).map_err(|error| format!("`{}` is not in the artifact: {error}", command[0]))?;
    let root = fs::canonicalize(root).map_err(|error| format!("the unpacked artifact is gone: {error}"))?;
    if real.starts_with(&root) { Ok(real) } else { Err(format!("`{}` leads outside the artifact", command[0])) }
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Start time of process `pid` in clock ticks since boot: field 22 of `/proc/PID/stat` (`man 5 proc_pid_stat`).
pub(crate) fn started(pid: u32) -> Option<u64> {
    start_time(&stat(pid)?)
}

fn start_time(fields: &[String]) -> Option<u64> {
    fields.get(19)?.parse().ok()
}

/// The fields after the name, which may itself hold spaces and parentheses: field 3 comes first.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Identity of this boot of the machine; start times of another boot mean nothing.
pub(crate) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Loopback ports that were given to children.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<BTreeSet<u16>>);

impl Ports {
    /// A port that was free a moment ago and no other child of this host has.
    pub(crate) fn take(&self) -> Result<u16, String> {
        for _ in 0..64 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr())
                .map_err(|error| format!("no free loopback port: {error}"))?
                .port();
            if lock(&self.0).insert(port) {
                return Ok(port);
            }
        }
        Err("no free loopback port".to_owned())
    }

    /// Marks the port of a child that was found as taken.
    pub(crate) fn hold(&self, port: u16) {
        lock(&self.0).insert(port);
    }

    /// Gives a port back.
    pub(crate) fn release(&self, port: u16) {
        lock(&self.0).remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lies_inside_the_artifact() {
        for good in ["bin/app", "./app"] {
            assert!(inside(&[good.into()]).is_ok());
        }
        for bad in ["/bin/sh", "../sh", "bin/../../sh", ""] {
            assert!(inside(&[bad.into()]).is_err(), "{bad}");
        }
        assert!(inside(&[]).is_err());
    }

    #[test]
    fn a_link_out_of_the_artifact_is_not_started() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", root.path().join("app")).unwrap();
        assert!(program(root.path(), &["app".into()]).unwrap_err().contains("outside"));
    }

    #[test]
    fn this_process_has_a_start_time() {
        let pid = std::process::id();
        assert!(started(pid).unwrap() > 0);
        assert_eq!(started(pid), started(pid));
    }

    #[tokio::test]
    async fn a_reused_process_id_is_not_taken_for_the_child() {
        let pid = std::process::id();
        let boot = boot().unwrap();
        let mut record = ChildRecord {
            pid,
            started: started(pid).unwrap(),
            boot: boot.clone(),
            workload: "a/b".into(),
            release: crate::core::release::ReleaseId("r".into()),
            slot: 0,
            port: 1,
        };
        assert!(Child::find(&record, &boot).is_some());
        assert!(Child::find(&record, "another boot").is_none());
        record.started += 1;
        assert!(Child::find(&record, &boot).is_none());
        record.pid = 1;
        assert!(Child::find(&record, &boot).is_none());
    }
}
