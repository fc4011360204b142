//! The documents as the store keeps them, so that a command line can act when neither files nor controller are there.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::standalone::StartError;
use crate::spec::Loaded;
use crate::world::store::{ChangedDocument, Store, Unavailable};

const ROLLOUT: &str = "rollout";
const POLICY: &str = "policy";
const SOURCE: &str = "source";
const FLAGS: &str = "flags";

/// Keeps what was loaded, all or nothing; documents that are gone from the files are forgotten.
///
/// # Errors
/// The store cannot be read, or written if anything has changed.
pub async fn keep(store: &Store, loaded: &Loaded) -> Result<(), Unavailable> {
    let mut changes = changed(store, ROLLOUT, &loaded.rollouts).await?;
    changes.append(&mut changed(store, POLICY, &loaded.policies).await?);
    changes.append(&mut changed(store, SOURCE, &loaded.sources).await?);
    changes.append(&mut changed(store, FLAGS, &loaded.flags).await?);
    // A store that cannot be written is no hindrance where nothing has changed.
    if changes.is_empty() { Ok(()) } else { store.change_documents(changes).await }
}

/// What makes the kept documents of a kind these.
async fn changed<T: Serialize>(
    store: &Store,
    kind: &'static str,
    documents: &BTreeMap<String, T>,
) -> Result<Vec<ChangedDocument>, Unavailable> {
    let mut kept: BTreeMap<String, String> = store.documents(kind).await?.into_iter().collect();
    let mut changes = Vec::new();
    for (name, document) in documents {
        let json = serde_json::to_string(document).map_err(|error| Unavailable(format!("{kind} {name}: {error}")))?;
        if kept.remove(name).as_ref() != Some(&json) {
            changes.push(ChangedDocument { kind, name: name.clone(), json: Some(json) });
        }
    }
    changes.extend(kept.into_keys().map(|name| ChangedDocument { kind, name, json: None }));
    Ok(changes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_are_kept_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &dir.path().join("spool")).unwrap();
        let load = |names: &[&str]| crate::spec::load(&crate::shell::standalone::tests::setup(dir.path(), names).specs);
        let (before, after) = (load(&["checkout", "search"]), load(&["checkout", "cart"]));
        keep(&store, &before).await.unwrap();
        assert!(kept(&store).await.unwrap().is_same_as(&before));

        let database = rusqlite::Connection::open(dir.path().join("store/backstop.db")).unwrap();
        database.execute_batch("CREATE TRIGGER no BEFORE DELETE ON document BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
        assert!(keep(&store, &before).await.is_ok(), "nothing is written where nothing has changed");
        assert!(keep(&store, &after).await.is_err());
        assert!(kept(&store).await.unwrap().is_same_as(&before), "the new one is not there without the end of the old one");
        database.execute_batch("DROP TRIGGER no").unwrap();
        keep(&store, &after).await.unwrap();
        assert!(kept(&store).await.unwrap().is_same_as(&after));
    }
}
