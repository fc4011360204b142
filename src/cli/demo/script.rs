//! The demo's scenes, one after the other, and what came of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::load::{Traffic, Visit};
use super::stage::{Plan, SERVICE, Stage, StageError, agent, person};
use super::timeline::Timeline;
use super::{Args, Context, table};
use crate::core::input::{Parts, Verb};
use crate::core::ledger::Standing;
use crate::core::preview::View;
use crate::core::reason::Reason;
use crate::core::release::{Release, ReleaseId};
use crate::core::state::PhaseKind;
use crate::error::{Error, Exit};
use crate::world::audit::{self, Verified};
use crate::world::clock;
use crate::world::keys::Public;

/// Requests a second through the proxy; a quarter of them go to the candidate.
const REQUESTS_PER_SECOND: u32 = 200;
/// The candidate's share in per cent.
const WEIGHT: u8 = 25;
/// How long a scene may take before something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(90);

/// What came of a scene.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// `a` to `g`.
    pub letter: char,
    /// What happened, in a sentence.
    pub title: String,
    /// How it ended, in a word.
    pub ended: String,
    /// Whether that is how it must end.
    pub as_it_must: bool,
    /// From the first failing request that the candidate answered to the decision.
    pub detection: Option<Duration>,
    /// From the decision until no new request reached the candidate, as its clients saw it.
    pub traffic_back: Option<Duration>,
    /// From the decision until the target was restored.
    pub release_back: Option<Duration>,
    /// Bad answers by the candidate.
    pub bad: usize,
    /// Requests that got no answer.
    pub dropped: usize,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Error> {
    let folder = Folder::make(args.keep)?;
    let failed = |error: StageError| Error::unreachable("the demo could not go on").because(&error);
    let began = clock::instant();
    let mut show = Timeline::new(context, &folder.path);
    let program = std::env::current_exe().map_err(|error| Error::unreachable("this program's file is not known").because(&error))?;
    let wanted = Plan { dir: folder.path.clone(), program, weight: WEIGHT, bake: 5, watch: 6 };
    show.line("building signed artifacts, starting host and controller");
    let stage = Stage::set(wanted).await.map_err(failed)?;
    let mut play = Play { stage, show, outcomes: Vec::new(), traffic: None };
    let ended = tokio::select! {
        ended = play.all() => ended,
        () = crate::cli::run::told_to_end() => Err(StageError::Late("interrupted".into())),
    };
    let Play { stage, mut show, outcomes, traffic } = play;
    if let Some(traffic) = traffic {
        let _ = traffic.stop().await;
    }
    let data = stage.setup().data_dir.join("store");
    stage.end().await;
    ended.map_err(failed)?;
    let audited = verify(&data);
    show.end();
    let all_well = outcomes.iter().all(|outcome| outcome.as_it_must) && audited.is_ok();
    table::print(context, &outcomes, &audited, began.elapsed(), all_well)?;
    if args.keep {
        context.say(&format!("kept in {}", folder.path.display()))?;
    }
    Ok(if all_well { Exit::Done } else { Exit::No })
}

fn verify(store: &Path) -> Result<Verified, String> {
    let public = Public::load(&store.join("keys")).map_err(|error| error.to_string())?;
    audit::verify(store, &public).map_err(|broken| broken.to_string())
}

/// The demo's own folder, gone at the end unless it is kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("backstop-demo-{}", std::process::id()));
        // A folder of that name was left by a process that is gone: its number was given again.
        let _ = std::fs::remove_dir_all(&path);
        let made = std::fs::create_dir_all(&path);
        made.map_err(|error| Error::unreachable(format!("`{}` cannot be made", path.display())).because(&error))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

struct Play {
    stage: Stage,
    show: Timeline,
    outcomes: Vec<Outcome>,
    traffic: Option<Traffic>,
}

impl Play {
    async fn all(&mut self) -> Result<(), StageError> {
        let v1 = self.prologue().await?;
        let v2 = self.good().await?;
        self.breaking('b', "v3", &[("ERROR_RATIO", "0.05")], "an agent deploys v3, which fails 5 % of requests", "tidy up error handling")
            .await?;
        self.breaking(
            'c',
            "v4",
            &[("SLOW_RATIO", "0.08"), ("SLOW_MS", "400")],
            "an agent deploys v4, slow only at the tail",
            "cache prices",
        )
        .await?;
        self.never_attested().await?;
        self.tampered(&v1, &v2).await?;
        self.outage_then_person(&v1).await
    }

