//! The decision: may these images go, or go back, live?

use std::collections::BTreeSet;

use super::merge::NOBODY;
use super::{AttestationPolicy, Facts, ImageFacts, Requirement};
use crate::core::mutant::Mutant;
use crate::core::reason::Reason;
use crate::core::release::Image;

/// Images that satisfied a policy. Only [`evaluate`] makes one, so whoever holds it has been through the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    images: BTreeSet<Image>,
}

impl Attested {
    /// The images.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.iter()
    }

    /// Whether each of `images` is among them. No images are never covered.
    pub fn covers(&self, images: &[Image]) -> bool {
        !images.is_empty() && images.iter().all(|image| self.images.contains(image))
    }
}

/// How many rejected pieces of evidence a reason quotes.
const QUOTED: usize = 4;

/// Holds `facts` against `policy`.
///
/// `facts` must have been verified with the keys of this same policy: statements name authorities, not keys.
///
/// # Errors
/// Every reason at once: one per image that is denied ([`Reason::DeniedDigest`]), lacks something
/// ([`Reason::NotAttested`]) or may lack it only because evidence could not be had
/// ([`Reason::EvidenceUnavailable`]), and one if the ledger record is not trusted ([`Reason::LedgerUntrusted`]).
pub fn evaluate(policy: &AttestationPolicy, facts: &Facts) -> Result<Attested, Vec<Reason>> {
    let mut reasons = Vec::new();
    if let Some(what) = &facts.ledger_untrusted {
        reasons.push(Reason::LedgerUntrusted { what: what.clone() });
    }
    if facts.images.is_empty() {
        reasons.push(Reason::NotAttested { image: "the release".to_owned(), why: "it names no image, so nothing was verified".to_owned() });
    }
    let undecidable = undecidable(policy);
    reasons.extend(facts.images.iter().filter_map(|image| {
        if policy.deny.digests.contains(&image.image.digest) && !Mutant::DeniedRestored.lives() {
            return Some(Reason::DeniedDigest { image: image.image.to_string() });
        }
        match &undecidable {
            Some(why) => Some(Reason::NotAttested { image: image.image.to_string(), why: why.clone() }),
            None => shortfall(policy, image),
        }
    }));
    if reasons.is_empty() { Ok(Attested { images: facts.images.iter().map(|image| image.image.clone()).collect() }) } else { Err(reasons) }
}

