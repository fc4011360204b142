//! Whether a revert would work now: everything that it needs is asked for, and nothing is changed. The one place that puts it together, for
//! processes and for clusters.

use std::time::{Duration, Instant};

use futures::join;
use tokio::sync::Mutex;

use super::artifacts::is_kept;
use super::clock;
use super::flags;
use super::perform::{Place, Subjects, World};
use super::storage::Storage;
use crate::core::input::Outcome;
use crate::core::release::Release;
use crate::core::work::EvidenceFrom;

/// How long the store's answer holds, for all rollouts together: each asking is a write that is synced.
const STORE_ASKED_FOR: Duration = Duration::from_secs(2);
/// How long the host may take to answer.
const HOST_WITHIN: Duration = Duration::from_secs(5);

/// What the store last said, and when.
#[derive(Debug, Default)]
pub(super) struct StoreAsked(Mutex<Option<(Instant, Option<String>)>>);

impl World {
    /// Proves that a revert to `release` would work: its evidence, its artifacts, the place where it would run, the flags, the store. What
    /// is missing is `Denied`, all of it at once.
    pub(super) async fn prove(&self, subjects: &Subjects, release: &Release) -> Outcome {
        let (verified, place, images, flags, store) = join!(
            self.verify(subjects, release, EvidenceFrom::Store),
            self.place_lacks(subjects, release),
            self.images_lack(subjects, release),
            self.flags_lack(subjects),
            self.store_lacks(),
        );
        let missing = [place, images, flags, store].concat();
        if missing.is_empty() { verified } else { Outcome::Denied(missing.join("; ")) }
    }

    async fn place_lacks(&self, subjects: &Subjects, release: &Release) -> Vec<String> {
        let client = match &self.place {
            Place::Cluster(cluster) => return cluster.ready(subjects, release).await,
            Place::Host { client, .. } => client,
        };
        let (namespace, name) = subjects.guard.key.split_once('/').unwrap_or(("default", &subjects.guard.key));
        match tokio::time::timeout(HOST_WITHIN, client.view(namespace, name)).await {
            Ok(Ok(Some(_))) => Vec::new(),
            Ok(Ok(None)) => vec![format!("the host does not know {}", subjects.guard.key)],
            Ok(Err(fault)) => vec![fault.to_string()],
            Err(_) => vec![format!("the host did not answer within {HOST_WITHIN:?}")],
        }
    }

    async fn images_lack(&self, subjects: &Subjects, release: &Release) -> Vec<String> {
        let mut lost = Vec::new();
        for image in release.template.images() {
            if let Place::Host { content, .. } = &self.place
                && is_kept(content, &image).await
            {
                continue;
            }
            if let Err(fault) = self.collector.reach(&image, Self::artifacts(subjects)).await {
                lost.push(format!("{image} cannot be had: {fault}"));
            }
        }
        lost
    }

    async fn flags_lack(&self, subjects: &Subjects) -> Vec<String> {
        let mut lacking = Vec::new();
        for action in &subjects.guard.spec.revert.flags {
            let flag = format!("flag `{}` of `{}`", action.flag, action.use_);
            match self.flag_target(&action.use_) {
                None => lacking.push(format!("{flag}: there is no such FlagTarget")),
                Some(target) => match flags::probe(&target, action).await {
                    Outcome::Done { .. } => {}
                    Outcome::Transient { what, .. }
                    | Outcome::Denied(what)
                    | Outcome::Superseded(what)
                    | Outcome::Invalid(what)
                    | Outcome::Unknown(what) => lacking.push(format!("{flag} cannot be made safe: {what}")),
                },
            }
        }
        lacking
    }

    /// In a cluster the state is written where rights and dry runs were asked for already.
    async fn store_lacks(&self) -> Vec<String> {
        let Storage::Embedded(store) = &self.store else { return Vec::new() };
        let mut asked = self.store_asked.0.lock().await;
        let now = clock::instant();
        let holds = asked.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < STORE_ASKED_FOR);
        if !holds {
            let trouble = store.takes_writes().await.err().map(|error| format!("the store does not take writes: {error}"));
            *asked = Some((now, trouble));
        }
        asked.as_ref().and_then(|(_, trouble)| trouble.clone()).into_iter().collect()
    }
}
