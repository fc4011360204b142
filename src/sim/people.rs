//! Agents and people, who act at bad moments.

use std::sync::Arc;

use super::house;
use super::life::Life;
use super::prng::Random;
use super::traffic::Lie;
use crate::core::actor::ActorKind;
use crate::core::input::{Alerted, Input, Parts, Verb};
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::spec::{Percent, Trust};
use crate::core::state::PhaseKind;
use crate::core::time::{Mono, Span};

/// Images that exist: what is good of them is the seed's to say.
pub const IMAGES: [&str; 5] = ["v1", "v2", "v3", "v4", "v5"];

/// Does one thing that the seed draws.
pub fn act(life: &mut Life) {
    if life.phase() == PhaseKind::AwaitingApproval && life.random.chance(0.6) {
        let by = life.random.pick(&[house::person("ann"), house::person("bob"), house::person("bob"), house::agent("bot")]);
        life.command(Verb::Approve, by);
        return;
    }
    one(life);
    // Bad moments are those right after something else.
    if life.random.chance(0.25) {
        let pause = life.random.between(0, 1);
        life.run(pause);
        one(life);
    }
}

fn one(life: &mut Life) {
    let random = &mut life.random;
    match random.between(0, 30) {
        0..=7 => {
            let release = if random.chance(0.05) { misplace(life) } else { draw_release(random) };
            let random = &mut life.random;
            let by = if random.chance(0.7) { house::agent("bot") } else { house::person("ann") };
            life.deploy(&release, by);
        }
        8..=15 => {
            let verb = draw_verb(life);
            let by = match life.random.between(0, 4) {
                0 => house::agent("bot"),
                1 | 2 => house::person("ann"),
                _ => house::person("bob"),
            };
            life.command(verb, by);
        }
        16 | 17 => surround(life),
        18 | 19 => {
            let alert = draw_alert(life);
            life.tell(Input::Alerted(alert));
        }
        20 => {
            let image = random.pick(&IMAGES);
            life.world.evidence.entry(Digest::of(image.as_bytes())).or_default().tampered = random.chance(0.5);
        }
        21 => life.world.host_back_at = life.world.now + random.between(100, 8_000),
        22 => {
            life.world.registry = random.chance(0.5);
            life.world.registry_lies = random.chance(0.3);
        }
        23 | 24 => change_policy(life),
        25 => change_document(life),
        26 => {
            let metrics = random.pick(&[None, Some(Lie::Nan), Some(Lie::Frozen), Some(Lie::Empty), Some(Lie::Future)]);
            life.world.traffic.lied |= life.world.traffic.lie.is_some();
            life.world.traffic.lie = metrics.map(|lie| (lie, life.world.now));
        }
        27 => {
            let running: Vec<ReleaseId> = life.world.members.keys().cloned().collect();
            if !running.is_empty() {
                let id = random.pick(&running);
                life.world.members.entry(id).or_default().failing = Some("crash loop".into());
            }
        }
        28 => put_back(life),
        // The disk is full, and somebody has to make room.
        29 => life.world.store_back_at = life.world.now + random.between(5_000, 60_000),
        _ => {
            use super::world::FlagService::{Denies, Down, Obeys};
            life.world.flag_service = random.pick(&[Obeys, Obeys, Denies, Down]);
            life.world.webhook = random.chance(0.7);
        }
    }
}

/// A wave of breaches around this rollout, or a freeze of everything.
fn surround(life: &mut Life) {
    let now = Mono(life.world.now);
    if life.random.chance(0.3) {
        let on = life.random.chance(0.5);
        life.neighbours.freeze("*", on, Some(house::person("carol")));
        return;
    }
    for other in 0..life.random.pick(&[2_u32, 5, 5]) {
        life.neighbours.breached(&format!("shop/{other}"), now);
    }
}

/// Somebody tightens the policy, or loosens it.
fn change_policy(life: &mut Life) {
    let mut policy = house::policy();
    policy.approve_within = Span::seconds(120);
    let random = &mut life.random;
    policy.approvals = random.pick(&[0, 0, 1]);
    policy.restores_per_hour = random.pick(&[0, 1, 3]);
    policy.breaker = random.chance(0.9);
    if random.chance(0.5) {
        policy.attestation.deny.digests.push(Digest::of(random.pick(&IMAGES).as_bytes()));
    }
    life.set_policy(policy);
}

/// Somebody changes the document: a looser objective, no flag, a shorter bake.
fn change_document(life: &mut Life) {
    let mut guard = life.world.guard.clone();
    let spec = Arc::make_mut(&mut guard.spec);
    match life.random.between(0, 2) {
        0 => spec.objectives.iter_mut().for_each(|objective| objective.good = Percent::new(60.0)),
        1 => spec.revert.flags.clear(),
        _ => spec.watch.for_ = Span::seconds(4),
    }
    life.set_guard(guard);
}

/// A pipeline that knows nothing of the revert deploys again what was taken out, in the middle of it or later.
fn put_back(life: &mut Life) {
    let under = life.committed().and_then(|state| state.last_revert.as_ref()).and_then(|revert| revert.under.clone());
    if let Some(under) = under {
        life.deploy(&under, house::request(ActorKind::Automation, "gitops"));
    }
}

/// A release of an image that may be good, around which something is broken.
fn misplace(life: &mut Life) -> Release {
    let release = draw_release(&mut life.random);
    life.world.misplaced.insert(release.id.clone());
    release
}

fn draw_release(random: &mut Random) -> Release {
    let image = random.pick(&IMAGES);
    let touch = if random.chance(0.3) { u32::try_from(random.between(1, 3)).unwrap_or(1) } else { 0 };
    house::release(image, touch)
}

fn draw_verb(life: &mut Life) -> Verb {
    let records = life.committed().map(|state| state.ledger.records()).unwrap_or_default();
    let known: Vec<ReleaseId> = records.iter().map(|record| record.release.id.clone()).collect();
    let random = &mut life.random;
    let some = (!known.is_empty() && random.chance(0.3)).then(|| random.pick(&known));
    match random.between(0, 13) {
        0..=3 => Verb::Revert {
            to: some,
            parts: random.pick(&[Parts::All, Parts::All, Parts::Traffic, Parts::Flags]),
            break_glass: random.chance(0.05),
        },
        13 => Verb::Lift { release: some },
        4 => Verb::Pause,
        5 => Verb::Resume,
        6 => Verb::Promote,
        7 => Verb::Approve,
        8 => Verb::Freeze,
        9 => Verb::Thaw,
        10 => Verb::Disarm { span: Span::seconds(random.between(5, 60)) },
        11 => Verb::Arm,
        _ => Verb::Adopt,
    }
}

fn draw_alert(life: &mut Life) -> Alerted {
    let at = super::traffic::EPOCH_MS + i64::try_from(life.world.now).unwrap_or_default();
    let random = &mut life.random;
    let back = i64::try_from(random.between(0, 20_000)).unwrap_or_default();
    Alerted {
        name: "Burning".into(),
        fingerprint: random.pick(&["a", "b"]).to_owned(),
        starts_at: jiff::Timestamp::from_millisecond(at - back).unwrap_or_default(),
        firing: random.chance(0.6),
        trust: random.pick(&[Trust::Wait, Trust::Wait, Trust::Revert]),
    }
}
