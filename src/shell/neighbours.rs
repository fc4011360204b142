//! Who breaches beside whom: what the breaker and the search for a shared cause need to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::actor::Request;
use crate::core::input::Scope;
use crate::core::time::Mono;

/// How far back breaches count for the breaker.
const BREAKER_WINDOW: Duration = Duration::from_mins(2);
/// How far back they count as witnesses of a shared cause.
const WITNESS_WINDOW: Duration = Duration::from_mins(1);

/// Breaches by source and rollout.
#[derive(Debug, Default)]
pub struct Neighbours(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// The source of each rollout, and how many share each source: asked at every look.
    watched: BTreeMap<String, String>,
    sharing: BTreeMap<String, u32>,
    breaches: BTreeMap<String, Mono>,
    /// When the rollouts of each source breached, the earliest first: counted again by every rollout whenever one breaches.
    times: BTreeMap<String, Vec<Mono>>,
    frozen: BTreeSet<String>,
    /// Who last ordered a freeze of a scope, or its end, with the how manieth order that was.
    orders: BTreeMap<String, (u64, Request)>,
}

impl Book {
    fn ordered(&mut self, scope: &str, by: Request) {
        let number = self.orders.values().map(|(number, _)| number + 1).max().unwrap_or_default();
        self.orders.insert(scope.to_owned(), (number, by));
    }

    /// Keeps `times` in step: a rollout counts while it is watched and has breached.
    fn count(&mut self, key: &str, counts: bool) {
        let (Some(source), Some(at)) = (self.watched.get(key), self.breaches.get(key)) else { return };
        let times = self.times.entry(source.clone()).or_default();
        let place = times.partition_point(|time| time < at);
        if counts {
            times.insert(place, *at);
        } else {
            times.remove(place);
        }
    }

    fn forget(&mut self, key: &str) {
        self.count(key, false);
        let Some(source) = self.watched.remove(key) else { return };
        if let Some(count) = self.sharing.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sharing.remove(&source);
            }
        }
    }
}

impl Neighbours {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rollout is watched through a source.
    pub fn watch(&self, key: &str, source: &str) {
        let mut book = self.book();
        book.forget(key);
        book.watched.insert(key.to_owned(), source.to_owned());
        book.count(key, true);
        *book.sharing.entry(source.to_owned()).or_default() += 1;
    }

    /// A rollout breached.
    pub fn breached(&self, key: &str, at: Mono) {
        let mut book = self.book();
        book.count(key, false);
        book.breaches.insert(key.to_owned(), at);
        book.count(key, true);
    }

    /// Freezes or thaws a namespace, or everything with `*`. `by` is absent for a freeze that an earlier controller knew of.
    pub fn freeze(&self, scope: &str, on: bool, by: Option<Request>) {
        let mut book = self.book();
        if on {
            book.frozen.insert(scope.to_owned());
        } else {
            book.frozen.remove(scope);
        }
        if let Some(by) = by {
            book.ordered(scope, by);
        }
    }

    /// Replaces all freezes by those of these scopes, each with who ordered it, if that is known.
    pub fn replace_freezes(&self, frozen: BTreeMap<String, Option<Request>>) {
        let mut book = self.book();
        for (scope, by) in &frozen {
            if let Some(by) = by.as_ref().filter(|by| book.orders.get(scope).is_none_or(|(_, known)| known.id != by.id)) {
                book.ordered(scope, by.clone());
            }
        }
        book.frozen = frozen.into_keys().collect();
    }

    /// A rollout is watched here no more; its breach still counts.
    pub fn forget(&self, key: &str) {
        self.book().forget(key);
    }

    /// What surrounds `key` now.
    pub fn scope(&self, key: &str, now: Mono) -> Scope {
        let book = self.book();
        let Some(source) = book.watched.get(key) else { return Scope::default() };
        let others = |window: Duration| {
            let times = book.times.get(source).map(Vec::as_slice).unwrap_or_default();
            let all = times.len() - times.partition_point(|at| now.since(*at) > window);
            let own = book.breaches.get(key).is_some_and(|at| now.since(*at) <= window);
            u32::try_from(all - usize::from(own)).unwrap_or(u32::MAX)
        };
        let namespace = key.split('/').next().unwrap_or_default();
        Scope {
            frozen: ["*", namespace].iter().any(|scope| book.frozen.contains(*scope)),
            by: (["*", namespace].iter().filter_map(|scope| book.orders.get(*scope)))
                .max_by_key(|(number, _)| number)
                .map(|(_, by)| Box::new(by.clone())),
            breaching: others(BREAKER_WINDOW),
            breaching_recently: others(WITNESS_WINDOW),
            watched: book.sharing.get(source).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches_of_the_source_are_counted_while_they_are_watched_and_near() {
        let neighbours = Neighbours::default();
        for (key, source) in [("a/1", "one"), ("a/2", "one"), ("a/3", "one"), ("a/4", "two")] {
            neighbours.watch(key, source);
        }
        let seconds = |seconds: u64| Mono(seconds * 1000);
        let counts = |key: &str, at: u64| {
            let scope = neighbours.scope(key, seconds(at));
            (scope.breaching, scope.breaching_recently, scope.watched)
        };
        neighbours.breached("a/1", seconds(0));
        neighbours.breached("a/2", seconds(30));
        neighbours.breached("a/4", seconds(30));
        assert_eq!(counts("a/3", 40), (2, 2, 3));
        assert_eq!((counts("a/1", 40), counts("a/2", 40), counts("a/4", 40)), ((1, 1, 3), (1, 1, 3), (0, 0, 1)), "nobody counts itself");
        assert_eq!((counts("a/3", 70), counts("a/3", 130), counts("a/3", 200)), ((2, 1, 3), (1, 0, 3), (0, 0, 3)));
        neighbours.breached("a/1", seconds(100));
        assert_eq!(counts("a/3", 130), (2, 1, 3), "again is later");
        neighbours.watch("a/1", "two");
        assert_eq!((counts("a/3", 130), counts("a/4", 130)), ((1, 0, 2), (1, 1, 2)));
        neighbours.forget("a/2");
        assert_eq!(counts("a/3", 130), (0, 0, 1));
        neighbours.watch("a/2", "one");
        assert_eq!(counts("a/3", 130), (1, 0, 2), "it still counts");
    }
}
