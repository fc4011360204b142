//! The spool: commits that the store did not take, in a file of its own that may be on another disk.
//!
//! One line each: the first 16 hex digits of the SHA-256 of the JSON, a space, the JSON. Lines are only appended and synced; the
//! file is emptied once the store has them all. A torn last line is what a crash leaves: that commit was never acknowledged.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::core::release::Digest;
use crate::core::work::Commit;

/// The spool grows no further, and a larger file is not read at start: it is not ours.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Where a commit is, that the store did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spooled {
    /// In the spool file, synced.
    Disk,
    /// In this process alone: it is lost if that ends. Says why.
    Memory(String),
}

/// A commit that waits for the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Of which workload.
    pub key: String,
    /// What to commit.
    pub commit: Commit,
}

/// The spool of one controller.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Result<File, String>,
    /// What waits, oldest first, with whether it is in the file.
    waiting: VecDeque<(Waiting, bool)>,
    /// Lines of the file that could not be read.
    damaged: Vec<String>,
}

impl Spool {
    /// Opens the spool and reads what an earlier run left there.
    ///
    /// Never fails: a spool that cannot be used holds commits in memory and says so with each.
    pub fn open(path: &Path) -> Self {
        let mut spool = Self { path: path.into(), file: Err(String::new()), waiting: VecDeque::new(), damaged: Vec::new() };
        spool.file = spool.connect();
        spool
    }