/// Why no image can satisfy `policy`, in words that say how to fix it.
fn undecidable(policy: &AttestationPolicy) -> Option<String> {
    if policy.authorities.is_empty() {
        return Some("the policy has no `authorities`: expected at least one key whose signature counts".to_owned());
    }
    if policy.require.is_empty() {
        return Some("the policy has nothing in `require`: expected at least one of `signature`, `provenance` and `sbom`".to_owned());
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = policy.authorities.iter().find(|authority| !names.insert(authority.name.as_str())) {
        return Some(format!("the policy defines the authority `{}` twice: names must be unique", twice.name));
    }
    policy.require.iter().find_map(|requirement| {
        let unknown = requirement.authorities.iter().find(|name| *name == NOBODY || !names.contains(name.as_str()))?;
        Some(format!("the policy requires a {} by `{unknown}`, which is not among its `authorities`", requirement.kind.word()))
    })
}

/// What `image` lacks, if anything.
fn shortfall(policy: &AttestationPolicy, image: &ImageFacts) -> Option<Reason> {
    let missing: BTreeSet<_> = policy
        .require
        .iter()
        .filter(|requirement| !satisfied(policy, requirement, image))
        .map(|requirement| describe(policy, requirement))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let missing = missing.into_iter().collect::<Vec<_>>().join("; ");
    Some(match &image.incomplete {
        Some(what) => Reason::EvidenceUnavailable { what: format!("{}: {what} (so far: {missing})", image.image) },
        None => Reason::NotAttested { image: image.image.to_string(), why: format!("{missing}{}", rejected(image)) },
    })
}

/// Whether an authority that the requirement accepts has proven it of this image.
fn satisfied(policy: &AttestationPolicy, requirement: &Requirement, image: &ImageFacts) -> bool {
    image.statements.iter().any(|statement| {
        let known = policy.authorities.iter().any(|authority| authority.name == statement.authority);
        let accepted = requirement.authorities.is_empty() || requirement.authorities.contains(&statement.authority);
        known && accepted && statement.proves(requirement.kind)
    })
}

/// `no SBOM by ci or release`.
fn describe(policy: &AttestationPolicy, requirement: &Requirement) -> String {
    let names: Vec<_> = if requirement.authorities.is_empty() {
        policy.authorities.iter().map(|authority| authority.name.as_str()).collect()
    } else {
        requirement.authorities.iter().map(String::as_str).collect()
    };
    format!("no {} by {}", requirement.kind.word(), names.join(" or "))
}

/// What was there and did not count, for the end of a sentence.
fn rejected(image: &ImageFacts) -> String {
    if image.rejected.is_empty() {
        return String::new();
    }
    let quoted = image.rejected.iter().take(QUOTED).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = image.rejected.len().saturating_sub(QUOTED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(" (rejected: {quoted}{more})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::attest::{Authority, Deny, Key, Proof, Statement};
    use crate::core::release::Digest;

    fn image(seed: &str) -> Image {
        Image { repository: "registry.example/shop/checkout".to_owned(), digest: Digest::of(seed.as_bytes()) }
    }

    fn authority(name: &str) -> Authority {
        Authority { name: name.to_owned(), key: Key { data: Some(format!("key of {name}")), file: None } }
    }

    fn require(kind: Proof, authorities: &[&str]) -> Requirement {
        Requirement { kind, authorities: authorities.iter().map(|&name| name.to_owned()).collect() }
    }

    fn policy(authorities: &[&str], require: Vec<Requirement>) -> AttestationPolicy {
        AttestationPolicy { authorities: authorities.iter().map(|name| authority(name)).collect(), require, deny: Deny::default() }
    }

    fn statement(authority: &str, proof: Proof) -> Statement {
        Statement {
            authority: authority.to_owned(),
            proof,
            predicate_type: None,
            builder: None,
            source: None,
            packages: (proof == Proof::Sbom).then_some(3),
            evidence: Digest::of(b"evidence"),
        }
    }

    fn facts(statements: Vec<Statement>) -> Facts {
        Facts { images: vec![ImageFacts { image: image("a"), statements, rejected: Vec::new(), incomplete: None }], ledger_untrusted: None }
    }

    fn codes(result: Result<Attested, Vec<Reason>>) -> Vec<&'static str> {
        result.err().map(|reasons| reasons.iter().map(Reason::code).collect()).unwrap_or_default()
    }

    fn why(result: Result<Attested, Vec<Reason>>) -> String {
        result.expect_err("expected a refusal").iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_requirement_must_hold_and_one_authority_is_enough() {
        let all =
            policy(&["ci", "release"], vec![require(Proof::Signature, &[]), require(Proof::Provenance, &[]), require(Proof::Sbom, &[])]);
        let both = vec![statement("ci", Proof::Provenance), statement("release", Proof::Sbom)];
        let attested = evaluate(&all, &facts(both)).unwrap();
        assert!(attested.covers(&[image("a")]), "accepted attestations are signatures too");
        assert!(!attested.covers(&[image("a"), image("b")]));
        assert!(!attested.covers(&[]));

        let only_sbom = why(evaluate(&all, &facts(vec![statement("ci", Proof::Sbom)])));
        assert!(only_sbom.contains("no provenance by ci or release"), "{only_sbom}");
        let unsigned = why(evaluate(&all, &facts(Vec::new())));
        assert!(unsigned.contains("no SBOM by ci or release; no provenance") && unsigned.contains("no signature"), "{unsigned}");
    }

    #[test]
    fn a_requirement_may_name_its_authorities() {
        let named = policy(&["ci", "release"], vec![require(Proof::Provenance, &["release"])]);
        assert_eq!(codes(evaluate(&named, &facts(vec![statement("ci", Proof::Provenance)]))), ["BS040"]);
        assert!(evaluate(&named, &facts(vec![statement("release", Proof::Provenance)])).is_ok());
    }

    #[test]
    fn an_empty_sbom_counts_for_nothing() {
        let mut empty = statement("ci", Proof::Sbom);
        empty.packages = Some(0);
        for kind in [Proof::Sbom, Proof::Signature] {
            assert_eq!(codes(evaluate(&policy(&["ci"], vec![require(kind, &[])]), &facts(vec![empty.clone()]))), ["BS040"]);
        }
    }

    #[test]
    fn a_statement_by_a_stranger_counts_for_nothing() {
        let any = policy(&["ci"], vec![require(Proof::Signature, &[])]);
        assert_eq!(codes(evaluate(&any, &facts(vec![statement("mallory", Proof::Signature)]))), ["BS040"]);
    }

    #[test]
    fn a_policy_that_cannot_decide_refuses() {
        let good = facts(vec![statement("ci", Proof::Signature)]);
        for (broken, words) in [
            (policy(&["ci"], Vec::new()), "nothing in `require`"),
            (policy(&[], vec![require(Proof::Signature, &[])]), "no `authorities`"),
            (policy(&["ci"], vec![require(Proof::Signature, &[]), require(Proof::Signature, &["release"])]), "by `release`"),
            (policy(&["ci", "ci"], vec![require(Proof::Signature, &[])]), "`ci` twice"),
            (AttestationPolicy::default(), "no `authorities`"),
        ] {
            let why = why(evaluate(&broken, &good));
            assert!(why.contains(words), "{why}");
        }
        let sound = policy(&["ci"], vec![require(Proof::Signature, &[])]);
        assert_eq!(codes(evaluate(&sound, &Facts::default())), ["BS040"], "no image is no proof");
    }

    #[test]
    fn denials_come_first_and_every_image_must_pass() {
        let mut denying = policy(&["ci"], vec![require(Proof::Signature, &[])]);
        denying.deny.digests.push(image("a").digest);
        let mut facts = facts(vec![statement("ci", Proof::Signature)]);
        facts.images.push(ImageFacts { image: image("b"), statements: Vec::new(), rejected: Vec::new(), incomplete: None });
        assert_eq!(codes(evaluate(&denying, &facts)), ["BS041", "BS040"]);
        denying.require.clear();
        assert_eq!(codes(evaluate(&denying, &facts)), ["BS041", "BS040"], "denied whatever else is wrong");
    }

    #[test]
    fn no_answer_is_kept_apart_from_none_and_matters_only_if_something_is_missing() {
        let signed = policy(&["ci"], vec![require(Proof::Signature, &[])]);
        let mut cut = facts(Vec::new());
        cut.images[0].incomplete = Some("the registry answered 503".to_owned());
        assert_eq!(codes(evaluate(&signed, &cut)), ["BS042"]);
        cut.images[0].statements.push(statement("ci", Proof::Signature));
        assert!(evaluate(&signed, &cut).is_ok());
    }

    #[test]
    fn an_untrusted_ledger_refuses_good_evidence() {
        let mut facts = facts(vec![statement("ci", Proof::Signature)]);
        facts.ledger_untrusted = Some("the signature of the record is wrong".to_owned());
        assert_eq!(codes(evaluate(&policy(&["ci"], vec![require(Proof::Signature, &[])]), &facts)), ["BS043"]);
    }

    #[test]
    fn rejected_evidence_is_quoted_in_part() {
        let mut facts = facts(Vec::new());
        facts.images[0].rejected = (0..6).map(|n| format!("piece {n} is bad")).collect();
        let why = why(evaluate(&policy(&["ci"], vec![require(Proof::Signature, &[])]), &facts));
        assert!(why.contains("piece 3 is bad; and 2 more") && !why.contains("piece 4"), "{why}");
    }
}
