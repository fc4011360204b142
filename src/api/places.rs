//! Places for connections: how many there are, and whose is given up when they are all taken.
//!
//! A connection costs nothing to open, so one that waits for its next request has to make room for one that may bring one: else a few
//! hundred silent ones would keep probes and people out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// Connections of one listener at once.
const CONNECTIONS_MAX: usize = 512;
/// Connections of one user of the operating system at once: others must get through, too.
const USER_MAX: usize = 128;
/// Connections from one address at once; behind a proxy on this machine everybody is there.
const ADDRESS_MAX: usize = 256;

/// Who is at the other end, as far as places are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A user of the operating system, on the socket.
    User(u32),
    /// An address of the network.
    Address(IpAddr),
    /// Somebody on the socket whom the kernel does not name.
    Unnamed,
}

impl Origin {
    fn most(self) -> usize {
        match self {
            Self::User(_) => USER_MAX,
            Self::Address(_) => ADDRESS_MAX,
            Self::Unnamed => CONNECTIONS_MAX,
        }
    }
}

/// The places of one listener. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    next: u64,
    /// The oldest first.
    taken: BTreeMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    from: Origin,
    /// Whether a request is under way, or the answer to one.
    busy: bool,
    given_up: Arc<Notify>,
}

impl Places {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place. If there is none left, the oldest idle connection gives up its own: one of the same end, if that has as many as it may
    /// have. Nothing if none is idle.
    pub(super) fn take(&self, from: Origin) -> Option<Place> {
        let mut book = self.book();
        let theirs = |taken: &Taken| taken.from == from;
        let crowded = book.taken.values().filter(|taken| theirs(taken)).count() >= from.most();
        if crowded || book.taken.len() >= CONNECTIONS_MAX {
            let mut idle = book.taken.iter().filter(|(_, taken)| !taken.busy && (!crowded || theirs(taken)));
            let oldest = idle.next().map(|(id, _)| *id)?;
            if let Some(taken) = book.taken.remove(&oldest) {
                taken.given_up.notify_one();
            }
        }
        let (id, given_up) = (book.next, Arc::new(Notify::new()));
        book.next += 1;
        book.taken.insert(id, Taken { from, busy: false, given_up: Arc::clone(&given_up) });
        Some(Place { id, given_up, places: self.clone() })
    }
}

/// A connection's place; the end of it makes room for another.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    given_up: Arc<Notify>,
    places: Places,
}

impl Place {
    /// Ends when the place is somebody else's: the connection is to be closed.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// A whole request has arrived: the place is kept until what is returned is dropped.
    pub(super) fn busy(&self) -> Busy {
        let busy = Busy { id: self.id, places: self.places.clone() };
        busy.mark(true);
        busy
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.book().taken.remove(&self.id);
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Busy {
    id: u64,
    places: Places,
}

impl Busy {
    fn mark(&self, busy: bool) {
        if let Some(taken) = self.places.book().taken.get_mut(&self.id) {
            taken.busy = busy;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.mark(false);
    }
}

/// An answer's body, during which the place is kept.
#[derive(Debug)]
pub(super) struct Held {
    body: Body,
    _busy: Busy,
}

impl Held {
    pub(super) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::FutureExt as _;

    use super::*;

    fn address(last: u8) -> Origin {
        Origin::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
    }

    fn is_given_up(place: &Place) -> bool {
        place.given_up().now_or_never().is_some()
    }

    #[test]
    fn one_end_makes_room_for_itself_and_all_for_all() {
        let places = Places::default();
        let ends = [address(1), address(2), Origin::User(1_000), Origin::User(0)];
        let crowd = places.take(ends[0]).unwrap();
        let others: Vec<Place> = (1..ADDRESS_MAX).map(|_| places.take(ends[0]).unwrap()).collect();
        let user = places.take(ends[2]).unwrap();
        assert!(!is_given_up(&crowd));
        let _one_more = places.take(ends[0]).unwrap();
        assert!(is_given_up(&crowd) && !is_given_up(&user), "the oldest of that address");
        let _rest: Vec<Place> = (ADDRESS_MAX + 1..CONNECTIONS_MAX).map(|_| places.take(ends[1]).unwrap()).collect();
        assert!(!is_given_up(&others[0]));
        let _last = places.take(ends[3]).unwrap();
        assert!(is_given_up(&others[0]), "the oldest of all");
        assert_eq!(places.book().taken.len(), CONNECTIONS_MAX);
    }

    #[test]
    fn whoever_is_answered_keeps_the_place_and_whoever_ends_leaves_it() {
        let places = Places::default();
        let mut taken: Vec<Place> = (0..USER_MAX).map(|_| places.take(Origin::User(1)).unwrap()).collect();
        let mut busy: Vec<Busy> = taken.iter().map(Place::busy).collect();
        assert!(places.take(Origin::User(1)).is_none());
        assert!(places.take(Origin::User(2)).is_some(), "others get through");
        drop(busy.pop());
        let more = places.take(Origin::User(1));
        assert!(more.is_some() && is_given_up(&taken[USER_MAX - 1]) && !is_given_up(&taken[0]));
        drop(busy);
        drop(more);
        taken.clear();
        assert!(places.book().taken.is_empty());
    }
}