    fn connect(&mut self) -> Result<File, String> {
        let say = |error: std::io::Error| format!("spool {}: {error}", self.path.display());
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        let mut file = open.map_err(say)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("spool {}: another process uses it; give each controller its own", self.path.display()))?;
        if file.metadata().map_err(say)?.len() > MAX_FILE {
            return Err(format!("spool {}: larger than 256 MiB", self.path.display()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(say)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (mut waiting, mut damaged) = (VecDeque::new(), Vec::new());
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse(line) {
                Some(commit) => waiting.push_back((commit, true)),
                None => damaged.push(String::from_utf8_lossy(line).into_owned()),
            }
        }
        // What follows the last newline was never acknowledged; the next line must not be glued to it.
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(say)?;
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
        self.damaged.append(&mut damaged);
        Ok(file)
    }

    /// Takes a commit, and says where it is now.
    pub fn append(&mut self, key: &str, commit: &Commit) -> Spooled {
        if self.file.is_err() {
            self.file = self.connect();
        }
        self.waiting.push_back((Waiting { key: key.to_owned(), commit: commit.clone() }, false));
        match self.persist() {
            Ok(()) => Spooled::Disk,
            Err(what) => Spooled::Memory(what),
        }
    }

    /// Writes what is in memory alone, oldest first: a commit is of no use without those before it.
    fn persist(&mut self) -> Result<(), String> {
        for at in 0..self.waiting.len() {
            if !self.waiting[at].1 {
                let waiting = self.waiting[at].0.clone();
                self.write(&waiting)?;
                self.waiting[at].1 = true;
            }
        }
        Ok(())
    }

    fn write(&mut self, waiting: &Waiting) -> Result<(), String> {
        let file = self.file.as_mut().map_err(|what| what.clone())?;
        let line = line(waiting).map_err(|error| format!("spool {}: {error}", self.path.display()))?;
        let end = file.stream_position();
        if end.as_ref().is_ok_and(|end| end + line.len() as u64 > MAX_FILE) {
            return Err(format!("spool {}: full, 256 MiB wait for the store", self.path.display()));
        }
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if let (Err(_), Ok(end)) = (&written, end) {
            // Half a line must not spoil the next one.
            let _ = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
        }
        written.map_err(|error| format!("spool {}: {error}", self.path.display()))
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().map(|(waiting, _)| waiting)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets the oldest `count`, which the store has now; `lost` of them are kept beside the spool for people to see.
    pub fn retire(&mut self, count: usize, lost: &[Waiting]) -> Result<(), String> {
        self.put_aside(lost)?;
        self.waiting.drain(..count.min(self.waiting.len()));
        let Ok(file) = self.file.as_mut() else { return Ok(()) };
        let say = |error: std::io::Error| format!("spool {}: {error}", self.path.display());
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(say)?;
        file.sync_data().map_err(say)?;
        self.waiting.iter_mut().for_each(|(_, on_disk)| *on_disk = false);
        self.persist()
    }

    /// Commits that lost their swap, and lines that could not be read, are not thrown away.
    fn put_aside(&mut self, lost: &[Waiting]) -> Result<(), String> {
        if lost.is_empty() && self.damaged.is_empty() {
            return Ok(());
        }
        let mut path = self.path.clone().into_os_string();
        path.push(".lost");
        let say = |error: std::io::Error| format!("{}: {error}", Path::new(&path).display());
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(say)?;
        for waiting in lost {
            file.write_all(&line(waiting).map_err(|error| error.to_string())?).map_err(say)?;
        }
        for line in &self.damaged {
            writeln!(file, "{line}").map_err(say)?;
        }
        file.sync_data().map_err(say)?;
        self.damaged.clear();
        Ok(())
    }
}

fn check(json: &[u8]) -> String {
    Digest::of(json).hex()[..16].to_owned()
}

fn line(waiting: &Waiting) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(waiting)?;
    Ok([check(&json).as_bytes(), b" ", &json, b"\n"].concat())
}

fn parse(line: &[u8]) -> Option<Waiting> {
    let (sum, json) = line.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    if check(json).as_bytes() != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::State;

    fn commit(expected: u64) -> Commit {
        let state = State { revision: expected + 1, ..State::default() };
        let journal = crate::core::journal::Journal::default();
        Commit { expected, state: std::sync::Arc::new(state), records: Vec::new(), ledger: Vec::new(), journal }
    }

    fn revisions(spool: &Spool) -> Vec<u64> {
        spool.waiting().map(|waiting| waiting.commit.expected).collect()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_a_torn_tail_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = Spool::open(&path);
        assert_eq!(spool.append("shop/checkout", &commit(0)), Spooled::Disk);
        assert_eq!(spool.append("shop/checkout", &commit(1)), Spooled::Disk);
        drop(spool);
        let whole = std::fs::read(&path).unwrap();
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for torn in second..whole.len() {
            std::fs::write(&path, &whole[..torn]).unwrap();
            let mut spool = Spool::open(&path);
            assert_eq!(revisions(&spool), [0], "torn at {torn}");
            assert_eq!(spool.append("shop/checkout", &commit(1)), Spooled::Disk);
            drop(spool);
            assert_eq!(revisions(&Spool::open(&path)), [0, 1], "torn at {torn}");
        }
    }

    #[test]
    fn a_damaged_line_is_put_aside_and_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = Spool::open(&path);
        for expected in 0..3 {
            spool.append("shop/checkout", &commit(expected));
        }
        drop(spool);
        let text = std::fs::read_to_string(&path).unwrap().replacen("\"expected\":1", "\"expected\":7", 1);
        std::fs::write(&path, text).unwrap();
        let mut spool = Spool::open(&path);
        assert_eq!(revisions(&spool), [0, 2]);
        spool.retire(2, &[]).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("spool.lost")).unwrap().contains("\"expected\":7"));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn without_a_file_commits_stay_in_memory_and_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(&dir.path().join("missing").join("spool"));
        assert!(matches!(spool.append("shop/checkout", &commit(0)), Spooled::Memory(what) if what.contains("missing")));
        assert_eq!(revisions(&spool), [0]);
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        assert_eq!(spool.append("shop/checkout", &commit(1)), Spooled::Disk);
        assert_eq!(revisions(&spool), [0, 1]);
    }

    #[test]
    fn two_controllers_do_not_share_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let _first = Spool::open(&path);
        assert!(matches!(Spool::open(&path).append("a/b", &commit(0)), Spooled::Memory(what) if what.contains("another process")));
    }
}
