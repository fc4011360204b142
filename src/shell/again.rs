//! What breaks is begun again: a fault that one rollout met must not leave it without a controller until somebody starts another.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::core::backoff;
use crate::telemetry::work::work;
use crate::world::clock;

/// What lasted for so long did not break by beginning again.
const LASTED: Duration = Duration::from_mins(5);

/// Runs what `begin` makes until it ends, or `stop` says so. What breaks, or ends with an error, is begun again after a pause, which grows
/// from 100 ms to 2 s while it keeps breaking. What it ended with; nothing if it was stopped before.
pub(super) async fn until_done<T, E, F>(key: &str, mut stop: watch::Receiver<bool>, mut begin: impl FnMut() -> F) -> Option<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut broken = 0;
    loop {
        let since = clock::instant();
        // What broke is dropped whole; what others see of it is behind locks that nobody leaves half done.
        match AssertUnwindSafe(begin()).catch_unwind().await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::error!(rollout = key, %error, "its state cannot be read yet"),
            Err(_) => tracing::error!(rollout = key, "its task broke; it begins again from what was committed"),
        }
        work().tasks_broken.inc();
        let lasted = clock::instant().saturating_duration_since(since);
        broken = if lasted < LASTED { broken + 1 } else { 1 };
        tokio::select! {
            () = tokio::time::sleep(backoff::urgent(broken)) => {}
            _ = stop.changed() => return None,
        }
    }
}

/// Runs `main` until it ends; `beside` ends with it. If one of those breaks, so does this: what sees nothing any more must not go on.
pub(super) async fn together(mut main: Pin<Box<impl Future<Output = ()>>>, mut beside: JoinSet<()>) {
    loop {
        tokio::select! {
            biased;
            () = &mut main => return,
            Some(ended) = beside.join_next() => {
                if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_breaks_is_begun_again_later_each_time_and_what_ends_is_not() {
        let (_stop, stopped) = watch::channel(false);
        let (times, since) = (Arc::new(AtomicU32::new(0)), clock::instant());
        let begin = || {
            let times = Arc::clone(&times);
            async move {
                match times.fetch_add(1, Ordering::SeqCst) {
                    0 => panic!("a fault"),
                    1 => Err("unreadable"),
                    2 => {
                        let mut eyes = JoinSet::new();
                        eyes.spawn(async { panic!("another fault") });
                        together(Box::pin(std::future::pending()), eyes).await;
                        Ok(2)
                    }
                    time => Ok(time),
                }
            }
        };
        assert_eq!(until_done("shop/checkout", stopped, begin).await, Some(3));
        assert!(since.elapsed() >= Duration::from_millis(100 + 200 + 400), "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn the_pause_ends_when_it_is_told_to_stop() {
        let (stop, stopped) = watch::channel(false);
        let broken = until_done("shop/checkout", stopped, || async { Err::<(), _>("unreadable") });
        let told = async {
            tokio::time::sleep(Duration::from_millis(350)).await;
            stop.send_replace(true);
        };
        let both = async { tokio::join!(broken, told).0 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), both).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_beside_ends_with_what_it_is_beside() {
        let (held, mut beside) = (Arc::new(()), JoinSet::new());
        let kept = Arc::clone(&held);
        beside.spawn(async move {
            std::future::pending::<()>().await;
            drop(kept);
        });
        let (_stop, stopped) = watch::channel(false);
        let mut beside = Some(beside);
        let begin = || {
            let beside = beside.take().unwrap_or_default();
            async move {
                together(Box::pin(std::future::ready(())), beside).await;
                Ok::<_, Infallible>(())
            }
        };
        until_done("shop/checkout", stopped, begin).await;
        tokio::time::timeout(Duration::from_secs(2), async {
            while Arc::strong_count(&held) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }
}
