//! Several policies for one guard become one that is at least as strict as each of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttestationPolicy, Authority};

/// Stands for "no authority at all" in a merged requirement whose own policy defined none: refused even if somebody
/// takes that name.
pub(super) const NOBODY: &str = "#nobody";

impl AttestationPolicy {
    /// Both policies at once: whatever satisfies the result satisfies each of them, and is denied by neither.
    ///
    /// Requirements and denials are united. A requirement keeps to the authorities of the policy that wrote it, so
    /// each one names them in the result; a name that means another key in `other` is kept apart with a `#` and a
    /// number. A policy with denials alone only adds denials. One that requires something and names nobody
    /// who could prove it refuses everything before and after merging.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let (mut merged, right) = (self.explicit(), other.explicit());
        let mut renamed = BTreeMap::new();
        for authority in right.authorities {
            let name = merged.adopt(authority.clone());
            renamed.insert(authority.name, name);
        }
        for mut requirement in right.require {
            for name in &mut requirement.authorities {
                if let Some(new) = renamed.get(name) {
                    name.clone_from(new);
                }
            }
            if !merged.require.contains(&requirement) {
                merged.require.push(requirement);
            }
        }
        let digests: BTreeSet<_> = merged.deny.digests.into_iter().chain(right.deny.digests).collect();
        merged.deny.digests = digests.into_iter().collect();
        merged
    }

    /// The same policy, each requirement naming who may prove it, by names that this policy defines.
    ///
    /// A name that it does not define must not come to mean somebody else's authority of that name. A policy that
    /// defines a name twice is refused, so nobody satisfies it here either.
    fn explicit(mut self) -> Self {
        let mut names: Vec<_> = self.authorities.iter().map(|authority| authority.name.clone()).collect();
        if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            names.clear();
        }
        for requirement in &mut self.require {
            if requirement.authorities.is_empty() {
                requirement.authorities.clone_from(&names);
            }
            if requirement.authorities.is_empty() {
                requirement.authorities.push(NOBODY.to_owned());
            }
            for name in requirement.authorities.iter_mut().filter(|name| !names.contains(name)) {
                NOBODY.clone_into(name);
            }
        }
        self
    }

    /// Takes in `authority` and says under which name: its own, unless that already means another key.
    fn adopt(&mut self, authority: Authority) -> String {
        let mut name = authority.name.clone();
        let mut number = 2;
        loop {
            match self.authorities.iter().find(|known| known.name == name) {
                Some(known) if known.key == authority.key => return name,
                Some(_) => name = format!("{}#{number}", authority.name),
                None => break,
            }
            number += 1;
        }
        self.authorities.push(Authority { name: name.clone(), key: authority.key });
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::attest::{Deny, Facts, ImageFacts, Key, Proof, Requirement, Statement, evaluate};
    use crate::core::release::{Digest, Image};

    fn key(text: &str) -> Key {
        Key { data: Some(text.to_owned()), file: None }
    }

    fn policy(authorities: &[(&str, &str)], require: &[(Proof, &[&str])]) -> AttestationPolicy {
        AttestationPolicy {
            authorities: authorities.iter().map(|(name, text)| Authority { name: (*name).to_owned(), key: key(text) }).collect(),
            require: require
                .iter()
                .map(|(kind, names)| Requirement { kind: *kind, authorities: names.iter().map(|&name| name.to_owned()).collect() })
                .collect(),
            deny: Deny::default(),
        }
    }

    /// Facts as `world::verify` would give them: evidence signed by `signer`'s key, named as `policy` names that key.
    fn facts(policy: &AttestationPolicy, evidence: &[(String, Proof)]) -> Facts {
        let statements = evidence
            .iter()
            .flat_map(|(signer, proof)| {
                policy.authorities.iter().filter(move |authority| authority.key == key(signer)).map(|authority| Statement {
                    authority: authority.name.clone(),
                    proof: *proof,
                    predicate_type: None,
                    builder: None,
                    source: None,
                    packages: Some(1),
                    evidence: Digest::of(b"evidence"),
                })
            })
            .collect();
        let image = Image { repository: "r.example/a".to_owned(), digest: Digest::of(b"a") };
        Facts { images: vec![ImageFacts { image, statements, rejected: Vec::new(), incomplete: None }], ledger_untrusted: None }
    }

    fn accepts(policy: &AttestationPolicy, evidence: &[(String, Proof)]) -> bool {
        evaluate(policy, &facts(policy, evidence)).is_ok()
    }

    #[test]
    fn the_authority_of_a_weaker_policy_does_not_satisfy_a_stricter_one() {
        let security = policy(&[("ci", "good key")], &[(Proof::Provenance, &[])]);
        let team = policy(&[("ci", "team key")], &[(Proof::Signature, &[])]);
        let merged = security.merge(team);
        assert_eq!(merged.authorities.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["ci", "ci#2"]);
        let evidence = |list: &[(&str, Proof)]| list.iter().map(|(signer, proof)| ((*signer).to_owned(), *proof)).collect::<Vec<_>>();
        assert!(!accepts(&merged, &evidence(&[("team key", Proof::Provenance)])));
        assert!(!accepts(&merged, &evidence(&[("good key", Proof::Provenance)])), "the team's own requirement stands too");
        assert!(accepts(&merged, &evidence(&[("good key", Proof::Provenance), ("team key", Proof::Signature)])));
    }

    #[test]
    fn denials_alone_only_add_denials() {
        let release = policy(&[("ci", "k")], &[(Proof::Signature, &[])]);
        let mut denials = AttestationPolicy::default();
        denials.deny.digests.push(Digest::of(b"a"));
        let merged = release.clone().merge(denials);
        assert_eq!(merged.authorities, release.authorities);
        assert!(!accepts(&merged, &[("k".to_owned(), Proof::Signature)]));
    }

    #[test]
    fn a_policy_that_names_nobody_stays_unsatisfiable() {
        let nobody = policy(&[], &[(Proof::Sbom, &[])]);
        let release = policy(&[("ci", "k")], &[(Proof::Sbom, &[])]);
        let evidence = [("k".to_owned(), Proof::Sbom)];
        assert!(accepts(&release, &evidence));
        assert!(!accepts(&release.clone().merge(nobody.clone()), &evidence));
        assert!(!accepts(&nobody.merge(release), &evidence));
    }

    #[test]
    fn the_name_of_nobody_cannot_be_taken() {
        let nobody = policy(&[], &[(Proof::Sbom, &[])]);
        let taken = policy(&[(NOBODY, "k")], &[(Proof::Sbom, &[])]);
        assert!(!accepts(&nobody.merge(taken), &[("k".to_owned(), Proof::Sbom)]));
    }

    fn any_policy() -> impl Strategy<Value = AttestationPolicy> {
        let named = (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["k1", "k2", "k3"]));
        let authorities = prop::collection::vec(named, 0..3);
        let proofs = prop::sample::select(vec![Proof::Signature, Proof::Provenance, Proof::Sbom]);
        let require = prop::collection::vec((proofs, prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..2)), 0..3);
        (authorities, require).prop_map(|(authorities, require)| {
            let require: Vec<_> = require.iter().map(|(kind, names)| (*kind, names.as_slice())).collect();
            policy(&authorities, &require)
        })
    }

    proptest! {
        /// Accepted by the merged policy ⇒ accepted by each policy that requires anything; and merging is not a ban.
        #[test]
        fn merging_only_tightens(
            left in any_policy(), right in any_policy(), third in any_policy(),
            evidence in prop::collection::vec((prop::sample::select(vec!["k1", "k2", "k3"]), 0..3_usize), 0..6),
        ) {
            let proofs = [Proof::Signature, Proof::Provenance, Proof::Sbom];
            let evidence: Vec<_> = evidence.into_iter().map(|(signer, at)| (signer.to_owned(), proofs[at])).collect();
            let merged = left.clone().merge(right.clone()).merge(third.clone());
            let each = [left, right, third];
            if accepts(&merged, &evidence) {
                for policy in each.iter().filter(|policy| !policy.require.is_empty()) {
                    prop_assert!(accepts(policy, &evidence), "{policy:?} refuses what the merge accepts");
                }
            } else {
                prop_assert!(each.iter().any(|policy| !accepts(policy, &evidence)), "each accepts what the merge refuses");
            }
        }
    }
}
