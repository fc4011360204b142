//! Work that hundreds ask for at once and that one of them can do for all.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::store::Unavailable;

/// Work that one does for all who ask for it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    pub(super) alone: tokio::sync::Mutex<()>,
    /// Somebody has asked since the work under way began.
    asked: AtomicBool,
}

impl Turnstile {
    /// Does the work until nobody has asked since, unless somebody else is at it; whether it was done here.
    pub(super) async fn enter<F: Future<Output = Result<(), Unavailable>>>(&self, work: impl Fn() -> F) -> Result<bool, Unavailable> {
        self.asked.store(true, Ordering::SeqCst);
        let mut done = false;
        // Who asks just before the lock is given back is seen just after.
        while self.asked.load(Ordering::SeqCst) {
            let Ok(_alone) = self.alone.try_lock() else { break };
            while self.asked.swap(false, Ordering::SeqCst) {
                work().await?;
                done = true;
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whatever_was_there_when_somebody_asked_is_done_and_by_few() {
        let (turnstile, waiting, rounds) = (Arc::new(Turnstile::default()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let asks = (0..200).map(|number| {
            let (turnstile, waiting, rounds) = (Arc::clone(&turnstile), Arc::clone(&waiting), Arc::clone(&rounds));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number % 20)).await;
                waiting.fetch_add(1, Ordering::SeqCst);
                let work = || async {
                    rounds.fetch_add(1, Ordering::SeqCst);
                    let taken = waiting.swap(0, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if taken > 1_000 { Err(Unavailable(String::new())) } else { Ok(()) }
                };
                turnstile.enter(work).await
            })
        });
        for asked in futures::future::join_all(asks).await {
            asked.unwrap().unwrap();
        }
        assert_eq!(waiting.load(Ordering::SeqCst), 0, "nobody's was left");
        assert!(rounds.load(Ordering::SeqCst) < 50, "{rounds:?}");
    }
}
