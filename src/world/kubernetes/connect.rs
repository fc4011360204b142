//! How the API server is reached: by a kubeconfig, or as a pod of the cluster.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;

use super::Cluster;
use super::objects::unavailable;
use crate::world::store::Unavailable;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Requests of guards that are no revert's and that the API server is asked to answer at once; the rest waits its turn. Each takes a
/// connection of some forty kilobytes, which stays for a while: where thousands of workloads are marked for the first time, these were
/// most of the memory. What reverts need has a number of its own for each kind of work, and waits behind nothing here; nor does what the
/// controller lives on.
const FORWARD_REQUESTS: usize = 64;

/// How long an answer to one of these may take to begin: what hangs must not keep the others waiting.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster, and the URL of its API server.
pub struct Connected {
    /// The cluster.
    pub cluster: Cluster,
    /// URL of its API server.
    pub url: String,
    /// The namespace of the kubeconfig's context; `default` if it names none.
    pub namespace: String,
}

/// Prepares the clients, with connections of their own for reverts. `kubeconfig` absent: as `kubectl` finds it, else as a pod.
///
/// # Errors
/// There is no usable configuration.
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Connected, Unavailable> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let say = |what: String| Unavailable(format!("the cluster is not known: {what}"));
    let mut config = match (kubeconfig, context) {
        (Some(path), _) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| say(error.to_string()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| say(error.to_string()))?
        }
        (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| say(error.to_string()))?,
        (None, None) => Config::infer().await.map_err(|error| say(error.to_string()))?,
    };
    config.connect_timeout = Some(CONNECT);
    let builder = || ClientBuilder::try_from(config.clone()).map_err(|error| say(error.to_string()));
    let layer = ServiceBuilder::new().concurrency_limit(FORWARD_REQUESTS).timeout(ANSWER).into_inner();
    let forward = builder()?.with_layer(&layer).build();
    Ok(Connected {
        url: config.cluster_url.to_string(),
        namespace: config.default_namespace.clone(),
        cluster: Cluster::new(builder()?.build(), forward, builder()?.build()),
    })
}

/// Who the API server says that a client is.
///
/// # Errors
/// It does not answer.
pub async fn whoami(client: &Client) -> Result<String, Unavailable> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = review.map_err(|error| unavailable("SelfSubjectReview", &error))?;
    Ok(review.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default())
}