    fn visits(&self) -> Vec<Visit> {
        self.traffic.as_ref().map(Traffic::visits).unwrap_or_default()
    }

    async fn prologue(&mut self) -> Result<Release, StageError> {
        let v1 = self.stage.release("v1", &[], true)?;
        self.show.watch(self.stage.controller().handle(), SERVICE);
        self.show.line("a person deploys v1, the first release, and vouches for it");
        self.stage.deploy(&v1, person("first release")).await?;
        self.stage
            .until("v1 serves", PATIENCE, |view| view.phase == PhaseKind::Advancing && view.step.as_deref() == Some("judging"))
            .await?;
        self.traffic = Some(Traffic::start(self.stage.address, REQUESTS_PER_SECOND));
        self.stage.command(Verb::Promote, person("nothing else serves yet")).await?;
        self.stage.until("v1 has all traffic", PATIENCE, |view| view.phase == PhaseKind::Watching).await?;
        self.stage.command(Verb::Adopt, person("it is the first")).await?;
        self.settled().await?;
        Ok(v1)
    }

    async fn settled(&self) -> Result<View, StageError> {
        let settled = |view: &View| view.phase.is_resting() && view.open.iter().all(|(action, _)| action == "notify");
        self.stage.until("the rollout rests", PATIENCE, settled).await
    }

    async fn good(&mut self) -> Result<Release, StageError> {
        self.show.scene('a', "an agent deploys v2, a good release");
        let v2 = self.stage.release("v2", &[], true)?;
        let before = self.visits().len();
        self.stage.deploy(&v2, agent("answer faster by reusing connections")).await?;
        let good = |view: &View| {
            let known_good = view.ledger.iter().any(|line| line.release.id == v2.id && line.standing == Standing::KnownGood);
            known_good || view.phase == PhaseKind::Reverted || view.phase == PhaseKind::Refused
        };
        self.stage.until("v2 is known good", PATIENCE, good).await?;
        let view = self.settled().await?;
        let promoted = view.stable.as_ref().map(|release| &release.id) == Some(&v2.id);
        self.outcomes.push(Outcome {
            letter: 'a',
            title: "a good release".into(),
            ended: if promoted { "promoted, known good".into() } else { format!("{}", view.phase) },
            as_it_must: promoted && self.dropped(before) == 0,
            detection: None,
            traffic_back: None,
            release_back: None,
            bad: bad(&self.visits()[before..], &v2.id),
            dropped: self.dropped(before),
        });
        Ok(v2)
    }

    async fn breaking(&mut self, letter: char, label: &str, env: &[(&str, &str)], title: &str, why: &str) -> Result<(), StageError> {
        self.show.scene(letter, title);
        let release = self.stage.release(label, env, true)?;
        let before = self.visits().len();
        let at = (clock::instant(), self.stage.controller().shared().world.clock().now().mono);
        self.stage.deploy(&release, agent(why)).await?;
        let over = |view: &View| is_over(view, &release.id);
        let view = self.stage.until("it is reverted", PATIENCE, over).await?;
        let flag_off = self.flag_is_off();
        let well = view.phase == PhaseKind::Reverted && flag_off;
        self.reverted(letter, &title.replace("an agent deploys ", ""), &view, &release.id, before, at, well);
        self.reset_flag();
        Ok(())
    }

    async fn never_attested(&mut self) -> Result<(), StageError> {
        self.show.scene('d', "an agent deploys v5, which nobody signed");
        let release = self.stage.release("v5", &[], false)?;
        let before = self.visits().len();
        self.stage.deploy(&release, agent("hot fix, no time for the pipeline")).await?;
        let view = self.stage.until("it is refused", PATIENCE, |view| is_over(view, &release.id)).await?;
        let refused = matches!(view.reason, Some(Reason::NotAttested { .. }));
        let served = self.visits()[before..].iter().filter(|visit| visit.release.as_ref() == Some(&release.id)).count();
        self.outcomes.push(Outcome {
            letter: 'd',
            title: "never attested".into(),
            ended: view.reason.map_or_else(|| view.phase.to_string(), |reason| format!("refused, {}", reason.code())),
            as_it_must: refused && served == 0,
            detection: None,
            traffic_back: None,
            release_back: None,
            bad: 0,
            dropped: self.dropped(before),
        });
        Ok(())
    }

