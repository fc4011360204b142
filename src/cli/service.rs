//! Which service is meant: `checkout`, `shop/checkout`, or nothing if there is only one.

use std::collections::BTreeMap;

use axum::http::StatusCode;

use super::Context;
use super::client::Failure;
use super::direct;
use crate::api::wire::{Rollouts, Standing};
use crate::core::preview::View;
use crate::core::release::{Release, ReleaseId};
use crate::error::Error;

/// The longest `namespace/name`, in bytes.
const KEY_MAX: usize = 63 + 1 + 253;

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// The controller.
    Controller,
    /// Its store and the process host, because it does not answer.
    Store,
}

/// Why the controller is of no help, which standard error is told: from here on the command acts without it.
///
/// # Errors
/// It was answered, and that holds.
pub(super) fn without(failure: Failure) -> Result<String, Error> {
    let cause = failure.no_help()?;
    let told = super::text::brief(&cause, 200);
    Context::warn(&format!("the controller is of no help ({told}): acting directly on its store and the host"));
    Ok(cause)
}

/// Chooses among the rollouts that there are.
///
/// # Errors
/// If none or several are meant.
pub(super) fn choose(given: Option<&str>, keys: &[String]) -> Result<String, Error> {
    let list = |keys: &[&String]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let all: Vec<&String> = keys.iter().collect();
    let Some(given) = given else {
        return match &all[..] {
            [one] => Ok((*one).clone()),
            [] => Err(Error::usage("there are no rollouts").hint("`backstop run --specs DIR` reads them")),
            _ => Err(Error::usage("which service is meant?").hint(format!("one of {}", list(&all)))),
        };
    };
    let meant: Vec<&String> =
        all.iter().copied().filter(|key| *key == given || key.split_once('/').is_some_and(|(_, name)| name == given)).collect();
    match &meant[..] {
        [one] => Ok((*one).clone()),
        [] => {
            let error = Error::usage(format!("there is no rollout `{}`", super::text::brief(given, 80)));
            Err(if all.is_empty() { error } else { error.hint(format!("there are {}", list(&all))) })
        }
        _ => Err(Error::usage(format!("`{given}` is in several namespaces")).hint(format!("name one of {}", list(&meant)))),
    }
}

/// What is given, if it is a whole name: one of thousands is asked for alone.
fn whole(given: Option<&str>) -> Option<&str> {
    let is_name = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && !part.contains(|c: char| !is_of_name(c));
    let is_key = |key: &&str| key.split_once('/').is_some_and(|(namespace, name)| is_name(namespace) && is_name(name));
    given.filter(|given| given.len() <= KEY_MAX).filter(is_key)
}

