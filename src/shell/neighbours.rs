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
    frozen: BTreeSet<String>,
    /// Who last ordered a freeze of a scope, or its end, with the how manieth order that was.
    orders: BTreeMap<String, (u64, Request)>,
}

impl Book {
    fn ordered(&mut self, scope: &str, by: Request) {
        let number = self.orders.values().map(|(number, _)| number + 1).max().unwrap_or_default();
        self.orders.insert(scope.to_owned(), (number, by));
    }

    fn forget(&mut self, key: &str) {
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
        *book.sharing.entry(source.to_owned()).or_default() += 1;
    }

    /// A rollout breached.
    pub fn breached(&self, key: &str, at: Mono) {
        self.book().breaches.insert(key.to_owned(), at);
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
            let near = |other: &String| other != key && book.watched.get(other) == Some(source);
            u32::try_from(book.breaches.iter().filter(|(other, at)| near(other) && now.since(**at) <= window).count()).unwrap_or(u32::MAX)
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