    async fn outage_then_person(&mut self, stable: &Release) -> Result<(), StageError> {
        self.show.scene('f', "an agent deploys v6, which is good; then a dependency of both releases fails");
        let release = self.stage.release("v6", &[], true)?;
        let before = self.visits().len();
        self.stage.deploy(&release, agent("log less")).await?;
        self.stage.until("v6 is judged", PATIENCE, |view| view.step.as_deref() == Some("judging")).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.outage(true)?;
        let retreated =
            |view: &View| view.step.as_deref() == Some("retreated") || view.phase.is_resting() || view.phase == PhaseKind::Reverting;
        let view = self.stage.until("v6 retreats", PATIENCE, retreated).await?;
        let retreated = view.step.as_deref() == Some("retreated");
        tokio::time::sleep(Duration::from_secs(4)).await;
        self.outage(false)?;
        self.show.line("the dependency is back");
        let on = |view: &View| view.step.as_deref() == Some("judging") || view.phase.is_resting() || view.phase == PhaseKind::Reverting;
        let view = self.stage.until("v6 goes on", PATIENCE, on).await?;
        let went_on = view.phase == PhaseKind::Advancing;
        self.outcomes.push(Outcome {
            letter: 'f',
            title: "an outage of both releases".into(),
            ended: if retreated && went_on { "retreated, went on".into() } else { view.phase.to_string() },
            as_it_must: retreated && went_on,
            detection: None,
            traffic_back: None,
            release_back: None,
            bad: bad(&self.visits()[before..], &release.id),
            dropped: self.dropped(before),
        });
        self.show.scene('g', "a person reverts it in the middle of a healthy canary");
        let before = self.visits().len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = (clock::instant(), self.stage.controller().shared().world.clock().now().mono);
        let verb = Verb::Revert { to: None, parts: Parts::All, break_glass: false };
        self.stage.command(verb, person("customers report wrong prices")).await?;
        let view =
            self.stage.until("it is reverted", PATIENCE, |view| matches!(view.phase, PhaseKind::Reverted | PhaseKind::Stuck)).await?;
        let well = view.phase == PhaseKind::Reverted && view.stable.as_ref().map(|release| &release.id) == Some(&stable.id);
        self.reverted('g', "a person's revert", &view, &release.id, before, at, well);
        self.reset_flag();
        Ok(())
    }

