//! Rules that ask: a query that gives one number, asked by backstop itself. What it says becomes an alert like those that Alertmanager sends,
//! which may hold a rollout back and nothing more: a number of anybody's making has no known rate of false alarms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::rollout::Shared;
use crate::core::input::{Alerted, Input};
use crate::core::release::Digest;
use crate::core::spec::{QueryRule, Trust};
use crate::core::time::Span;
use crate::world::clock;

/// How often it is looked whether there is anything to ask.
const RESTING: Duration = Duration::from_secs(1);

/// A time during which a query's answer held.
#[derive(Debug, Clone, Copy)]
struct Episode {
    starts_at: jiff::Timestamp,
    since: Instant,
    told: bool,
}

/// Asks the queries of one rollout while something is on trial, until `stop` says so.
pub async fn ask(shared: Arc<Shared>, key: String, mut stop: watch::Receiver<bool>) {
    let mut episodes = BTreeMap::new();
    loop {
        let pause = once(&shared, &key, &mut episodes).await.unwrap_or(RESTING);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return,
        }
    }
}

/// Asks each query once; how long to wait until the next time, if there is anything to ask.
async fn once(shared: &Shared, key: &str, episodes: &mut BTreeMap<String, Episode>) -> Option<Duration> {
    let documents = shared.documents();
    let (_, spec) = documents.rollouts.get(key)?;
    let rules: Vec<(&QueryRule, Span)> =
        spec.also_breach_on.iter().filter_map(|rule| Some((rule.query.as_ref()?, rule.for_.unwrap_or_default()))).collect();
    if rules.is_empty() || shared.handle.view(key)?.0.phase.is_resting() {
        return None;
    }
    for (rule, least) in rules {
        let fingerprint = Digest::of(rule.promql.as_bytes()).to_string();
        // No answer is neither good nor bad news: what held goes on to hold, until the wait for it is over.
        let Ok(value) = shared.world.scalar(&spec.source, &rule.promql).await else { continue };
        let Some((episode, firing)) = step(episodes, &fingerprint, rule.holds(value), least.0) else { continue };
        let name = format!("{} is {value}", rule.promql);
        let alerted = Alerted { name, fingerprint, starts_at: episode.starts_at, firing, trust: Trust::Wait };
        if let Err(error) = shared.handle.tell(key, Input::Alerted(alerted)) {
            tracing::warn!(rollout = key, %error, "what a query says was not taken");
        }
    }
    documents.sources.get(&spec.source).and_then(|source| source.prometheus.as_ref()).map(|source| source.scrape_interval.0)
}

/// What there is to tell after an answer, if anything: that it has held for `least`, or that it does no more.
fn step(episodes: &mut BTreeMap<String, Episode>, of: &str, holds: bool, least: Duration) -> Option<(Episode, bool)> {
    if !holds {
        return episodes.remove(of).filter(|episode| episode.told).map(|episode| (episode, false));
    }
    let now = clock::instant();
    let episode = episodes.entry(of.to_owned()).or_insert_with(|| Episode { starts_at: clock::wall(), since: now, told: false });
    let due = !episode.told && now.saturating_duration_since(episode.since) >= least;
    episode.told |= due;
    due.then_some((*episode, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_once_it_has_held_and_once_it_does_no_more() {
        let mut episodes = BTreeMap::new();
        let mut told = |holds, least| step(&mut episodes, "q", holds, Duration::from_millis(least)).map(|(_, firing)| firing);
        assert_eq!(told(true, 3_600_000), None);
        assert_eq!(told(false, 3_600_000), None, "it never held for long enough");
        assert_eq!(told(true, 0), Some(true));
        assert_eq!(told(true, 0), None);
        assert_eq!(told(false, 0), Some(false));
        assert_eq!(told(false, 0), None);
    }
}
