//! The documents as the store keeps them, so that a command line can act when neither files nor controller are there.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::standalone::StartError;
use crate::spec::Loaded;
use crate::world::store::{Store, Unavailable};

const ROLLOUT: &str = "rollout";
const POLICY: &str = "policy";
const SOURCE: &str = "source";
const FLAGS: &str = "flags";

/// Keeps what was loaded; documents that are gone from the files are forgotten.
///
/// # Errors
/// The store cannot be written.
pub async fn keep(store: &Store, loaded: &Loaded) -> Result<(), Unavailable> {
    replace(store, ROLLOUT, &loaded.rollouts).await?;
    replace(store, POLICY, &loaded.policies).await?;
    replace(store, SOURCE, &loaded.sources).await?;
    replace(store, FLAGS, &loaded.flags).await
}

async fn replace<T: Serialize>(store: &Store, kind: &str, documents: &BTreeMap<String, T>) -> Result<(), Unavailable> {
    for (name, _) in store.documents(kind).await?.iter().filter(|(name, _)| !documents.contains_key(name)) {
        store.delete_document(kind, name).await?;
    }
    for (name, document) in documents {
        let json = serde_json::to_string(document).map_err(|error| Unavailable(format!("{kind} {name}: {error}")))?;
        if store.document(kind, name).await?.as_ref() != Some(&json) {
            store.put_document(kind, name, &json).await?;
        }
    }
    Ok(())
}

/// What the last controller had loaded.
///
/// # Errors
/// The store cannot be read, or a document in it.
pub async fn kept(store: &Store) -> Result<Loaded, StartError> {
    Ok(Loaded::kept(all(store, ROLLOUT).await?, all(store, POLICY).await?, all(store, SOURCE).await?, all(store, FLAGS).await?))
}

async fn all<T: DeserializeOwned>(store: &Store, kind: &str) -> Result<BTreeMap<String, T>, StartError> {
    let documents = store.documents(kind).await?;
    let parse = |(name, json): (String, String)| match serde_json::from_str(&json) {
        Ok(document) => Ok((name, document)),
        Err(error) => Err(StartError::Document(format!("{kind} {name}: {error}"))),
    };
    documents.into_iter().map(parse).collect()
}
