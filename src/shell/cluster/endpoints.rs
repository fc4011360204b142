//! Which addresses a source in a cluster may have, and its credentials.
//!
//! `tokenFile: NAME/KEY` of a source is the key KEY of the Secret NAME in backstop's namespace; no other file is sent anywhere. Each request
//! reads the file as it is, and the file follows the Secret.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use reqwest::Url;
use tokio::sync::watch;

use super::Setup;
use crate::core::spec::{Auth, GuardSource};
use crate::shell::rollout::Shared;
use crate::world::endpoint::is_link_local;

/// Folder of a replica's data with what sources present.
pub(super) const SECRETS: &str = "secrets";
/// How often Secrets are read again.
const RENEW: Duration = Duration::from_secs(30);

/// Checks a source's addresses, and fetches its credentials into the folder `secrets`.
///
/// # Errors
/// An address may not be asked, or a Secret cannot be had.
pub(super) async fn admit(setup: &Setup, secrets: &Path, source: &GuardSource) -> Result<(), String> {
    let urls: Vec<&String> =
        source.prometheus.iter().map(|prometheus| &prometheus.url).chain(source.scrape.iter().flat_map(|scrape| &scrape.urls)).collect();
    for url in urls {
        may_ask(url, &setup.api_server).await?;
    }
    credentials(setup, secrets, source).await
}

/// Has the credentials of sources follow their Secrets until `stop`: whoever renews one need not start a controller again.
pub(super) async fn renew(shared: Arc<Shared>, setup: Setup, mut stop: watch::Receiver<bool>) {
    let secrets = setup.data_dir.join(SECRETS);
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            _ = stop.changed() => return,
        }
        for (name, source) in &shared.documents().sources {
            if let Err(what) = credentials(&setup, &secrets, source).await {
                tracing::warn!(source = name, what, "its credentials stay as they were");
            }
        }
    }
}

/// Fetches a source's credentials.
async fn credentials(setup: &Setup, secrets: &Path, source: &GuardSource) -> Result<(), String> {
    let (client, namespace) = (setup.cluster.housekeeping(), &setup.namespace);
    let auths =
        source.prometheus.iter().filter_map(|one| one.auth.as_ref()).chain(source.scrape.iter().filter_map(|one| one.auth.as_ref()));
    for auth in auths {
        let (Auth::Bearer { token_file: file } | Auth::Basic { password_file: file, .. }) = auth;
        fetch(client, namespace, secrets, Path::new(file)).await?;
    }
    Ok(())
}

/// Whether a source may have this address: neither the machines' own services nor the API server are asked on anybody's behalf.
async fn may_ask(url: &str, api_server: &str) -> Result<(), String> {
    let asked = places(url).await?;
    let refused = |why: &str| Err(format!("`{url}` is not asked: {why}"));
    let named = url
        .parse::<Url>()
        .is_ok_and(|url| url.host_str().is_some_and(|host| host == "kubernetes" || host.starts_with("kubernetes.default")));
    let own = places(api_server).await.unwrap_or_default();
    if named || asked.iter().any(|place| own.contains(place)) {
        return refused("that is the API server");
    }
    if asked.iter().any(|(address, _)| is_link_local(address)) {
        return refused("that is a link-local address, where machines keep their credentials");
    }
    Ok(())
}

/// Addresses and port of a URL.
async fn places(url: &str) -> Result<Vec<(IpAddr, u16)>, String> {
    let parsed: Url = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let (host, port) = (parsed.host_str().unwrap_or_default().trim_matches(['[', ']']), parsed.port_or_known_default().unwrap_or(80));
    if let Ok(address) = host.parse() {
        return Ok(vec![(address, port)]);
    }
    // A name that nobody knows yet cannot be asked either; looks say so.
    let found = tokio::net::lookup_host((host, port)).await;
    Ok(found.map(|found| found.map(|one| (one.ip(), port)).collect()).unwrap_or_default())
}

/// Copies a key of a Secret to the file that stands for it.
async fn fetch(client: &Client, namespace: &str, secrets: &Path, file: &Path) -> Result<(), String> {
    let expected = || format!("`{}` does not name a key of a Secret: expected `NAME/KEY`", file.display());
    let parts: Vec<&str> = file
        .strip_prefix(secrets)
        .map_err(|_| expected())?
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str().ok_or_else(expected),
            _ => Err(expected()),
        })
        .collect::<Result<_, _>>()?;
    let [name, key] = parts[..] else { return Err(expected()) };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = api.get(name).await.map_err(|error| format!("Secret {namespace}/{name}: {error}"))?;
    let value = secret.data.unwrap_or_default().remove(key).ok_or_else(|| format!("Secret {namespace}/{name} has no `{key}`"))?;
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(secrets.join(name))?;
        let next = secrets.join(name).join(format!(".{key}.new"));
        let _ = fs::remove_file(&next);
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?.write_all(&value.0)?;
        fs::rename(&next, file)
    };
    write().map_err(|error| format!("`{}`: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://127.0.0.1:6443/";

    #[tokio::test]
    async fn link_local_addresses_and_the_api_server_are_not_asked() {
        for url in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]:9090",
            "http://[::ffff:169.254.169.254]",
            "https://kubernetes.default.svc",
            "http://127.0.0.1:6443/api",
        ] {
            assert!(may_ask(url, OWN).await.is_err(), "{url}");
        }
        assert!(may_ask("http://127.0.0.1:9090", OWN).await.is_ok());
    }
}
