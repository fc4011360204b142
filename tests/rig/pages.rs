//! A receiver of pages and notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::routing::post;
use backstop::world::clock;
use backstop::world::notify::Webhook;
use serde::Deserialize;

/// What the webhook gets.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The same for each try.
    pub dedup_key: String,
    /// `page` or `notice`.
    pub severity: String,
    /// The reason's code.
    pub code: String,
    /// In words.
    pub text: String,
    /// `namespace/name`.
    pub workload: String,
}

/// Everything that arrived.
pub struct Pages {
    book: Arc<Mutex<Vec<Page>>>,
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Pages {
    /// Listens on the loopback.
    pub async fn receive() -> Self {
        let book: Arc<Mutex<Vec<Page>>> = Arc::default();
        let kept = Arc::clone(&book);
        let take = move |Json(page): Json<Page>| {
            let kept = Arc::clone(&kept);
            async move { kept.lock().expect("a lock").push(page) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, Router::new().route("/", post(take))).await;
        });
        Self { book, url, task }
    }

    /// For the controller.
    pub fn webhook(&self) -> Webhook {
        Webhook { url: self.url.clone(), token_file: None }
    }

    /// Every page and notice, each once however often it was sent.
    pub fn all(&self) -> Vec<Page> {
        let mut seen: Vec<Page> = Vec::new();
        for page in self.book.lock().expect("a lock").iter() {
            if !seen.iter().any(|known| known.dedup_key == page.dedup_key) {
                seen.push(page.clone());
            }
        }
        seen
    }

    /// Codes of the pages, notices not counted.
    pub fn codes(&self) -> Vec<String> {
        self.all().into_iter().filter(|page| page.severity == "page").map(|page| page.code).collect()
    }

    /// Waits for a page with this code.
    pub async fn until(&self, code: &str, patience: Duration) -> Page {
        let begin = clock::instant();
        loop {
            if let Some(page) = self.all().into_iter().find(|page| page.code == code && page.severity == "page") {
                return page;
            }
            assert!(begin.elapsed() < patience, "no page {code} within {patience:?}; there are {:?}", self.all());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}
