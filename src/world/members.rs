//! Who the members of each release of each workload are, in a cluster, and looks that see no others: which arm a series belongs to is
//! said by the cluster, never by the series.

use std::collections::BTreeMap;
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
        let runs = first.image_ids.get(container).map_or("another image", String::as_str);
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

    /// Whether the candidate of a look was ever told to have members, if it has a candidate and members matter.
    fn knows(&self, guard: &Guard, plan: &LookPlan) -> bool {
        let Some(candidate) = plan.arms.get(&Arm::Candidate).filter(|_| guard.spec.arms.by != ArmsBy::Route) else { return true };
        self.of().get(&guard.key).is_some_and(|known| known.contains_key(candidate))
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
        let mut plan = plan.clone();
        for selector in Arc::make_mut(&mut plan.signals).values_mut().flat_map(|signal| signal.counters.values_mut()) {
            selector.matchers.retain(|matcher| matcher.label != NAMESPACE);
            selector.matchers.push(Matcher { label: NAMESPACE.to_owned(), op: MatchOp::Equal, value: namespace(guard).to_owned() });
            if *by != ArmsBy::Route {
                selector.matchers.iter_mut().for_each(of_copies_too);
            }
        }
        let of = self.of();
        let known = of.get(&guard.key);
        let label = |member: &Member| match by {
            ArmsBy::Pod => Some(member.pod.clone()),
            ArmsBy::Label(_) => member.hash.clone(),
            ArmsBy::Route => None,
        };
        if *by != ArmsBy::Route {
            let of_arm = |release: &ReleaseId| known.and_then(|known| known.get(release)).into_iter().flatten().filter_map(label).collect();
            plan.members = plan.arms.iter().map(|(arm, release)| (*arm, of_arm(release))).collect();
        }
        plan
    }
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

    #[test]
    fn a_candidate_whose_members_nobody_has_told_of_is_not_one_whose_members_are_gone() {
        let spec = serde_json::json!({
            "workload": {"deployment": {"name": "checkout"}},
            "arms": {"by": "pod"},
            "objectives": [],
            "strategy": {"observe": {}},
            "attestation": {"policy": "release"},
        });
        let spec = Arc::new(serde_json::from_value(spec).unwrap());
        let guard = Guard { key: "shop/checkout".into(), uid: "uid-1".into(), spec, interval: Span::seconds(1) };
        let release = |name: &str| ReleaseId(name.into());
        let pod = |name: &str| Member {
            pod: name.to_owned(),
            ip: None,
            uid: name.to_owned(),
            hash: None,
            image_ids: BTreeMap::new(),
            other_images: BTreeMap::new(),
            injected: std::collections::BTreeSet::new(),
        };
        let plan = LookPlan {
            source: "metrics".into(),
            signals: Arc::default(),
            arm_label: "pod".into(),
            arms: [(Arm::Candidate, release("v2")), (Arm::Stable, release("v1"))].into(),
            members: BTreeMap::new(),
            since: None,
        };
        let members = Members::default();
        let (v1, v2) = ((release("v1"), vec![pod("checkout-1")]), (release("v2"), vec![pod("checkout-2")]));
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
}
