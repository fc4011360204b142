//! Agents and people, who act at bad moments.

use super::house;
use super::life::Life;
use super::prng::Random;
use crate::core::input::{Alerted, Input, Parts, Scope, Verb};
use crate::core::release::{Digest, Release, ReleaseId};
use crate::core::spec::Trust;
use crate::core::time::Span;

/// Images that exist: what is good of them is the seed's to say.
pub const IMAGES: [&str; 5] = ["v1", "v2", "v3", "v4", "v5"];

/// Does one thing that the seed draws.
pub fn act(life: &mut Life) {
    let random = &mut life.random;
    match random.between(0, 19) {
        0..=6 => {
            let release = draw_release(random);
            let by = if random.chance(0.7) { house::agent("bot") } else { house::person("ann") };
            life.deploy(&release, by);
        }
        7..=13 => {
            let verb = draw_verb(life);
            let by = match life.random.between(0, 4) {
                0 => house::agent("bot"),
                1 | 2 => house::person("ann"),
                _ => house::person("bob"),
            };
            life.command(verb, by);
        }
        14 => {
            let (breaching, watched) = (random.pick(&[0, 0, 2, 5]), 20);
            let scope = Scope { frozen: random.chance(0.1), breaching, breaching_recently: breaching, watched, by: None };
            life.tell(Input::ScopeChanged(scope));
        }
        15 => {
            let alert = draw_alert(life);
            life.tell(Input::Alerted(alert));
        }
        16 => {
            let image = random.pick(&IMAGES);
            life.world.evidence.entry(Digest::of(image.as_bytes())).or_default().tampered = random.chance(0.5);
        }
        17 => life.world.host_back_at = life.world.now + random.between(100, 8_000),
        18 => life.world.registry = !life.world.registry,
        _ => {
            use super::world::FlagService::{Denies, Down, Obeys};
            life.world.flag_service = random.pick(&[Obeys, Obeys, Denies, Down]);
            life.world.webhook = random.chance(0.7);
        }
    }
}

fn draw_release(random: &mut Random) -> Release {
    let image = random.pick(&IMAGES);
    let touch = if random.chance(0.3) { u32::try_from(random.between(1, 3)).unwrap_or(1) } else { 0 };
    house::release(image, touch)
}

fn draw_verb(life: &mut Life) -> Verb {
    let known: Vec<ReleaseId> = life.state().ledger.records().iter().map(|record| record.release.id.clone()).collect();
    let random = &mut life.random;
    let some = (!known.is_empty() && random.chance(0.3)).then(|| random.pick(&known));
    match random.between(0, 12) {
        0..=2 => Verb::Revert {
            to: some,
            parts: random.pick(&[Parts::All, Parts::All, Parts::Traffic, Parts::Flags]),
            break_glass: random.chance(0.05),
        },
        3 => Verb::Lift { release: some },
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
