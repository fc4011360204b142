//! Weights of backends as values: which share each gets, and how a rule must read so that it gets another.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

/// What weights are multiplied by while a share is split, so that small shares can be written.
const SCALE: u64 = 1000;
/// The largest weight that the Gateway API takes.
const WEIGHT_MAX: u64 = 1_000_000;

/// Where requests go.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table {
    /// The share of the workload's own Services.
    pub(super) own: f64,
    /// By own Service: the Services of the arms that are its copies, with their shares.
    pub(super) arms: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The name that a backend or destination has.
pub(super) fn backend(entry: &Json, mesh: bool) -> &str {
    let named = if mesh { &entry["destination"]["host"] } else { &entry["name"] };
    let text = named.as_str().unwrap_or_default();
    // A mesh knows `service`, `service.namespace` and longer forms.
    if mesh { text.split('.').next().unwrap_or_default() } else { text }
}

fn is_service(entry: &Json) -> bool {
    entry.get("kind").is_none_or(|kind| kind == "Service") && entry.get("group").is_none_or(|group| group == "")
}

fn weight(entry: &Json, mesh: bool, alone: bool) -> u64 {
    entry["weight"].as_u64().unwrap_or(if mesh && alone { 100 } else { u64::from(!mesh) })
}

fn named(entry: &Json, service: &str, weight: u64, mesh: bool) -> Json {
    let mut entry = entry.clone();
    if mesh {
        let host = entry["destination"]["host"].as_str().unwrap_or_default();
        let rest = host.split_once('.').map(|(_, rest)| format!(".{rest}")).unwrap_or_default();
        entry["destination"]["host"] = json!(format!("{service}{rest}"));
    } else {
        entry["name"] = json!(service);
    }
    entry["weight"] = json!(weight);
    entry
}

/// The entries of one rule as `table` wants them; the same if the rule is none of its business.
pub(super) fn split(entries: &[Json], table: &Table, mesh: bool) -> Vec<Json> {
    let alone = entries.len() == 1;
    let is_own = |entry: &Json| is_service(entry) && table.arms.contains_key(backend(entry, mesh));
    let Some(own) = entries.iter().find(|entry| is_own(entry)) else { return entries.to_vec() };
    let base = backend(own, mesh).to_owned();
    let arms = &table.arms[&base];
    let is_arm = |entry: &Json| is_service(entry) && arms.contains_key(backend(entry, mesh));
    let ours = |entry: &&Json| is_arm(entry) || (is_service(entry) && backend(entry, mesh) == base);
    let total: u64 = entries.iter().filter(ours).map(|entry| weight(entry, mesh, alone)).sum();
    let heaviest = entries.iter().map(|entry| weight(entry, mesh, alone)).max().unwrap_or(1).max(1);
    let was_split = entries.iter().any(is_arm);
    let is_split = arms.values().any(|share| *share > 0.0);
    // A mesh's weights are per cent and stay so; the others are only compared with each other.
    let scale = if !mesh && is_split && !was_split && heaviest * SCALE <= WEIGHT_MAX { SCALE } else { 1 };
    let total = total * scale;
    let counts = apportion(total, arms, is_split);
    let mut written: Vec<Json> = entries
        .iter()
        .filter(|entry| !is_arm(entry))
        .map(|entry| {
            if is_service(entry) && backend(entry, mesh) == base {
                named(entry, &base, total - counts.values().sum::<u64>(), mesh)
            } else if scale > 1 {
                let mut entry = entry.clone();
                entry["weight"] = json!(weight(&entry, mesh, alone) * scale);
                entry
            } else {
                entry.clone()
            }
        })
        .collect();
    if is_split || was_split {
        let shown = counts.iter().filter(|(service, count)| **count > 0 || entries.iter().any(|entry| backend(entry, mesh) == **service));
        written.extend(shown.map(|(service, count)| named(own, service, *count, mesh)));
    }
    if written.iter().zip(entries).all(|(new, old)| same(new, old, mesh, alone)) && written.len() == entries.len() {
        return entries.to_vec();
    }
    written
}

/// Whether two entries say the same.
fn same(new: &Json, old: &Json, mesh: bool, alone: bool) -> bool {
    let mut filled = old.clone();
    filled["weight"] = json!(weight(old, mesh, alone));
    *new == filled || new == old
}

