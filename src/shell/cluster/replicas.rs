//! Who does which work: each replica keeps a Lease alive, and each guard goes to one of the replicas that live, the same for all who look.
//!
//! Leases only share the work. Two replicas on one guard are as safe as one: the swap of its status decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use tokio::sync::watch;

use crate::core::release::Digest;
use crate::telemetry::work::work;
use crate::world::clock;

/// The label of every replica's Lease.
const REPLICA: &str = "backstop.dev/replica";
/// How often a Lease is renewed, and the others' are read.
const RENEW: Duration = Duration::from_secs(1);
/// How long a Lease that is not renewed counts.
const LAPSE: Duration = Duration::from_secs(3);

/// The replicas, this one among them, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Living {
    /// Those whose Lease has not lapsed.
    pub(super) all: Vec<String>,
    /// Those of them that were seen to renew it. What is urgent is left to them alone: after a crash nobody waits for a Lease to lapse.
    pub(super) proven: Vec<String>,
}

/// Whether `identity` is the one of the `living` that takes care of `key`: the one with the highest hash of both (rendezvous hashing),
/// so that a replica that comes or goes moves its own share alone.
pub(super) fn is_mine(living: &[String], identity: &str, key: &str) -> bool {
    let weight = |replica: &String| Digest::of(format!("{replica}\n{key}").as_bytes());
    living.iter().max_by_key(|replica| weight(replica)).is_none_or(|first| first == identity)
}

/// Keeps this replica's Lease, and tells who lives.
pub(super) struct Replicas {
    api: Api<Lease>,
    identity: String,
    /// Renewals that were seen, each with the moment of this process's clock: nobody's wall clock is trusted.
    seen: BTreeMap<String, Renewal>,
}

struct Renewal {
    at: Option<MicroTime>,
    seen: Instant,
    proven: bool,
}

impl Replicas {
    pub(super) fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned(), seen: BTreeMap::new() }
    }

    fn name(&self) -> String {
        format!("backstop-{}", self.identity)
    }

    /// Renews and looks around until `stop`; then gives the Lease back, so that others need not wait for its end.
    pub(super) async fn run(mut self, living: watch::Sender<Living>, mut stop: watch::Receiver<bool>) {
        loop {
            match self.renew().await {
                Ok(()) => {
                    work().lease_renewed.set(clock::wall().as_second());
                }
                Err(error) => tracing::warn!(%error, "the Lease is not renewed; another replica may take over its share"),
            }
            match self.look().await {
                Ok(now) => {
                    work().replicas.set(i64::try_from(now.all.len()).unwrap_or(i64::MAX));
                    living.send_if_modified(|known| (*known != now).then(|| *known = now).is_some());
                }
                // Whoever cannot see the others goes on with what it had: two on one guard are safe, none is not.
                Err(error) => tracing::warn!(%error, "the other replicas cannot be seen"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.until_next()) => {}
                _ = stop.changed() => break,
            }
        }
        if let Err(error) = self.api.delete(&self.name(), &DeleteParams::default()).await {
            tracing::debug!(%error, "the Lease stays until it lapses");
        }
    }

    /// Until this Lease is to be renewed, or another one lapses.
    fn until_next(&self) -> Duration {
        let now = clock::instant();
        let lapses = self.seen.values().map(|renewal| LAPSE.saturating_sub(now.saturating_duration_since(renewal.seen)));
        lapses.filter(|left| !left.is_zero()).fold(RENEW, Duration::min)
    }

    async fn renew(&self) -> kube::Result<()> {
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LAPSE.as_secs()).ok(),
            renew_time: Some(MicroTime(clock::wall())),
            ..LeaseSpec::default()
        };
        let metadata =
            ObjectMeta { name: Some(self.name()), labels: Some([(REPLICA.to_owned(), "true".to_owned())].into()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        self.api.patch(&self.name(), &PatchParams::apply("backstop").force(), &Patch::Apply(lease)).await.map(drop)
    }

    /// Who lives: whose Lease was renewed, as far as this process has seen, within the time that it counts.
    async fn look(&mut self) -> kube::Result<Living> {
        let found = self.api.list(&ListParams::default().labels(REPLICA)).await?;
        let now = clock::instant();
        let mut living = Living { all: vec![self.identity.clone()], proven: vec![self.identity.clone()] };
        let mut there = BTreeMap::new();
        for lease in found {
            let Some((holder, renewed)) = lease.spec.and_then(|spec| Some((spec.holder_identity?, spec.renew_time))) else { continue };
            if holder == self.identity {
                continue;
            }
            let (seen, proven) = match self.seen.get(&holder) {
                Some(before) if before.at == renewed => (before.seen, before.proven),
                before => (now, before.is_some()),
            };
            if now.saturating_duration_since(seen) < LAPSE {
                living.all.push(holder.clone());
                living.proven.extend(proven.then(|| holder.clone()));
            }
            there.insert(holder, Renewal { at: renewed, seen, proven });
        }
        self.seen = there;
        living.all.sort();
        living.proven.sort();
        Ok(living)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guard_has_one_replica_and_a_lost_one_moves_its_own_share_alone() {
        let all: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let keys: Vec<String> = (0..300).map(|n| format!("shop/service-{n}")).collect();
        let owner = |living: &[String], key: &str| living.iter().filter(|one| is_mine(living, one, key)).cloned().collect::<Vec<_>>();
        let before: Vec<_> = keys.iter().map(|key| owner(&all, key)).collect();
        assert!(before.iter().all(|owners| owners.len() == 1));
        assert!(all.iter().all(|one| before.iter().filter(|owners| owners[0] == *one).count() > 50), "evenly");
        for (key, owners) in keys.iter().zip(&before).filter(|(_, owners)| owners[0] != "c") {
            assert_eq!(owner(&all[..2], key), *owners);
        }
    }
}
