//! Who breaches beside whom: what the breaker and the search for a shared cause need to know.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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
    watched: BTreeMap<String, String>,
    breaches: BTreeMap<String, Mono>,
    frozen: BTreeMap<String, String>,
}

impl Neighbours {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rollout is watched through a source.
    pub fn watch(&self, key: &str, source: &str) {
        self.book().watched.insert(key.to_owned(), source.to_owned());
    }

    /// A rollout breached.
    pub fn breached(&self, key: &str, at: Mono) {
        self.book().breaches.insert(key.to_owned(), at);
    }

    /// Freezes (`Some(who)`) or thaws (`None`) a namespace, or everything with `*`.
    pub fn freeze(&self, scope: &str, who: Option<String>) {
        let frozen = &mut self.book().frozen;
        match who {
            Some(who) => drop(frozen.insert(scope.to_owned(), who)),
            None => drop(frozen.remove(scope)),
        }
    }

    /// Replaces all freezes.
    pub fn replace_freezes(&self, frozen: BTreeMap<String, String>) {
        self.book().frozen = frozen;
    }

    /// A rollout is watched here no more; its breach still counts.
    pub fn forget(&self, key: &str) {
        self.book().watched.remove(key);
    }

    /// What surrounds `key` now.
    pub fn scope(&self, key: &str, now: Mono) -> Scope {
        let book = self.book();
        let Some(source) = book.watched.get(key) else { return Scope::default() };
        let others = |window: Duration| {
            let near = |other: &String| other != key && book.watched.get(other) == Some(source);
            u32::try_from(book.breaches.iter().filter(|(other, at)| near(other) && now.since(**at) <= window).count()).unwrap_or(u32::MAX)
        };
        let namespace = key.split('/').next().unwrap_or_default();
        Scope {
            frozen: book.frozen.contains_key("*") || book.frozen.contains_key(namespace),
            breaching: others(BREAKER_WINDOW),
            breaching_recently: others(WITNESS_WINDOW),
            watched: u32::try_from(book.watched.values().filter(|other| *other == source).count()).unwrap_or(u32::MAX),
        }
    }
}
