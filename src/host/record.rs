//! What the host remembers, as synced files: one per workload, one per child, one for itself.
//!
//! A file is replaced as a whole: written beside, synced, renamed, and the folder synced, so that a crash leaves the
//! old or the new content, never a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::Fences;
use crate::core::release::{Release, ReleaseId};
use crate::core::spec::{Percent, Process};

/// Largest file that is read back.
const MAX_BYTES: u64 = 16 << 20;

/// A workload as it is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadRecord {
    /// Layout of this file.
    pub(crate) version: u32,
    /// Namespace of the guarding rollout.
    pub(crate) namespace: String,
    /// Name of the guarding rollout.
    pub(crate) name: String,
    /// The settings.
    pub(crate) process: Process,
    /// Where the proxy listened last; a port that was picked stays the same after a restart.
    pub(crate) bound: Option<SocketAddr>,
    /// Releases whose members run.
    pub(crate) arms: BTreeMap<ReleaseId, Release>,
    /// Share of new requests by release.
    pub(crate) weights: BTreeMap<ReleaseId, Percent>,
    /// The release in the workload's own specification.
    pub(crate) current: Option<ReleaseId>,
    /// Releases that may not be started.
    pub(crate) quarantined: BTreeSet<ReleaseId>,
    /// What orders the writers.
    pub(crate) fences: Fences,
}

impl WorkloadRecord {
    /// A workload that runs nothing yet.
    pub(crate) fn new(namespace: &str, name: &str, process: Process) -> Self {
        Self {
            version: 1,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            process,
            bound: None,
            arms: BTreeMap::new(),
            weights: BTreeMap::new(),
            current: None,
            quarantined: BTreeSet::new(),
            fences: Fences::default(),
        }
    }

    /// `namespace/name`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Share of `release` in new requests.
    pub(crate) fn weight(&self, release: &ReleaseId) -> Percent {
        self.weights.get(release).copied().unwrap_or(Percent::ZERO)
    }
}

/// A child that was started, so that the next host finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ChildRecord {
    /// Process id, which is also its process group.
    pub(crate) pid: u32,
    /// Start time of the process, in clock ticks since boot: with `boot` it tells a reused process id.
    pub(crate) started: u64,
    /// Identity of the boot.
    pub(crate) boot: String,
    /// `namespace/name`.
    pub(crate) workload: String,
    /// Its release.
    pub(crate) release: ReleaseId,
    /// Its place among the instances.
    pub(crate) slot: u16,
    /// Its loopback port.
    pub(crate) port: u16,
}

/// What the host remembers of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostRecord {
    /// Where `GET /metrics` answered last.
    pub(crate) metrics: SocketAddr,
}

/// Replaces the file at `path` with `value` and syncs it.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a state file needs a folder"))?;
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// The value in the file at `path`; `None` if there is no such file.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    if size > MAX_BYTES {
        return Err(io::Error::other(format!("{} has {size} bytes, more than the {MAX_BYTES} a state file may have", path.display())));
    }
    serde_json::from_reader(io::BufReader::new(file))
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Every file below `folder` with the extension `json`, at most `depth` folders deep.
pub(crate) fn files(folder: &Path, depth: u8) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && depth > 0 {
            found.extend(files(&path, depth - 1)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/host.json");
        let first = HostRecord { metrics: "127.0.0.1:1".parse().unwrap() };
        assert_eq!(load::<HostRecord>(&path).unwrap(), None);
        save(&path, &first).unwrap();
        // What a crash while writing leaves behind changes nothing.
        fs::write(path.with_extension("new"), b"{\"metr").unwrap();
        assert_eq!(load(&path).unwrap(), Some(first));
        let second = HostRecord { metrics: "127.0.0.1:2".parse().unwrap() };
        save(&path, &second).unwrap();
        assert_eq!(load(&path).unwrap(), Some(second));
        assert_eq!(files(folder.path(), 1).unwrap(), [path]);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.json");
        fs::write(&path, b"{}").unwrap();
        let error = load::<HostRecord>(&path).unwrap_err().to_string();
        assert!(error.contains("host.json") && error.contains("metrics"), "{error}");
    }
}
