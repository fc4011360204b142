//! Kubernetes: state and ledger in the API server.

pub mod connect;
pub mod freezes;
mod interim;
pub mod mark;
pub mod objects;
mod proofs;
mod records;
pub mod report;
pub mod signing;
mod status;
pub mod store;

pub use records::{WORKLOAD, label};

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::Client;

use crate::core::input::{Observed, Outcome};
use crate::core::release::{Release, ReleaseId};
use crate::core::state::Guard;
use crate::core::work::{Effect, Lane};
use crate::world::perform::Subjects;

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    revert: Client,
    forward: Client,
}

/// What was seen.
pub struct Seen {
    /// For the machine.
    pub observed: Observed,
    /// The workload's own template.
    pub spec: Option<SeenTemplate>,
    /// The members of each release.
    pub members: BTreeMap<ReleaseId, Vec<Member>>,
}

/// The template in the workload now.
pub struct SeenTemplate {
    /// The release.
    pub release: Result<Release, String>,
    /// Who asked.
    pub requester: Option<String>,
    /// Whether backstop wrote it.
    pub own: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Name.
    pub pod: String,
    /// Address.
    pub ip: Option<IpAddr>,
    /// Hash.
    pub hash: Option<String>,
}

impl Cluster {
    /// From two clients.
    pub fn new(revert: Client, forward: Client) -> Self {
        Self { revert, forward }
    }
    /// The client of a lane.
    pub fn client(&self, lane: Lane) -> &Client {
        match lane {
            Lane::Revert => &self.revert,
            Lane::Forward => &self.forward,
        }
    }
    /// Performs.
    pub async fn ensure(&self, subjects: &Subjects, effect: &Effect) -> Outcome {
        interim::ensure(self, subjects, effect).await
    }
    /// Sees.
    pub async fn see(&self, guard: &Guard, known: &[Release]) -> Result<Seen, String> {
        interim::see(self, guard, known).await
    }
}
