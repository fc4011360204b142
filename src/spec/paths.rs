//! Paths in documents are relative to the file they are written in; after this they are absolute. Keys are read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::code;
use super::document::Spec;
use super::finding::Finding;
use super::source::Source;
use super::yaml::Node;
use crate::core::spec::{Artifacts, Auth, Workload};

/// Largest key file, in bytes.
const MAX_KEY: u64 = 64 * 1024;

/// Makes the paths in `spec` absolute, from the folder `base`, and puts keys in files in their place.
pub(super) fn resolve(source: &Source, node: &Node, spec: &mut Spec, base: &Path, findings: &mut Vec<Finding>) {
    match spec {
        Spec::Rollout(rollout) => {
            if let Workload::Process(process) = &mut rollout.workload
                && let Artifacts::Layout { path } = &mut process.artifacts
            {
                absolute(base, path);
            }
        }
        Spec::Flag(flag) => absolute(base, &mut flag.file.path),
        Spec::Source(spec) => {
            let prometheus = spec.prometheus.as_mut().and_then(|prometheus| prometheus.auth.as_mut());
            let scrape = spec.scrape.as_mut().and_then(|scrape| scrape.auth.as_mut());
            for auth in prometheus.into_iter().chain(scrape) {
                match auth {
                    Auth::Bearer { token_file: file } | Auth::Basic { password_file: file, .. } => absolute(base, file),
                }
            }
        }
        Spec::Policy(policy) => {
            let authorities = policy.attestation.iter_mut().flat_map(|attestation| &mut attestation.authorities);
            for (index, authority) in authorities.enumerate() {
                // With `data` beside it the mistake is told by lint, and nothing is read.
                let Some(file) = authority.key.file.clone().filter(|_| authority.key.data.is_none()) else { continue };
                match key(base, &file) {
                    Ok(text) => {
                        authority.key.data = Some(text);
                        authority.key.file = None;
                    }
                    Err(message) => {
                        let (_, span) = node.find(&format!("/spec/attestation/authorities/{index}/key/file"));
                        findings.push(Finding::error(code::KEY, message).at(source.place(span)).expected("a public key in PEM form"));
                    }
                }
            }
        }
    }
}

fn absolute(base: &Path, path: &mut String) {
    if path.is_empty() {
        return;
    }
    if let Ok(whole) = std::path::absolute(base.join(&*path)) {
        *path = whole.display().to_string();
    }
}

fn key(base: &Path, file: &str) -> Result<String, String> {
    let open = |error: std::io::Error| format!("cannot read the key `{file}`: {error}");
    let path = base.join(file);
    if !path.is_file() {
        return Err(format!("cannot read the key `{file}`: there is no such file"));
    }
    let mut text = String::new();
    File::open(path).map_err(open)?.take(MAX_KEY + 1).read_to_string(&mut text).map_err(open)?;
    if text.len() as u64 > MAX_KEY {
        return Err(format!("the key `{file}` is larger than {} KiB", MAX_KEY / 1024));
    }
    Ok(text)
}