/// The rollout whose whole name is given, by the controller.
async fn named(context: &Context, given: Option<&str>) -> Result<Option<Standing>, Failure> {
    let Some(key) = whole(given) else { return Ok(None) };
    match context.client.get(&path(key)).await {
        Ok(at) => Ok(Some(at)),
        // Its list tells what there is instead, and a list may be read where a plan of another version cannot.
        Err(Failure::Problem { status: StatusCode::NOT_FOUND, .. } | Failure::Broken(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether a name in a cluster may contain it.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '.'
}

/// The rollout that is meant, by the controller.
pub(super) async fn find(context: &Context, given: Option<&str>) -> Result<String, Error> {
    if let Some(at) = named(context, given).await? {
        return Ok(at.view.key);
    }
    let Rollouts { rollouts } = context.client.get("/v1/rollouts").await?;
    choose(given, &keys(&rollouts))
}

/// Every rollout, from the controller or else from its store.
pub(super) async fn views(context: &Context) -> Result<(Vec<View>, Via), Error> {
    match context.client.get::<Rollouts>("/v1/rollouts").await {
        Ok(Rollouts { rollouts }) => Ok((rollouts, Via::Controller)),
        Err(failure) => direct::views(context, &failure.no_help()?).await.map(|views| (views, Via::Store)),
    }
}

/// One rollout, from the controller or else from its store.
pub(super) async fn standing(context: &Context, given: Option<&str>) -> Result<(Standing, Via), Error> {
    let (views, via) = match named(context, given).await {
        Ok(Some(at)) => return Ok((at, Via::Controller)),
        Ok(None) => views(context).await?,
        Err(failure) => {
            let cause = failure.no_help()?;
            if let Some(key) = whole(given)
                && let Some(at) = direct::in_cluster(context, key).await?
            {
                return Ok((at, Via::Store));
            }
            (direct::views(context, &cause).await?, Via::Store)
        }
    };
    let key = choose(given, &keys(&views))?;
    if via == Via::Controller {
        match context.client.get(&path(&key)).await {
            Ok(at) => return Ok((at, via)),
            Err(failure) => drop(failure.no_help()?),
        }
    }
    direct::standing(context, &key).await.map(|at| (at, Via::Store))
}

fn keys(views: &[View]) -> Vec<String> {
    views.iter().map(|view| view.key.clone()).collect()
}

/// The path of a rollout in the API.
pub(super) fn path(key: &str) -> String {
    format!("/v1/rollouts/{key}")
}

/// How each release that a view knows is called.
pub(super) fn names(view: &View) -> BTreeMap<ReleaseId, String> {
    let under = view.revert.as_ref().and_then(|revert| revert.under.as_ref());
    let releases = view.ledger.iter().map(|line| &line.release).chain(&view.stable).chain(&view.candidate).chain(under);
    releases.map(|release| (release.id.clone(), super::text::clean(&release.to_string()))).collect()
}

/// The release that `text` names: its id or the beginning of it, its label, or the beginning of its image's digest.
///
/// # Errors
/// If none or several are meant.
pub(super) fn release(view: &View, text: &str) -> Result<ReleaseId, Error> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let known: Vec<&Release> = view.ledger.iter().map(|line| &line.release).collect();
    let exact = |release: &&&Release| release.label.as_deref() == Some(text) || *release.id.0 == *text;
    let begins = |release: &&&Release| {
        text.len() >= 6 && (release.id.0.starts_with(text) || release.template.image().digest.hex().starts_with(text))
    };
    let found: Vec<&&Release> = known.iter().filter(exact).collect();
    let found = if found.is_empty() { known.iter().filter(begins).collect() } else { found };
    let list = known.iter().map(|release| format!("{release} = {}", release.id)).collect::<Vec<_>>().join(", ");
    match &found[..] {
        [one] => Ok(one.id.clone()),
        [] => {
            Err(Error::usage(format!("`{}` names no release of {}", super::text::brief(text, 80), view.key))
                .hint(format!("there are {list}")))
        }
        several => {
            let ids = several.iter().map(|release| release.id.to_string()).collect::<Vec<_>>().join(", ");
            Err(Error::usage(format!("`{text}` names several releases of {}", view.key)).hint(format!("name one by its id: {ids}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough_where_it_is_unique() {
        let keys: Vec<String> = ["shop/checkout", "shop/cart", "beta/cart"].map(str::to_owned).into();
        assert_eq!(choose(Some("checkout"), &keys).unwrap(), "shop/checkout");
        assert_eq!(choose(Some("beta/cart"), &keys).unwrap(), "beta/cart");
        let error = choose(Some("cart"), &keys).unwrap_err();
        assert_eq!((error.exit.code(), error.hints[0].as_str()), (2, "name one of `shop/cart`, `beta/cart`"));
        assert!(choose(None, &keys).unwrap_err().hints[0].contains("shop/checkout"));
        assert_eq!(choose(None, &keys[..1]).unwrap(), "shop/checkout");
        assert!(choose(Some("nothing"), &keys).unwrap_err().message.contains("no rollout `nothing`"));
    }
}
