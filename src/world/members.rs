//! Who the members of each release of each workload are, in a cluster, and looks that see no others: which arm a series belongs to is
//! said by the cluster, never by the series.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::kubernetes::Member;
use super::scrape::Pods;
use super::source::Source;
use crate::core::input::{Arm, Looked};
use crate::core::judge::signal::{MatchOp, Matcher};
use crate::core::release::ReleaseId;
use crate::core::spec::ArmsBy;
use crate::core::state::Guard;
use crate::core::work::LookPlan;

/// How long a look waits for the first word of who the members of a workload are.
const WITHIN: Duration = Duration::from_secs(2);
/// Releases of one workload that are remembered to have had members.
const RELEASES_MAX: usize = 16;
/// The label of a series that names the namespace of its pod.
const NAMESPACE: &str = "namespace";
/// Labels that a source takes from a pod's labels or from its Service's name.
const OF_TARGETS: [&str; 5] = ["app", "app_kubernetes_io_instance", "app_kubernetes_io_name", "job", "service"];

/// The members of one workload; nobody for a release that had some, and has none now.
type OfWorkload = BTreeMap<ReleaseId, Vec<Member>>;

/// The members of every workload, as they were told last.
#[derive(Debug, Default)]
pub(super) struct Members {
    of: RwLock<BTreeMap<String, OfWorkload>>,
    /// Rung when members are told.
    told: Notify,
}

impl Members {
    /// Notes the members that the releases of a workload have now.
    pub(super) fn tell(&self, key: &str, mut now: OfWorkload) {
        // Kept until told otherwise, of thousands.
        now.values_mut().for_each(Vec::shrink_to_fit);
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        let gone = of.remove(key).unwrap_or_default().into_keys().filter(|release| !now.contains_key(release)).collect::<Vec<_>>();
        now.extend(gone.into_iter().take(RELEASES_MAX).map(|release| (release, Vec::new())));
        of.insert(key.to_owned(), now);
        drop(of);
        self.told.notify_waiters();
    }

    /// Which members run another image than their release names, in words.
    pub(super) fn other_images(&self, key: &str) -> Option<String> {
        let of = self.of();
        let members: Vec<&Member> = of.get(key)?.values().flatten().filter(|member| !member.other_images.is_empty()).collect();
        let (first, (container, digest)) = members.iter().find_map(|member| Some((member, member.other_images.first_key_value()?)))?;
        let runs = first.image_ids.iter().find(|(name, _)| name == container).map_or("another image", |(_, id)| id);
        let more = if members.len() > 1 { format!(", and {} more pods do alike", members.len() - 1) } else { String::new() };
        Some(format!("{container} of {} runs {runs}, and {digest} was verified{more}", first.pod))
    }

