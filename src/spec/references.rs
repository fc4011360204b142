//! What documents refer to must exist, and must be open to them.

use super::code;
use super::document::Kind;
use super::finding::Finding;
use super::load::{At, Loaded};
use super::schema::{either, meant};
use crate::core::spec::{GuardedRollout, Metadata};

/// The source that is always there: the host's own proxy counters.
pub(super) const HOST: &str = "host";

/// Checks every reference of every guard.
pub(super) fn check(loaded: &mut Loaded) {
    let mut findings = Vec::new();
    for (key, (metadata, rollout)) in &loaded.rollouts {
        Guard { loaded, at: At { kind: Kind::GuardedRollout, key }, metadata, rollout }.check(&mut findings);
    }
    loaded.findings.append(&mut findings);
}

struct Guard<'a> {
    loaded: &'a Loaded,
    at: At<'a>,
    metadata: &'a Metadata,
    rollout: &'a GuardedRollout,
}

impl Guard<'_> {
    fn check(&self, findings: &mut Vec<Finding>) {
        let source = &self.rollout.source;
        match self.loaded.sources.get(source) {
            Some(spec) => findings.extend(self.open(Kind::GuardSource, source, &spec.allowed_namespaces, "/spec/source")),
            None if source == HOST || self.loaded.is_there(Kind::GuardSource, source) => {}
            None => {
                let names: Vec<&str> = self.loaded.sources.keys().map(String::as_str).chain([HOST]).collect();
                findings.push(self.dangling(Kind::GuardSource, source, &names, "/spec/source"));
            }
        }
        for (index, action) in self.rollout.revert.flags.iter().enumerate() {
            let pointer = format!("/spec/revert/flags/{index}/use");
            match self.loaded.flags.get(&action.use_) {
                Some(spec) => findings.extend(self.open(Kind::FlagTarget, &action.use_, &spec.allowed_namespaces, &pointer)),
                None if self.loaded.is_there(Kind::FlagTarget, &action.use_) => {}
                None => {
                    let names: Vec<&str> = self.loaded.flags.keys().map(String::as_str).collect();
                    findings.push(self.dangling(Kind::FlagTarget, &action.use_, &names, &pointer));
                }
            }
        }
        let (policy, pointer) = (&self.rollout.attestation.policy, "/spec/attestation/policy");
        match self.loaded.policies.get(policy) {
            Some(spec) if spec.attestation.is_some() => {}
            Some(_) => {
                let finding = Finding::error(code::DANGLING, format!("the GuardPolicy `{policy}` has no `attestation`"));
                let mut finding = self.placed(finding, pointer).fix("name one that says what proves an image");
                if let Some(place) = self.loaded.place(At { kind: Kind::GuardPolicy, key: policy }, "/metadata/name") {
                    finding = finding.related("this policy", place);
                }
                findings.push(finding);
            }
            None if self.loaded.is_there(Kind::GuardPolicy, policy) => {}
            None => {
                let names: Vec<&str> =
                    self.loaded.policies.iter().filter(|(_, policy)| policy.attestation.is_some()).map(|(name, _)| name.as_str()).collect();
                findings.push(self.dangling(Kind::GuardPolicy, policy, &names, pointer));
            }
        }
    }

    fn placed(&self, finding: Finding, pointer: &str) -> Finding {
        match self.loaded.place(self.at, pointer) {
            Some(place) => finding.at(place),
            None => finding,
        }
    }

    fn dangling(&self, kind: Kind, name: &str, names: &[&str], pointer: &str) -> Finding {
        let finding = self.placed(Finding::error(code::DANGLING, format!("there is no {kind} `{name}`")), pointer);
        match (meant(name, names), names) {
            (Some(name), _) => finding.fix(format!("did you mean `{name}`?")),
            (None, []) => finding.fix(format!("add a document `kind: {kind}` of that name to the files that are checked")),
            (None, _) => finding.expected(either(names)),
        }
    }

    fn open(&self, kind: Kind, name: &str, allowed: &[String], pointer: &str) -> Option<Finding> {
        let namespace = self.metadata.namespace();
        if allowed.is_empty() || allowed.iter().any(|one| one == namespace) {
            return None;
        }
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let message = format!("{kind} `{name}` is not open to the namespace `{namespace}`, only to {}", either(&allowed));
        let finding = self.placed(Finding::error(code::NAMESPACE, message), pointer);
        Some(match self.loaded.place(At { kind, key: name }, "/spec/allowedNamespaces") {
            Some(place) => finding.related("allowed here", place),
            None => finding,
        })
    }
}