    async fn tampered(&mut self, older: &Release, newest: &Release) -> Result<(), StageError> {
        self.show.scene('e', "an agent deploys v7, which fails; meanwhile somebody tampered with the evidence of v2");
        let release = self.stage.release("v7", &[("ERROR_RATIO", "0.1")], true)?;
        let before = self.visits().len();
        let at = (clock::instant(), self.stage.controller().shared().world.clock().now().mono);
        self.stage.deploy(&release, agent("upgrade a library")).await?;
        self.stage.until("v7 is judged", PATIENCE, |view| view.step.as_deref() == Some("judging")).await?;
        self.tamper(newest).await?;
        self.show.line("one byte of v2's evidence is changed on disk");
        let over = |view: &View| is_over(view, &release.id);
        let view = self.stage.until("it is reverted", PATIENCE, over).await?;
        let skipped = view.revert.as_ref().is_some_and(|revert| revert.skipped.iter().any(|(id, _)| *id == newest.id));
        let went_back = view.stable.as_ref().map(|release| &release.id) == Some(&older.id);
        let noticed = self.verify().is_err();
        self.show.line(if noticed { "`audit verify` finds the changed byte" } else { "`audit verify` DOES NOT FIND the changed byte" });
        self.tamper(newest).await?;
        self.show.line("the byte is put back");
        let skipped = skipped && noticed;
        self.reverted(
            'e',
            "a breach, and v2's evidence was tampered with: v1 goes back",
            &view,
            &release.id,
            before,
            at,
            skipped && went_back,
        );
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------ props

    fn outage(&self, on: bool) -> Result<(), StageError> {
        let file = self.stage.outage();
        let done = if on { std::fs::write(&file, "0.2") } else { std::fs::remove_file(&file) };
        done.map_err(|source| StageError::Io { what: "the outage cannot be staged".into(), source })
    }

    fn verify(&self) -> Result<Verified, String> {
        verify(&self.stage.setup().data_dir.join("store"))
    }

    /// Flips one byte in every piece of evidence about `release`.
    async fn tamper(&self, release: &Release) -> Result<(), StageError> {
        let controller = self.stage.controller();
        let shared = controller.shared();
        let store = shared.world.store().local();
        for image in release.template.images() {
            let capsules = store.evidence_of(&image.digest).await.map_err(|error| StageError::Late(error.to_string()))?;
            for capsule in capsules {
                let hex = capsule.hex().to_owned();
                let file = store.dir().join("evidence/sha256").join(&hex[..2]).join(&hex);
                let flip = || {
                    let mut bytes = std::fs::read(&file)?;
                    if let Some(byte) = bytes.last_mut() {
                        *byte ^= 1;
                    }
                    // Evidence is read-only; whoever tampers does not mind.
                    std::fs::remove_file(&file)?;
                    std::fs::write(&file, bytes)
                };
                flip().map_err(|source| StageError::Io { what: format!("`{}` cannot be changed", file.display()), source })?;
            }
        }
        Ok(())
    }

    fn flags_file(&self) -> PathBuf {
        self.stage.dir().join("flags.json")
    }

    fn flag_is_off(&self) -> bool {
        let text = std::fs::read_to_string(self.flags_file()).unwrap_or_default();
        let flags: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let flag = &flags["flags"]["new-checkout"];
        flag["defaultVariant"] == "off" && flag["targeting"].as_object().is_none_or(serde_json::Map::is_empty)
    }

    /// Somebody turns the flag on again before the next scene.
    fn reset_flag(&self) {
        let _ = std::fs::write(self.flags_file(), super::stage::FLAGS);
    }

    // ------------------------------------------------------------------------------------------------ measures

    fn dropped(&self, before: usize) -> usize {
        self.visits()[before..].iter().filter(|visit| visit.status.is_none()).count()
    }

    #[allow(clippy::too_many_arguments)]
    fn reverted(
        &mut self,
        letter: char,
        title: &str,
        view: &View,
        candidate: &ReleaseId,
        before: usize,
        at: (Instant, crate::core::time::Mono),
        as_it_must: bool,
    ) {
        let visits = self.visits();
        let visits = &visits[before..];
        let revert = view.revert.as_ref();
        let decided = revert.map(|revert| at.0 + revert.since.mono.since(at.1));
        let reached: Vec<&Visit> = visits.iter().filter(|visit| visit.release.as_ref() == Some(candidate)).collect();
        let first_bad = reached.iter().filter(|visit| is_bad(visit)).map(|visit| visit.sent).min();
        let last = reached.iter().map(|visit| visit.sent).max();
        let dropped = visits.iter().filter(|visit| visit.status.is_none()).count();
        let by_person = revert.is_some_and(|revert| revert.by_person());
        let to = view.stable.as_ref().map(ToString::to_string).unwrap_or_default();
        self.outcomes.push(Outcome {
            letter,
            title: title.to_owned(),
            ended: if view.phase == PhaseKind::Reverted { format!("back to {to}") } else { view.phase.to_string() },
            as_it_must: as_it_must && dropped == 0,
            detection: decided.zip(first_bad).map(|(decided, bad)| decided.saturating_duration_since(bad)).filter(|_| !by_person),
            traffic_back: decided.zip(last).map(|(decided, last)| last.saturating_duration_since(decided)),
            release_back: revert.and_then(|revert| Some(revert.release_back?.since(revert.since.mono))),
            bad: reached.iter().filter(|visit| is_bad(visit)).count(),
            dropped,
        });
    }
}

/// Failed, or slower than the objective allows.
fn is_bad(visit: &Visit) -> bool {
    visit.status.is_none_or(|status| status >= 500) || visit.took > Duration::from_millis(300)
}

fn bad(visits: &[Visit], release: &ReleaseId) -> usize {
    visits.iter().filter(|visit| visit.release.as_ref() == Some(release) && is_bad(visit)).count()
}

/// Whether the attempt with this release has come to an end.
fn is_over(view: &View, release: &ReleaseId) -> bool {
    let ended = matches!(view.phase, PhaseKind::Reverted | PhaseKind::Stuck | PhaseKind::Refused);
    ended && view.candidate.as_ref().is_some_and(|candidate| &candidate.id == release) || known(view, release)
}

fn known(view: &View, release: &ReleaseId) -> bool {
    view.ledger.iter().any(|line| line.release.id == *release && line.standing == Standing::KnownGood)
}
