//! What every verb has at hand: the controller, the screen, the options.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use serde::Serialize;

use super::client::Client;
use super::text::Paint;
use super::{Color, Global};
use crate::config::{Paths, no_color};
use crate::error::Error;

/// What every verb has at hand.
#[derive(Debug)]
pub struct Context {
    /// Where the controller keeps its things.
    pub paths: Paths,
    /// The controller.
    pub client: Client,
    /// The cluster that is worked on, if not this machine.
    pub cluster: Option<Cluster>,
    /// Whether JSON is wanted.
    pub json: bool,
    /// How text is coloured.
    pub paint: Paint,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

/// Which cluster is worked on.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// How it is reached; absent: as `kubectl` finds it.
    pub kubeconfig: Option<PathBuf>,
    /// Backstop's own namespace there.
    pub namespace: String,
}

/// Whether standard output is coloured.
pub(super) fn paint(color: Color) -> Paint {
    Paint::new(match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stdout().is_terminal() && !no_color(),
    })
}

/// Prints a value as JSON, indented for people who look at it.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::internal("a value cannot be written as JSON").because(&error))?;
    print(&text)
}

/// Prints text and a line's end.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(|error| Error::output(&error))
}

impl Context {
    /// From the options.
    pub(super) fn new(global: &Global) -> Result<Self, Error> {
        let paths = Paths::find(global.data_dir.clone())?;
        let cluster = (global.kubernetes || global.kubeconfig.is_some())
            .then(|| Cluster { kubeconfig: global.kubeconfig.clone(), namespace: global.system_namespace.clone() });
        let client = match (&global.server, &cluster) {
            (Some(url), _) => Client::tcp(url, global.token_file.as_deref())?,
            (None, Some(cluster)) => Client::none(&cluster.namespace),
            (None, None) => Client::unix(paths.socket()),
        };
        Ok(Self { paths, client, cluster, json: global.json, paint: paint(global.color), terminal: std::io::stdout().is_terminal() })
    }

    /// Prints a value as JSON if that is wanted, else the text.
    pub(super) fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { print_json(value) } else { print(&text()) }
    }

    /// Prints one line for people; nothing if JSON is wanted.
    pub(super) fn say(&self, text: &str) -> Result<(), Error> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Says something that must not get lost between results: on standard error.
    pub(super) fn warn(text: &str) {
        // If nobody can be told, the work goes on.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
