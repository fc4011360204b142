//! What goes on beside a test: a loop over what a cluster says, on a thread of its own.

use std::thread;

use kube::Client;
use tokio::sync::oneshot;

use super::User;

/// A loop that ends with this guard.
pub struct Loop {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Loop {
    /// Runs `body` with a client of this user.
    pub fn start<Body, Run>(user: &User, body: Body) -> Self
    where
        Body: FnOnce(Client) -> Run + Send + 'static,
        Run: Future<Output = ()>,
    {
        let user = user.clone();
        let (stop, stopped) = oneshot::channel();
        let run = async move || body(user.client().await).await;
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! { () = run() => {}, _ = stopped => {} }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
