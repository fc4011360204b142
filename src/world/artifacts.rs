//! What of an artifact is on the host's disk, and how the rest of it gets there from a registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::clock;
use super::registry::{Collector, Fault};
use crate::core::input::Outcome;
use crate::core::release::{Digest, Image};
use crate::core::spec::Artifacts;
use crate::core::time::Span;
use crate::host::unpack;

/// How long an effect waits for a fetch before it says that there is one: most are over by then, and no effect of a revert may take longer.
const WAIT: Duration = Duration::from_secs(5);
/// When to ask again after that.
const ASK_AGAIN: Span = Span::seconds(1);
/// How long an end is kept for who asks next: longer than any pause between two tries.
const END_KEPT: Duration = Duration::from_mins(1);

/// Whether the host has the artifact unpacked beside `content`: it starts that at once, without a look at any blob.
pub(super) fn is_unpacked(content: &Path, image: &Image) -> bool {
    let host = content.parent().unwrap_or(content);
    unpack::folder(&host.join("unpacked"), &image.digest).is_dir()
}

/// Whether the host could start it from what is on its disk: unpacked, or copied from a registry, by the sizes of its files.
pub(super) async fn is_kept(content: &Path, image: &Image) -> bool {
    is_unpacked(content, image) || Collector::keeps(image, content).await
}

/// Artifacts that are being fetched: one fetch of each at a time, for all who ask. It goes on when nobody waits, so that what takes
/// longer than one try of an effect gets there all the same.
pub(super) struct Fetches {
    under_way: Mutex<BTreeMap<Digest, Fetch>>,
    wait: Duration,
}

/// How a fetch ended, and when; nothing until then.
type Fetch = watch::Receiver<Option<(Instant, Result<(), Fault>)>>;

impl Default for Fetches {
    fn default() -> Self {
        Self { under_way: Mutex::default(), wait: WAIT }
    }
}

impl Fetches {
    /// Makes sure that the host can start `image`: unpacked already, or whole in `content`. What is there is not asked for again, so
    /// that going back needs no registry.
    ///
    /// # Errors
    /// The end of an effect that needs it: the fault of the fetch, or that it is not over yet.
    pub(super) async fn fetch(&self, collector: &Collector, image: &Image, artifacts: &Artifacts, content: &Path) -> Result<(), Outcome> {
        if is_unpacked(content, image) {
            return Ok(());
        }
        let mut fetch = self.join(collector, image, artifacts, content);
        let ended = match tokio::time::timeout(self.wait, fetch.wait_for(Option::is_some)).await {
            Ok(Ok(ended)) => ended.clone(),
            Ok(Err(_)) => None,
            Err(_) => return Err(Outcome::Transient { what: format!("{image} is being fetched"), retry_after: Some(ASK_AGAIN) }),
        };
        self.lock().retain(|_, other| !other.same_channel(&fetch));
        let broke_off = || Err(Fault::Unavailable(format!("the fetch of {image} broke off")));
        ended.map_or_else(broke_off, |(_, result)| result).map_err(Outcome::from)
    }