/// Whole weights for the shares; whatever has a share at all has a weight.
fn apportion(total: u64, arms: &BTreeMap<String, f64>, is_split: bool) -> BTreeMap<String, u64> {
    let of = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a weight is a weight")]
        let count = (total as f64 * share).round() as u64;
        if share <= 0.0 {
            0
        } else if share < 1.0 {
            count.clamp(1, total.saturating_sub(1).max(1))
        } else {
            total
        }
    };
    arms.iter().map(|(service, share)| (service.clone(), if is_split { of(*share) } else { 0 })).collect()
}

/// The entries without those of `services`, and small numbers again if no other arm is left.
pub(super) fn without(entries: &[Json], services: &[&str], still_split: bool, mesh: bool) -> Vec<Json> {
    let gone = |entry: &Json| services.contains(&backend(entry, mesh));
    if !entries.iter().any(gone) {
        return entries.to_vec();
    }
    let mut kept: Vec<Json> = entries.iter().filter(|entry| !gone(entry)).cloned().collect();
    let scaled = |entry: &Json| entry["weight"].as_u64().is_some_and(|weight| weight.is_multiple_of(SCALE));
    if !mesh && !still_split && kept.iter().all(scaled) {
        for entry in &mut kept {
            entry["weight"] = json!(entry["weight"].as_u64().unwrap_or_default() / SCALE);
        }
    }
    kept
}

/// The largest share that `service` has in one of the rules.
pub(super) fn share_of(rules: Vec<&[Json]>, mesh: bool, service: &str) -> f64 {
    let share = |entries: &&[Json]| {
        let alone = entries.len() == 1;
        let of = |entry: &Json| weight(entry, mesh, alone) as f64;
        let total: f64 = entries.iter().map(of).sum();
        let own: f64 = entries.iter().filter(|entry| backend(entry, mesh) == service).map(of).sum();
        if total > 0.0 { own / total } else { 0.0 }
    };
    rules.iter().map(share).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(share: f64) -> Table {
        Table { own: 1.0 - share, arms: [("web".to_owned(), [("web-candidate-1".to_owned(), share)].into())].into() }
    }

    fn weights(entries: &[Json]) -> Vec<(&str, u64)> {
        entries.iter().map(|entry| (entry["name"].as_str().unwrap_or_default(), entry["weight"].as_u64().unwrap_or(1))).collect()
    }

    #[test]
    fn a_share_is_split_and_given_back() {
        let first = vec![json!({"name": "web", "port": 80})];
        let split_once = split(&first, &table(0.05), false);
        assert_eq!(weights(&split_once), [("web", 950), ("web-candidate-1", 50)]);
        assert_eq!(split_once[1]["port"], 80, "an arm's backend is like the Service's own");
        assert_eq!(split(&split_once, &table(0.05), false), split_once, "twice is as good as once");
        let all = split(&split_once, &table(1.0), false);
        assert_eq!(weights(&all), [("web", 0), ("web-candidate-1", 1000)]);
        let back = split(&all, &table(0.0), false);
        assert_eq!(weights(&back), [("web", 1000), ("web-candidate-1", 0)]);
        assert_eq!(weights(&without(&back, &["web-candidate-1"], false, false)), [("web", 1)]);
        assert_eq!(split(&first, &table(0.0), false), first, "what is as wanted is left as it was written");
    }

    #[test]
    fn others_keep_their_part_and_small_shares_are_not_lost() {
        let rule = vec![json!({"name": "web", "port": 80, "weight": 3}), json!({"name": "old", "port": 80, "weight": 1})];
        let split_once = split(&rule, &table(0.001), false);
        assert_eq!(weights(&split_once), [("web", 2997), ("old", 1000), ("web-candidate-1", 3)]);
        let elsewhere = vec![json!({"name": "images", "port": 80})];
        assert_eq!(split(&elsewhere, &table(0.5), false), elsewhere);
        assert!((share_of(vec![&split_once], false, "web-candidate-1") - 0.00075).abs() < 1e-12);
    }

    #[test]
    fn a_mesh_has_per_cents() {
        let rule = vec![json!({"destination": {"host": "web.shop.svc.cluster.local", "port": {"number": 80}}})];
        let split_once = split(&rule, &table(0.2), true);
        assert_eq!(split_once[0]["weight"], 80);
        assert_eq!(split_once[1]["destination"]["host"], "web-candidate-1.shop.svc.cluster.local");
        assert_eq!(split_once[1]["weight"], 20);
        assert_eq!(split(&split_once, &table(0.2), true), split_once);
    }
}
