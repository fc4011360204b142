//! Policies: floors that can be kept, keys that can verify, requirements that can be met.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Sheet;
use super::objectives::check_objective;
use crate::core::attest::AttestationPolicy;
use crate::core::policy::GuardPolicy;
use crate::core::spec::Percent;
use crate::spec::code;
use crate::spec::finding::Finding;

const ATTESTATION: &str = "/spec/attestation";

pub(super) fn check(sheet: &mut Sheet<'_>, policy: &GuardPolicy) {
    for (index, objective) in policy.objectives.iter().enumerate() {
        check_objective(sheet, &format!("/spec/objectives/{index}"), objective, None);
    }
    if policy.floors.first_step.is_some_and(|floor| floor <= Percent::ZERO) {
        sheet.push("/spec/floors/firstStep", Finding::error(code::LIMIT, "no step can be this small").expected("more than 0%"));
    }
    if policy.floors.good.is_some_and(|good| good > Percent::new(99.999)) {
        sheet.push("/spec/floors/good", Finding::error(code::GOOD, "no guard can promise this").expected("at most 99.999%"));
    }
    let guards = sheet.loaded.rollouts.iter();
    let named = guards.clone().any(|(_, (_, rollout))| rollout.attestation.policy == sheet.at.key);
    if !sheet.loaded.rollouts.is_empty() && !named && !guards.into_iter().any(|(_, (metadata, _))| policy.match_.guard(metadata)) {
        sheet.push("/spec/match", Finding::info(code::UNUSED, "this policy is for none of the guards that were read"));
    }
    if let Some(attestation) = &policy.attestation {
        authorities(sheet, attestation);
        requirements(sheet, attestation);
    }
}

fn authorities(sheet: &mut Sheet<'_>, attestation: &AttestationPolicy) {
    if attestation.authorities.is_empty() && !(attestation.require.is_empty() && denies(attestation)) {
        let finding =
            Finding::error(code::REQUIREMENT, "nobody's signature counts, so nothing can be proven").expected("at least one authority");
        sheet.push(&format!("{ATTESTATION}/authorities"), finding);
    }
    let mut names = BTreeSet::new();
    for (index, authority) in attestation.authorities.iter().enumerate() {
        let pointer = format!("{ATTESTATION}/authorities/{index}");
        if !names.insert(&authority.name) {
            sheet
                .push(&format!("{pointer}/name"), Finding::error(code::DUPLICATE_NAME, format!("a second authority `{}`", authority.name)));
        }
        match (&authority.key.data, &authority.key.file) {
            (Some(data), None) => {
                if let Err(finding) = public_key(data) {
                    let written = if sheet.loaded.is_written(sheet.at, &format!("{pointer}/key/data")) { "data" } else { "file" };
                    sheet.push_key(&format!("{pointer}/key/{written}"), *finding);
                }
            }
            // A file that could not be read was told of when it was tried.
            (None, Some(_)) => {}
            _ => {
                let finding = Finding::error(code::EXACTLY_ONE, "not one key").expected("either `data` or `file`");
                sheet.push(&format!("{pointer}/key"), finding);
            }
        }
    }
}

/// Whether `pem` is shaped like a public key. Whether the key is one is found out when it verifies.
fn public_key(pem: &str) -> Result<(), Box<Finding>> {
    if pem.contains("PRIVATE KEY-----") {
        let finding = Finding::error(code::KEY, "a private key, where everybody can read it");
        return Err(Box::new(finding.expected("a public key").fix("take it out, make a new pair, and write the public half here")));
    }
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"));
    let bytes = body.and_then(|body| STANDARD.decode(body.split_whitespace().collect::<String>()).ok());
    // The DER of a SubjectPublicKeyInfo (RFC 5280, 4.1) is a SEQUENCE; the smallest one in use, Ed25519, has 44 bytes.
    if bytes.is_some_and(|bytes| bytes.first() == Some(&0x30) && bytes.len() >= 44) {
        return Ok(());
    }
    let finding = Finding::error(code::KEY, "not a public key in PEM form");
    Err(Box::new(finding.expected("a block that begins with `-----BEGIN PUBLIC KEY-----`")))
}

/// A policy may only deny: then others say what proves an image.
fn denies(attestation: &AttestationPolicy) -> bool {
    !attestation.deny.digests.is_empty()
}

fn requirements(sheet: &mut Sheet<'_>, attestation: &AttestationPolicy) {
    let relied_on = sheet.loaded.rollouts.values().any(|(_, rollout)| rollout.attestation.policy == sheet.at.key);
    if attestation.require.is_empty() && (relied_on || !denies(attestation)) {
        let finding = Finding::error(code::REQUIREMENT, "nothing is required, so everything would be attested");
        sheet.push(&format!("{ATTESTATION}/require"), finding.expected("at least `{kind: signature}`"));
    }
    let names: Vec<&str> = attestation.authorities.iter().map(|authority| authority.name.as_str()).collect();
    for (index, requirement) in attestation.require.iter().enumerate() {
        for (at, name) in requirement.authorities.iter().enumerate().filter(|(_, name)| !names.contains(&name.as_str())) {
            let finding = Finding::error(code::DANGLING, format!("there is no authority `{name}` in this policy"));
            sheet.push(&format!("{ATTESTATION}/require/{index}/authorities/{at}"), finding.expected(crate::spec::schema::either(&names)));
        }
    }
}
