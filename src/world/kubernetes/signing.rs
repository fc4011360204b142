//! The controller's signing key, one for all replicas, in a `Secret` of backstop's namespace; its public part beside it in a
//! `ConfigMap`, for on-call and the command line.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};

use super::objects::{FIELD_MANAGER, is_conflict, is_missing, unavailable};
use crate::world::keys::{Keys, Public};
use crate::world::store::Unavailable;

/// Name of the `Secret`.
pub const SECRET: &str = "backstop-signing-key";
/// Name of the `ConfigMap` with the public part.
pub const PUBLIC: &str = "backstop-public-key";
const PRIVATE_FILE: &str = "controller.pem";
const PUBLIC_FILE: &str = "controller.pub";

/// Puts the cluster's signing key into the folder `keys` of a store that is not open yet; makes it if there is none.
///
/// Replicas that start at once end up with the same key: the first `Secret` that is there stays.
///
/// # Errors
/// The API server does not answer, or the folder belongs to a store with another key.
pub async fn provide(client: &Client, namespace: &str, keys: &Path) -> Result<(), Unavailable> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let say = |error: kube::Error| unavailable(&format!("Secret {namespace}/{SECRET}"), &error);
    let secret = match secrets.get(SECRET).await {
        Ok(secret) => secret,
        Err(error) if is_missing(&error) => {
            let own = Keys::open(keys).map_err(|error| Unavailable(error.to_string()))?;
            let pem = std::fs::read(keys.join(PRIVATE_FILE)).map_err(|error| Unavailable(format!("{}: {error}", keys.display())))?;
            drop(own);
            let metadata = ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() };
            let data = BTreeMap::from([(PRIVATE_FILE.to_owned(), ByteString(pem))]);
            let secret = Secret { metadata, immutable: Some(true), data: Some(data), ..Secret::default() };
            match secrets.create(&parameters(), &secret).await {
                Ok(secret) => secret,
                Err(error) if is_conflict(&error) => secrets.get(SECRET).await.map_err(say)?,
                Err(error) => return Err(say(error)),
            }
        }
        Err(error) => return Err(say(error)),
    };
    let pem = secret.data.unwrap_or_default().remove(PRIVATE_FILE);
    let ByteString(pem) =
        pem.ok_or_else(|| Unavailable(format!("Secret {namespace}/{SECRET} has no `{PRIVATE_FILE}`: restore it from a backup")))?;
    Keys::install(keys, &pem).map_err(|error| Unavailable(error.to_string()))?;
    let public = Public::load(keys).map_err(|error| Unavailable(error.to_string()))?;
    publish(client, namespace, &public).await
}

async fn publish(client: &Client, namespace: &str, public: &Public) -> Result<(), Unavailable> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(PUBLIC.into()), ..ObjectMeta::default() };
    let data = BTreeMap::from([(PUBLIC_FILE.to_owned(), public.controller_pem())]);
    let map = ConfigMap { metadata, data: Some(data), immutable: Some(true), binary_data: None };
    match maps.create(&parameters(), &map).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(unavailable(&format!("ConfigMap {namespace}/{PUBLIC}"), &error)),
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

/// The controller's public key in PEM form, as every replica uses it.
///
/// # Errors
/// The API server does not answer, or no controller ever ran there.
pub async fn public(client: &Client, namespace: &str) -> Result<String, Unavailable> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(PUBLIC).await.map_err(|error| unavailable(&format!("ConfigMap {namespace}/{PUBLIC}"), &error))?;
    map.data
        .unwrap_or_default()
        .remove(PUBLIC_FILE)
        .ok_or_else(|| Unavailable(format!("ConfigMap {namespace}/{PUBLIC} has no `{PUBLIC_FILE}`")))
}
