//! A request's body on its way from the client to a child: whose turn it is, and whether the client broke off.
//!
//! A client that stops sending, or sends what is no body, is no failure of a release; and while the proxy waits for the
//! client, the time that the child may take does not run.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::metrics::lock;
use crate::world::clock;

/// What is counted for a client that went away.
pub(crate) const CLIENT_CLOSED: u16 = 499;

/// What is counted for a client whose body is not framed as HTTP has it.
const BAD_FRAMING: u16 = 400;

/// A request's body, watched as a child takes it.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    progress: Arc<Progress>,
}

/// How far the body of one request is.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Stand>);

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The client: it has more to send.
    Client,
    /// The child: it has all that the client sent, or does not take it.
    Child,
}

#[derive(Debug, Clone, Copy)]
struct Stand {
    turn: Turn,
    since: Instant,
    broken: Option<u16>,
}

impl Upload {
    /// `body`, of which nothing was read yet.
    pub(crate) fn new(body: Incoming) -> Self {
        let stand = Stand { turn: Turn::Child, since: clock::instant(), broken: None };
        Self { body, progress: Arc::new(Progress(Mutex::new(stand))) }
    }

    /// How far it is, also once the body itself was handed on.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }
}

impl Progress {
    /// Gives a child its whole time: nothing was sent to it before.
    pub(crate) fn begin(&self) {
        lock(&self.0).since = clock::instant();
    }

    /// The code to count if the client did not send the body that it announced.
    pub(crate) fn broken(&self) -> Option<u16> {
        lock(&self.0).broken
    }

    /// Ends when it has been one side's turn for `patience` without a pause, and says whose.
    pub(crate) async fn stalled(&self, patience: Duration) -> Turn {
        loop {
            let stand = *lock(&self.0);
            let until = stand.since + patience;
            if clock::instant() >= until {
                return stand.turn;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn polled(&self, polled: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) {
        let mut stand = lock(&self.0);
        match polled {
            Poll::Pending if stand.turn == Turn::Client => {}
            Poll::Pending => (stand.turn, stand.since) = (Turn::Client, clock::instant()),
            Poll::Ready(Some(Err(error))) => stand.broken = Some(code_of(error)),
            Poll::Ready(_) => (stand.turn, stand.since) = (Turn::Child, clock::instant()),
        }
    }
}

fn code_of(error: &hyper::Error) -> u16 {
    let kind = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    if matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) { BAD_FRAMING } else { CLIENT_CLOSED }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.progress.polled(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