    /// Forgets a workload.
    pub(super) fn forget(&self, key: &str) {
        self.of.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Looks at living members in the guard's own namespace alone.
    pub(super) async fn look(&self, guard: &Guard, plan: &LookPlan, source: &Source) -> Looked {
        self.wait(guard).await;
        let narrowed = self.narrowed(guard, plan);
        let looked = source.look_at(&narrowed, &self.pods(guard, plan)).await;
        if self.knows(guard, plan) {
            return looked;
        }
        // While nobody has told of a member of the candidate its silence means nothing, so neither arm may be said to have reported.
        // Whether a candidate without members is well is told by its health.
        Looked { samples: BTreeMap::new(), ..looked }
    }

    fn of(&self) -> RwLockReadGuard<'_, BTreeMap<String, OfWorkload>> {
        self.of.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the members of a workload are told for the first time: a look that comes before, just after a start, would see no
    /// series, and the next one comes a scrape later. Out of patience it says what is there without them.
    async fn wait(&self, guard: &Guard) {
        let is_told = || guard.spec.arms.by == ArmsBy::Route || self.of().contains_key(&guard.key);
        let _ = tokio::time::timeout(WITHIN, async {
            loop {
                let told = self.told.notified();
                if is_told() {
                    return;
                }
                told.await;
            }
        })
        .await;
    }

    /// Whether the candidate of a look was ever told to have members, if it has a candidate and members matter; and whether these can be
    /// told from stable's.
    fn knows(&self, guard: &Guard, plan: &LookPlan) -> bool {
        let by = &guard.spec.arms.by;
        let Some(candidate) = plan.arms.get(&Arm::Candidate).filter(|_| *by != ArmsBy::Route) else { return true };
        let of = self.of();
        let Some(known) = of.get(&guard.key).filter(|known| known.contains_key(candidate)) else { return false };
        !matches!(by, ArmsBy::Workload(_)) || known[candidate].is_empty() || !values(by, known, plan, Arm::Candidate).is_empty()
    }

    /// The addresses of the members that a look is about.
    fn pods(&self, guard: &Guard, plan: &LookPlan) -> Pods {
        let of = self.of();
        let known = of.get(&guard.key).into_iter().flat_map(|of| plan.arms.values().filter_map(|release| of.get(release)).flatten());
        let addresses = known.filter_map(|member| Some((member.pod.clone(), member.ip?))).collect();
        Pods { namespace: namespace(guard).to_owned(), addresses }
    }

    /// The look at series of the guard's own namespace, and of living members of its releases.
    fn narrowed(&self, guard: &Guard, plan: &LookPlan) -> LookPlan {
        let by = &guard.spec.arms.by;
        let label = if let ArmsBy::Workload(by) = by { &by.namespace } else { NAMESPACE };
        let mut plan = plan.clone();
        for selector in Arc::make_mut(&mut plan.signals).values_mut().flat_map(|signal| signal.counters.values_mut()) {
            selector.matchers.retain(|matcher| matcher.label != label);
            selector.matchers.push(Matcher { label: label.to_owned(), op: MatchOp::Equal, value: namespace(guard).to_owned() });
            if *by != ArmsBy::Route {
                selector.matchers.iter_mut().for_each(of_copies_too);
            }
        }
        if *by != ArmsBy::Route {
            let of = self.of();
            let nobody = OfWorkload::new();
            let known = of.get(&guard.key).unwrap_or(&nobody);
            plan.members = plan.arms.keys().map(|arm| (*arm, values(by, known, &plan, *arm))).collect();
        }
        plan
    }
}

/// The values of the arms' label that are an arm's, and not the other arm's as well: a workload that is being rolled over runs both.
fn values(by: &ArmsBy, known: &OfWorkload, plan: &LookPlan, arm: Arm) -> BTreeSet<String> {
    let value = |member: &Member| match by {
        ArmsBy::Pod => Some(member.pod.clone()),
        ArmsBy::Label(_) => member.hash.clone(),
        ArmsBy::Workload(_) => Some(member.workload.clone()),
        ArmsBy::Route => None,
    };
    let of_arm = |of: Arm| plan.arms.get(&of).and_then(|release| known.get(release)).into_iter().flatten().filter_map(value);
    let others: BTreeSet<String> = plan.arms.keys().filter(|of| **of != arm).flat_map(|of| of_arm(*of)).collect();
    of_arm(arm).filter(|value| !others.contains(value)).collect()
}

fn namespace(guard: &Guard) -> &str {
    guard.key.split_once('/').map_or("default", |(namespace, _)| namespace)
}

/// A copy of a workload bears another value of the label that its Services select by, and its Service another name: what was
/// written for the workload is meant for its copies, too. Which pods count is said by their names.
fn of_copies_too(matcher: &mut Matcher) {
    if matcher.op == MatchOp::Equal && !matcher.value.is_empty() && OF_TARGETS.contains(&matcher.label.as_str()) {
        matcher.op = MatchOp::Regex;
        matcher.value = format!("{}(-candidate|-baseline)?", regex::escape(&matcher.value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Span;

    #[test]
    fn a_selector_for_the_workload_is_meant_for_its_copies() {
        let matcher = |label: &str, value: &str| Matcher { label: label.into(), op: MatchOp::Equal, value: value.into() };
        let mut job = matcher("job", "shop.checkout");
        of_copies_too(&mut job);
        assert_eq!((job.op, job.value.as_str()), (MatchOp::Regex, r"shop\.checkout(-candidate|-baseline)?"));
        let (mut code, mut none) = (matcher("code", "500"), matcher("job", ""));
        [&mut code, &mut none].into_iter().for_each(of_copies_too);
        assert_eq!((code.op, none.op), (MatchOp::Equal, MatchOp::Equal), "what counts stays as it was written");
    }

    fn release(name: &str) -> ReleaseId {
        ReleaseId(name.into())
    }

    /// A pod of this workload.
    fn pod(name: &str, workload: &str) -> Member {
        Member {
            pod: name.to_owned(),
            ip: None,
            uid: name.to_owned(),
            workload: workload.to_owned(),
            hash: None,
            image_ids: Box::default(),
            other_images: BTreeMap::new(),
            injected: BTreeSet::new(),
        }
    }

    fn guard(by: &serde_json::Value) -> Guard {
        let spec = serde_json::json!({
            "workload": {"deployment": {"name": "checkout"}},
            "arms": {"by": by},
            "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "errors_total", "total": "requests_total"}}],
            "strategy": {"observe": {}},
            "attestation": {"policy": "release"},
        });
        let spec = Arc::new(serde_json::from_value(spec).unwrap());
        Guard { key: "shop/checkout".into(), uid: "uid-1".into(), spec, interval: Span::seconds(1) }
    }

    /// A look at v2 beside v1.
    fn plan(guard: &Guard) -> LookPlan {
        let config = crate::core::judge::Config::new(&guard.spec, &[], guard.interval).unwrap();
        LookPlan {
            source: "metrics".into(),
            signals: Arc::clone(&config.signals),
            arm_label: guard.spec.arms.by.label().to_owned(),
            arms: [(Arm::Candidate, release("v2")), (Arm::Stable, release("v1"))].into(),
            members: BTreeMap::new(),
            since: None,
        }
    }

    #[test]
    fn a_candidate_whose_members_nobody_has_told_of_is_not_one_whose_members_are_gone() {
        let guard = guard(&"pod".into());
        let plan = plan(&guard);
        let members = Members::default();
        let (v1, v2) = ((release("v1"), vec![pod("checkout-1", "checkout")]), (release("v2"), vec![pod("checkout-2", "checkout")]));
        assert!(!members.knows(&guard, &plan), "nothing was told");
        members.tell(&guard.key, [v1.clone()].into());
        assert!(!members.knows(&guard, &plan), "none of the candidate was told");
        members.tell(&guard.key, [v1.clone(), v2].into());
        assert!(members.knows(&guard, &plan));
        assert_eq!(members.narrowed(&guard, &plan).values(Arm::Candidate), ["checkout-2"]);
        members.tell(&guard.key, [v1].into());
        assert!(members.knows(&guard, &plan), "it had one, and its silence counts");
        assert!(members.narrowed(&guard, &plan).values(Arm::Candidate).is_empty());
    }

    #[test]
    fn what_a_router_counts_is_told_apart_by_the_workloads_that_serve() {
        let guard = guard(&serde_json::json!({"workload": {"label": "destination_workload", "namespace": "destination_namespace"}}));
        let plan = plan(&guard);
        assert_eq!(plan.arm_label, "destination_workload");
        let members = Members::default();
        let (own, copy) = (vec![pod("checkout-1", "checkout")], vec![pod("checkout-candidate-1", "checkout-candidate")]);
        members.tell(&guard.key, [(release("v1"), own.clone()), (release("v2"), copy.clone())].into());
        let narrowed = members.narrowed(&guard, &plan);
        assert_eq!((narrowed.values(Arm::Candidate), narrowed.values(Arm::Stable)), (vec!["checkout-candidate"], vec!["checkout"]));
        let total = narrowed.signals.values().next().unwrap().counters.values().next().unwrap();
        let matcher = total.matchers.iter().find(|matcher| matcher.label == "destination_namespace").expect("the guard's own namespace");
        assert_eq!((matcher.op, matcher.value.as_str()), (MatchOp::Equal, "shop"));
        assert!(total.matchers.iter().all(|matcher| matcher.label != "namespace"), "that one may be the router's");
        // While it is promoted the candidate runs in both, and only what its copy serves is surely its own.
        members.tell(&guard.key, [(release("v1"), own.clone()), (release("v2"), [own.clone(), copy].concat())].into());
        assert_eq!(members.narrowed(&guard, &plan).values(Arm::Candidate), ["checkout-candidate"]);
        assert!(members.knows(&guard, &plan));
        members.tell(&guard.key, [(release("v1"), own.clone()), (release("v2"), own)].into());
        assert!(!members.knows(&guard, &plan), "nothing tells them apart now, and that is not the candidate's silence");
    }
}