    /// The fetch of `image` that is under way, or ended and nobody knows yet; a new one if there is none.
    fn join(&self, collector: &Collector, image: &Image, artifacts: &Artifacts, content: &Path) -> Fetch {
        let mut under_way = self.lock();
        under_way.retain(|_, fetch| is_news(fetch));
        let begin = || {
            let (end, fetch) = watch::channel(None);
            let (collector, image, artifacts, content) = (collector.clone(), image.clone(), artifacts.clone(), content.to_owned());
            tokio::spawn(async move {
                let pulled = collector.pull(&image, &artifacts, &content).await;
                if let Err(fault) = &pulled {
                    tracing::warn!(%image, %fault, "an artifact could not be fetched");
                }
                end.send_replace(Some((clock::instant(), pulled.map(drop))));
            });
            fetch
        };
        under_way.entry(image.digest.clone()).or_insert_with(begin).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Fetch>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a fetch is under way, or ended so lately that its end is still worth telling.
fn is_news(fetch: &Fetch) -> bool {
    match &*fetch.borrow() {
        Some((at, _)) => clock::instant().saturating_duration_since(*at) < END_KEPT,
        None => fetch.has_changed().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;
    use crate::world::registry::{Credentials, Patience};

    /// A layout folder with an artifact whose layer is a pipe: it is as slow as the test likes.
    struct Bed {
        folder: tempfile::TempDir,
        image: Image,
        pipe: PathBuf,
        fetches: Fetches,
        collector: Collector,
    }

    const LAYER: &[u8] = b"a layer";

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let blobs = folder.path().join("layout/blobs/sha256");
            fs::create_dir_all(&blobs).unwrap();
            let blob = |bytes: &[u8]| {
                let digest = Digest::of(bytes);
                fs::write(blobs.join(digest.hex()), bytes).unwrap();
                digest
            };
            let layer = Digest::of(LAYER);
            let pipe = blobs.join(layer.hex());
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
            let manifest = serde_json::json!({
                "schemaVersion": 2,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob(b"{}"), "size": 2},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": LAYER.len()}],
            });
            let image = format!("shop/checkout@{}", blob(manifest.to_string().as_bytes())).parse().unwrap();
            let fetches = Fetches { wait: Duration::from_millis(100), ..Fetches::default() };
            Self { folder, image, pipe, fetches, collector: Collector::new(Credentials::default(), Patience::default()).unwrap() }
        }

        fn content(&self) -> PathBuf {
            self.folder.path().join("host/content")
        }

        async fn fetch(&self) -> Result<(), Outcome> {
            let artifacts = Artifacts::Layout { path: self.folder.path().join("layout").display().to_string() };
            self.fetches.fetch(&self.collector, &self.image, &artifacts, &self.content()).await
        }

        async fn ended(&self) -> Result<(), Outcome> {
            loop {
                match self.fetch().await {
                    Err(Outcome::Transient { what, .. }) if what.contains("being fetched") => {}
                    ended => return ended,
                }
            }
        }

        /// Writes the layer, once somebody reads it.
        async fn feed(&self, bytes: &'static [u8]) {
            let pipe = self.pipe.clone();
            let fed = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(pipe)?.write_all(bytes));
            fed.await.unwrap().unwrap();
        }

        fn partial(&self) -> usize {
            let names = fs::read_dir(self.content().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().ends_with(".partial")).count()
        }
    }

    #[tokio::test]
    async fn one_fetch_serves_all_who_ask_and_outlasts_their_patience() {
        let bed = Bed::new();
        for _ in 0..2 {
            let (one, two) = tokio::join!(bed.fetch(), bed.fetch());
            for early in [one, two] {
                assert!(matches!(&early, Err(Outcome::Transient { retry_after: Some(ASK_AGAIN), .. })), "{early:?}");
            }
            assert_eq!(bed.partial(), 1);
        }
        assert!(!is_kept(&bed.content(), &bed.image).await);
        bed.feed(LAYER).await;
        assert_eq!(bed.ended().await, Ok(()));
        assert_eq!(bed.partial(), 0);
        assert!(is_kept(&bed.content(), &bed.image).await);
        // From now on nobody is asked.
        fs::remove_dir_all(bed.folder.path().join("layout")).unwrap();
        assert_eq!(bed.ended().await, Ok(()));
    }

    #[tokio::test]
    async fn a_fault_that_nobody_waited_for_is_told_once_to_who_asks_next() {
        let bed = Bed::new();
        assert!(matches!(bed.fetch().await, Err(Outcome::Transient { .. })));
        bed.feed(b"a liar!").await;
        while bed.partial() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = bed.fetch().await;
        assert!(matches!(&told, Err(Outcome::Invalid(what)) if what.contains("hash to")), "{told:?}");
        assert!(matches!(bed.fetch().await, Err(Outcome::Transient { .. })), "it is tried again");
        bed.feed(LAYER).await;
        assert_eq!(bed.ended().await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_unpacked_needs_no_blob() {
        let bed = Bed::new();
        let unpacked = bed.folder.path().join("host/unpacked/sha256").join(bed.image.digest.hex());
        fs::create_dir_all(&unpacked).unwrap();
        assert!(is_kept(&bed.content(), &bed.image).await);
        assert_eq!(bed.fetch().await, Ok(()));
        assert!(!bed.content().exists());
    }

    #[tokio::test]
    async fn an_artifact_of_which_a_blob_is_missing_or_cut_is_not_kept() {
        let bed = Bed::new();
        let (fed, ended) = tokio::join!(bed.feed(LAYER), bed.ended());
        assert_eq!((fed, ended), ((), Ok(())));
        let blobs = bed.content().join("blobs/sha256");
        for digest in [Digest::of(LAYER), Digest::of(b"{}")] {
            let path = blobs.join(digest.hex());
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[1..]).unwrap();
            assert!(!is_kept(&bed.content(), &bed.image).await);
            fs::remove_file(&path).unwrap();
            assert!(!is_kept(&bed.content(), &bed.image).await);
            fs::write(&path, &bytes).unwrap();
            assert!(is_kept(&bed.content(), &bed.image).await);
        }
    }
}
