//! The workload: addresses, health, levers, witnesses.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Guard, Sheet};
use crate::core::spec::{ArmsBy, Artifacts, Process, Restore, Strategy, Workload};
use crate::spec::code;
use crate::spec::document::Kind;
use crate::spec::finding::Finding;
use crate::spec::load::{At, Loaded};
use crate::spec::references::HOST;
use crate::spec::selector;

const PROCESS: &str = "/spec/workload/process";

pub(super) fn check(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    if let Workload::Process(process) = &guard.rollout.workload {
        check_process(sheet, guard, process);
    }
    arms(sheet, guard);
    levers(sheet, guard);
}

fn check_process(sheet: &mut Sheet<'_>, guard: &Guard<'_>, process: &Process) {
    listen(sheet, process);
    if let Artifacts::Layout { path } = &process.artifacts
        && path.is_empty()
    {
        let finding = Finding::error(code::PATH, "the path is empty").expected("the folder that holds `oci-layout` and `index.json`");
        sheet.push(&format!("{PROCESS}/artifacts/layout/path"), finding);
    }
    if process.instances == 0 {
        let finding = Finding::error(code::LIMIT, "without instances nothing serves").expected("at least 1");
        sheet.push(&format!("{PROCESS}/instances"), finding);
    }
    health(sheet, process);
    witness(sheet, guard, process);
}

fn listen(sheet: &mut Sheet<'_>, process: &Process) {
    let pointer = format!("{PROCESS}/listen");
    match process.listen.parse::<SocketAddr>() {
        Err(_) => sheet
            .push(&pointer, Finding::error(code::ADDRESS, "not an address").expected("an IP address and a port, such as `127.0.0.1:8080`")),
        Ok(address) if !address.ip().is_loopback() => {
            let message = "the proxy would be open to the network: it has neither TLS nor authentication of its own";
            sheet
                .push(&pointer, Finding::warning(code::ADDRESS, message).fix("listen on `127.0.0.1`, behind a server that is made for it"));
        }
        Ok(_) => {}
    }
}

fn health(sheet: &mut Sheet<'_>, process: &Process) {
    let health = &process.health;
    if !health.path.starts_with('/') {
        sheet.push(
            &format!("{PROCESS}/health/path"),
            Finding::error(code::PATH, "not a path of a URL").expected("something like `/healthz`"),
        );
    }
    for (field, zero) in [
        ("every", health.every.0.is_zero()),
        ("timeout", health.timeout.0.is_zero()),
        ("failures", health.failures == 0),
        ("startWithin", health.start_within.0.is_zero()),
    ] {
        if zero {
            sheet.push(&format!("{PROCESS}/health/{field}"), Finding::error(code::LIMIT, "this cannot be zero").expected("more than 0"));
        }
    }
    if health.start_within < health.every {
        let finding =
            Finding::warning(code::TOO_SHORT, format!("a child is given up before its second probe, {} after the first", health.every));
        sheet.push(&format!("{PROCESS}/health/startWithin"), finding.fix("give it several probes of time"));
    }
}

/// Whether samples can have this label; says so if not.
fn is_of_samples(sheet: &mut Sheet<'_>, pointer: &str, label: &str, example: &str) -> bool {
    let can = selector::is_label(label) && !label.starts_with("__");
    if !can {
        let finding = Finding::error(code::BAD_NAME, "not a label that samples can have");
        sheet.push(pointer, finding.expected(format!("letters, digits and underscores, such as `{example}`")));
    }
    can
}

fn arms(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    if let ArmsBy::Workload(by) = &guard.rollout.arms.by {
        for (field, label) in [("label", &by.label), ("namespace", &by.namespace)] {
            is_of_samples(sheet, &format!("/spec/arms/by/workload/{field}"), label, "destination_workload");
        }
    }
    if let ArmsBy::Label(label) = &guard.rollout.arms.by
        && is_of_samples(sheet, "/spec/arms/by/label", label, "version")
        && guard.rollout.source == HOST
        && guard.rollout.workload.process().is_some()
        && label != ArmsBy::Route.label()
    {
        let finding = Finding::error(code::ARM_LABEL, format!("the source `{HOST}` does not label its counters with `{label}`"));
        sheet.push("/spec/arms/by", finding.fix("write `by: route`, or name the source that has the service's own metrics"));
    }
}

/// A service that counts its own mistakes can fail in a way that it does not count.
fn witness(sheet: &mut Sheet<'_>, guard: &Guard<'_>, process: &Process) {
    let ArmsBy::Label(_) = guard.rollout.arms.by else { return };
    let Some(scrape) = sheet.loaded.sources.get(&guard.rollout.source).and_then(|source| source.scrape.as_ref()) else { return };
    let Ok(address) = process.listen.parse::<SocketAddr>() else { return };
    let served = |url: &String| {
        let url = reqwest::Url::parse(url).ok();
        url.is_some_and(|url| url.port_or_known_default() == Some(address.port()) && super::endpoints::is_loopback(&url))
    };
    if scrape.urls.iter().any(served) {
        let message = "the service under judgement is the only witness: its metrics come from itself, through its own address";
        let finding = Finding::warning(code::WITNESS, message);
        sheet.push("/spec/source", finding.fix("judge by the proxy's counters: `arms: {by: route}` and `source: host`"));
    }
}

fn levers(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let observes = matches!(guard.rollout.strategy, Strategy::Observe(_));
    if !observes || !guard.rollout.revert.flags.is_empty() {
        return;
    }
    let finding = match guard.rollout.revert.restore {
        Restore::Template => Finding::warning(code::LEVERS, "a restart is the only lever: no traffic is moved, and no flag is turned off")
            .fix("add a flag to `revert.flags`"),
        Restore::Nothing => {
            Finding::error(code::LEVERS, "a revert would do nothing: no traffic, no flag, no restore").fix("write `restore: template`")
        }
    };
    sheet.push("/spec/revert", finding);
}

/// No two proxies on one address.
pub(super) fn check_addresses(loaded: &Loaded, findings: &mut Vec<Finding>) {
    let mut taken: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for (key, (_, rollout)) in &loaded.rollouts {
        let Workload::Process(process) = &rollout.workload else { continue };
        let Some(address) = process.listen.parse::<SocketAddr>().ok().filter(|address| address.port() != 0) else { continue };
        let pointer = format!("{PROCESS}/listen");
        let at = |key| At { kind: Kind::GuardedRollout, key };
        let Some(first) = taken.get(&address) else {
            taken.insert(address, key);
            continue;
        };
        let mut finding = Finding::error(code::ADDRESS, format!("`{first}` listens on {address} already"));
        finding.place = loaded.place(at(key), &pointer);
        if let Some(place) = loaded.place(at(first), &pointer) {
            finding = finding.related("here", place);
        }
        findings.push(finding.fix("choose another port"));
    }
}
