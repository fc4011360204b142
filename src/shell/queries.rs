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

/// A time during which a query's answer held, in one attempt.
#[derive(Debug, Clone)]
struct Episode {
    starts_at: jiff::Timestamp,
    since: Instant,
    /// What the rollout was told, by this name.
    told: Option<String>,
}

/// What is known of one rollout's queries.
#[derive(Debug, Default)]
struct Asked {
    /// The attempt that is on trial: what held in one is told again in the next, for an alert holds back only so long.
    attempt: Option<u64>,
    /// By the fingerprint of the query.
    episodes: BTreeMap<String, Episode>,
}

/// Asks the queries of one rollout while something is on trial, until `stop` says so.
pub async fn ask(shared: Arc<Shared>, key: String, mut stop: watch::Receiver<bool>) {
    let mut asked = Asked::default();
    loop {
        let pause = once(&shared, &key, &mut asked).await.unwrap_or(RESTING);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return,
        }
    }
}

/// Asks each query once; how long to wait until the next time, if there is anything to ask.
async fn once(shared: &Shared, key: &str, asked: &mut Asked) -> Option<Duration> {
    let tell = |alerted| match shared.handle.tell(key, Input::Alerted(alerted)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(rollout = key, %error, "what a query says was not taken; it is told again");
            false
        }
    };
    let documents = shared.documents();
    let (_, spec) = documents.rollouts.get(key)?;
    let rules: Vec<(&QueryRule, Span)> =
        spec.also_breach_on.iter().filter_map(|rule| Some((rule.query.as_ref()?, rule.for_.unwrap_or_default()))).collect();
    let view = shared.handle.view(key)?;
    let on_trial = !rules.is_empty() && !view.0.phase.is_resting();
    if !asked.turn_to(on_trial.then_some(view.0.generation), tell) || !on_trial {
        return None;
    }
    for (rule, least) in rules {
        let fingerprint = Digest::of(rule.promql.as_bytes()).to_string();
        // No answer is neither good nor bad news: what held goes on to hold, until the wait for it is over.
        let Ok(value) = shared.world.scalar(&spec.source, &rule.promql).await else { continue };
        let name = format!("{} is {value}", rule.promql);
        asked.answered(&fingerprint, name, rule.holds(value), least.0, tell);
    }
    documents.sources.get(&spec.source).and_then(|source| source.prometheus.as_ref()).map(|source| source.scrape_interval.0)
}

impl Asked {
    /// Another attempt, or none, has taken the place of the one that was on trial: what held in that one is over. Whether the rollout was
    /// told so, by `tell`.
    fn turn_to(&mut self, attempt: Option<u64>, tell: impl Fn(Alerted) -> bool) -> bool {
        if self.attempt != attempt {
            self.episodes.retain(|of, episode| episode.told.clone().is_some_and(|name| !tell(episode.alert(of, name, false))));
            if !self.episodes.is_empty() {
                return false;
            }
            self.attempt = attempt;
        }
        true
    }

    /// Has the rollout told, by `tell`, that the answer has held for `least`, or that it does no more. What it does not take it is told
    /// after the next answer.
    fn answered(&mut self, of: &str, name: String, holds: bool, least: Duration, tell: impl Fn(Alerted) -> bool) {
        let now = clock::instant();
        if holds {
            let begun = || Episode { starts_at: clock::wall(), since: now, told: None };
            let episode = self.episodes.entry(of.to_owned()).or_insert_with(begun);
            let due = episode.told.is_none() && now.saturating_duration_since(episode.since) >= least;
            if due && tell(episode.alert(of, name.clone(), true)) {
                episode.told = Some(name);
            }
        } else if let Some(episode) = self.episodes.get(of)
            && (episode.told.is_none() || tell(episode.alert(of, name, false)))
        {
            self.episodes.remove(of);
        }
    }
}

impl Episode {
    fn alert(&self, fingerprint: &str, name: String, firing: bool) -> Alerted {
        Alerted { name, fingerprint: fingerprint.to_owned(), starts_at: self.starts_at, firing, trust: Trust::Wait }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What a rollout was told, while it takes anything in.
    #[derive(Default)]
    struct Told {
        alerts: RefCell<Vec<(jiff::Timestamp, bool)>>,
        full: bool,
    }

    impl Told {
        fn tell(&self) -> impl Fn(Alerted) -> bool {
            |alerted| {
                if !self.full {
                    self.alerts.borrow_mut().push((alerted.starts_at, alerted.firing));
                }
                !self.full
            }
        }

        fn take(&self) -> Vec<bool> {
            self.alerts.take().into_iter().map(|(_, firing)| firing).collect()
        }
    }

    fn answer(asked: &mut Asked, holds: bool, least: u64, told: &Told) -> Vec<bool> {
        asked.answered("q", "q is 1".into(), holds, Duration::from_millis(least), told.tell());
        told.take()
    }

    #[test]
    fn an_answer_is_told_once_it_has_held_and_once_it_does_no_more() {
        let (mut asked, told) = (Asked::default(), Told::default());
        let mut tells = |holds, least| answer(&mut asked, holds, least, &told);
        let nothing: [bool; 0] = [];
        assert_eq!(tells(true, 3_600_000), nothing);
        assert_eq!(tells(false, 3_600_000), nothing, "it never held for long enough");
        assert_eq!(tells(true, 0), [true]);
        assert_eq!(tells(true, 0), nothing);
        assert_eq!(tells(false, 0), [false]);
        assert_eq!(tells(false, 0), nothing);
    }

    #[test]
    fn what_held_in_one_attempt_is_told_again_in_the_next() {
        for between in [&[None, Some(5)][..], &[Some(5)]] {
            let (mut asked, told) = (Asked::default(), Told::default());
            assert!(asked.turn_to(Some(4), told.tell()));
            assert_eq!(answer(&mut asked, true, 0, &told), [true]);
            for attempt in between {
                assert!(asked.turn_to(*attempt, told.tell()));
            }
            assert_eq!(told.take(), [false], "it is over with the attempt");
            assert_eq!(answer(&mut asked, true, 0, &told), [true]);
        }
    }

    #[test]
    fn what_is_not_taken_is_told_again() {
        let (mut asked, mut told) = (Asked::default(), Told { full: true, ..Told::default() });
        assert!(asked.turn_to(Some(4), told.tell()));
        answer(&mut asked, true, 0, &told);
        told.full = false;
        assert_eq!(answer(&mut asked, true, 0, &told), [true]);
        told.full = true;
        assert!(!asked.turn_to(None, told.tell()));
        told.full = false;
        assert!(asked.turn_to(None, told.tell()));
        assert_eq!(told.take(), [false]);
        assert_eq!(answer(&mut asked, true, 0, &told), [true]);
        told.full = true;
        answer(&mut asked, false, 0, &told);
        told.full = false;
        assert_eq!(answer(&mut asked, false, 0, &told), [false]);
    }
}
