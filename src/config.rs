//! What a controller is told at its start. The only place, besides the command line's own options, that reads the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where one controller keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    data_dir: PathBuf,
}

/// What a controller is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where state, ledger, audit log, evidence and sockets are.
    pub paths: Paths,
    /// Files and folders with the documents that people write; none in a cluster.
    pub specs: Vec<PathBuf>,
    /// The cluster whose documents and workloads are watched, instead.
    pub cluster: Option<ClusterConfig>,
    /// Loopback address on which the API is also served, with tokens.
    pub listen: Option<SocketAddr>,
    /// Address on which probes and metrics are served, to everybody.
    pub probes: Option<SocketAddr>,
    /// Who may do what; `principals.yaml` in the data folder if absent.
    pub principals: Option<PathBuf>,
    /// Permissions of the controller's socket: `0o600` unless others may connect too.
    pub socket_mode: u32,
    /// Where pages and notices are sent.
    pub notify_url: Option<String>,
    /// File with the bearer token for that.
    pub notify_token_file: Option<PathBuf>,
}

/// What the controller of a cluster is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How the API server is reached; as a pod of the cluster if absent.
    pub kubeconfig: Option<PathBuf>,
    /// Backstop's own namespace.
    pub namespace: String,
    /// The namespaces that are guarded; all if empty.
    pub namespaces: Vec<String>,
    /// This replica's name.
    pub identity: String,
}

impl Paths {
    /// Below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into() }
    }

    /// Below what was given, else the user's state folder (XDG base directory specification).
    ///
    /// # Errors
    /// If nothing was given and the environment names no home.
    pub fn find(given: Option<PathBuf>) -> Result<Self, Error> {
        let state = given.or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("backstop")));
        state.or_else(|| absolute("HOME").map(|home| home.join(".local/state/backstop"))).map(Self::new).ok_or_else(|| {
            Error::usage("no data folder is known: neither `XDG_STATE_HOME` nor `HOME` is set")
                .hint("name one with `--data-dir DIR` or `BACKSTOP_DATA_DIR`")
        })
    }

    /// The data folder itself.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The controller's API.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("backstop.sock")
    }

    /// The process host's folder.
    pub fn host_dir(&self) -> PathBuf {
        self.data_dir.join("host")
    }

    /// The process host's API.
    pub fn host_socket(&self) -> PathBuf {
        self.host_dir().join("host.sock")
    }

    /// Who may do what, unless another file was named.
    pub fn principals(&self) -> PathBuf {
        self.data_dir.join("principals.yaml")
    }
}

/// A folder that the environment names; relative ones are ignored, as the XDG specification asks.
#[allow(clippy::disallowed_methods)]
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What `RUST_LOG` says, for the log's filter.
#[allow(clippy::disallowed_methods)]
pub fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty())
}

/// Every variable that is text, for the sample service.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// `$PATH`, for the host's children.
pub fn search_path() -> Option<String> {
    std::env::var_os("PATH").and_then(|path| path.into_string().ok())
}

/// The machine's name, which is a pod's own in a cluster.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Docker's configuration file with registry credentials: below `DOCKER_CONFIG`, else in the home folder; if it is there.
pub fn docker_config() -> Option<PathBuf> {
    let folder = absolute("DOCKER_CONFIG").or_else(|| absolute("HOME").map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json")).filter(|file| file.is_file())
}

/// Whether the environment asks for output without colour (no-color.org).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_below_the_data_folder() {
        let paths = Paths::find(Some("/srv/backstop".into())).unwrap();
        assert_eq!(paths.socket(), Path::new("/srv/backstop/backstop.sock"));
        assert_eq!(paths.host_socket(), Path::new("/srv/backstop/host/host.sock"));
        assert_eq!(paths.principals(), Path::new("/srv/backstop/principals.yaml"));
    }
}
