//! A story is played, line by line, in the simulated world.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::chronicle::Chronicle;
use super::{Fact, Line, Members, Named, Source, Statement, Story, Wanted, Who};
use crate::core::actor::Request;
use crate::core::input::{Alerted, Commanded, Deployed, Input, Scope, Verb};
use crate::core::machine::Answer;
use crate::core::policy::Policy;
use crate::core::release::{Digest, ReleaseId};
use crate::core::state::{Guard, PhaseKind};
use crate::core::time::Span;
use crate::core::work::{Action, Effect, EffectId, Fence, Lane};
use crate::sim::faults::Faults;
use crate::sim::house;
use crate::sim::life::Life;
use crate::sim::traffic::EPOCH_MS;
use crate::sim::world;

/// Every story is played with the luck of this seed.
const SEED: u64 = 1;
/// How long an answer is waited for, in milliseconds: until its commit is in.
const ANSWER_WITHIN: u64 = 10_000;

/// How long it may take to bring a release to where it serves, and what is left to do after that, in milliseconds.
const SERVES_WITHIN: u64 = 300_000;
const SETTLES_WITHIN: u64 = 3_000;

/// What happened in a story.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// What the story is called.
    pub title: String,
    /// What was said and what came of it, in order of time.
    pub lines: Vec<String>,
    /// The first expectation that was not met, or rule that was broken.
    pub failure: Option<String>,
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        match &self.failure {
            Some(failure) => writeln!(f, "\n{failure}"),
            None => Ok(()),
        }
    }
}

/// Plays a story under a guard and a policy, until its end or the first expectation that is not met.
pub fn run(story: &Story, guard: Guard, policy: impl Into<Arc<Policy>>) -> Transcript {
    let mut play = Play::new(guard, policy);
    for line in &story.lines {
        play.line(line);
        if play.failure.is_some() {
            break;
        }
    }
    let end = format!("the end: {}; {}; {} bad requests", play.standing(), play.traffic(), play.bad());
    play.tell(&end);
    Transcript { title: story.title.clone(), lines: play.chronicle.lines, failure: play.failure }
}

/// A story under way.
pub(super) struct Play {
    pub(super) life: Life,
    pub(super) chronicle: Chronicle,
    pub(super) seen: BTreeSet<EffectId>,
    /// The last answer that somebody got.
    pub(super) answer: Option<Answer>,
    releases: Vec<Named>,
    /// What somebody puts back again and again, how often, and when next.
    puts_back: Option<(Named, Span, u64)>,
    failure: Option<String>,
}

impl Play {
    fn new(guard: Guard, policy: impl Into<Arc<Policy>>) -> Self {
        let mut play = Self {
            life: Life::new(SEED, guard, policy, Faults::none(), 1),
            chronicle: Chronicle::default(),
            seen: BTreeSet::new(),
            answer: None,
            releases: Vec::new(),
            puts_back: None,
            failure: None,
        };
        play.look();
        play
    }

    /// How a release is called in the story.
    pub(super) fn name(&self, id: &ReleaseId) -> String {
        let named = self.releases.iter().find(|named| named.release().id == *id);
        named.map_or_else(|| id.to_string(), |named| named.release().label.unwrap_or_default())
    }

    fn line(&mut self, line: &Line) {
        self.tell(&line.text);
        match &line.does {
            Statement::Fact(fact) => self.fact(fact),
            Statement::Serves(release) => self.serves(line, release),
            Statement::Deploys(who, release) => {
                let release = self.known(release);
                self.says(Input::Deployed(Deployed { release: release.release(), request: request(who) }));
            }
            Statement::Commands(who, verb, release) => {
                let id = release.as_ref().map(|release| self.known(release).release().id);
                let verb = match verb.clone() {
                    Verb::Revert { parts, break_glass, .. } => Verb::Revert { to: id, parts, break_glass },
                    Verb::Lift { .. } => Verb::Lift { release: id },
                    verb => verb,
                };
                self.says(Input::Commanded(Commanded { verb, request: request(who) }));
            }
            Statement::Wait(span) => drop(self.until(span.millis(), |_| false)),
            Statement::Until(wanted, within) => {
                let begin = self.life.world.now;
                let met = self.until(within.millis(), |play| play.is_so(wanted));
                let took = Span(std::time::Duration::from_millis(self.life.world.now - begin));
                match met {
                    true if took == Span::default() => {}
                    true => self.tell(&format!("    so it is, after {took}")),
                    false => self.fail(line, wanted, &format!("within {within}")),
                }
            }
            Statement::Holds(wanted, span) => {
                if !self.is_so(wanted) || self.until(span.millis(), |play| !play.is_so(wanted)) {
                    self.fail(line, wanted, &format!("for all of {span}"));
                }
            }
        }
        self.look();
        if let Some(violation) = &self.life.violation
            && self.failure.is_none()
        {
            self.failure = Some(format!("line {}: a promise was broken.\n{violation}", line.number));
        }
    }

    /// Brings a release to where it serves and is known good, by a person's word.
    fn serves(&mut self, line: &Line, release: &Named) {
        let release = self.known(release).release();
        let ann = || house::person("ann");
        self.chronicle.quiet = true;
        self.says(Input::Deployed(Deployed { release, request: ann() }));
        self.until(SERVES_WITHIN, |play| play.life.phase() == PhaseKind::Advancing);
        for verb in [Verb::Promote, Verb::Adopt] {
            self.says(Input::Commanded(Commanded { verb, request: ann() }));
            self.until(SERVES_WITHIN, |play| matches!(play.life.phase(), PhaseKind::Watching | PhaseKind::Idle));
        }
        // What is left to do for it is done, and the proof that a revert would work is there.
        self.until(SETTLES_WITHIN, |_| false);
        self.chronicle.quiet = false;
        if self.life.phase() != PhaseKind::Idle {
            let seen = self.standing();
            self.failure = Some(format!("line {}: expected that `{}` could serve\nseen instead: {seen}", line.number, line.text));
        }
    }

    fn fail(&mut self, line: &Line, wanted: &Wanted, when: &str) {
        let seen = self.instead(&wanted.what);
        let when = if when == "within 0s" { "now" } else { when };
        self.failure = Some(format!("line {}: expected `{}` {when}\nseen instead: {seen}", line.number, wanted.text));
    }

    /// Lets so much time pass, in milliseconds, or until something is reached; whether it was.
    fn until(&mut self, millis: u64, reached: impl Fn(&Self) -> bool) -> bool {
        let end = self.life.world.now + millis;
        loop {
            if reached(self) {
                return true;
            }
            if self.life.violation.is_some() {
                return false;
            }
            let next = self.puts_back.as_ref().map_or(end, |(_, _, at)| (*at).min(end));
            if !self.life.turn(next) {
                if next == end {
                    return reached(self);
                }
                self.put_back();
            }
            self.look();
        }
    }

    /// A release that is spoken of has evidence, unless the story says otherwise.
    fn known(&mut self, named: &Named) -> Named {
        if !self.releases.contains(named) {
            self.releases.push(named.clone());
        }
        let evidence = world::Evidence { good: true, ..world::Evidence::default() };
        self.life.world.evidence.entry(digest(named)).or_insert(evidence);
        named.clone()
    }

    /// Somebody says something, and hears the answer.
    fn says(&mut self, input: Input) {
        if self.life.replicas[0].order.is_none() {
            if matches!(input, Input::Deployed(_)) {
                self.answer = None;
                return self.tell("    no controller: nobody answers");
            }
            self.tell("    no controller: the command line acts itself");
            self.life.start(0);
        }
        let asked = self.life.tell_and_number(input);
        self.until(ANSWER_WITHIN, |play| play.life.answers.contains_key(&asked));
        self.answer = self.life.answers.get(&asked).cloned();
        match self.answer.clone() {
            Some(answer) => {
                let how = if answer.accepted { "accepted" } else { "refused" };
                self.tell(&format!("    {how}: {} {}", answer.reason.code(), answer.reason));
            }
            None => self.tell("    no answer"),
        }
    }

    /// Somebody who owns the workload's declaration writes it straight to the host, and asks for it like a deployment.
    fn put_back(&mut self) {
        let Some((release, every, at)) = self.puts_back.clone() else { return };
        self.puts_back = Some((release.clone(), every, at + every.millis().max(100)));
        self.tell(&format!("    gitops puts back {}", name_of(&release)));
        let action = Action::EnsureRelease { release: release.release() };
        let fence = Fence::Generation(self.life.world.state.as_ref().map_or(0, |state| state.generation));
        let id = EffectId { revision: self.life.world.state.as_ref().map_or(0, |state| state.revision), ordinal: 0 };
        let effect = Effect { id, fence, deadline: crate::core::time::Mono(u64::MAX), lane: Lane::Forward, action };
        let outcome = self.life.world.perform(&effect, None);
        if let crate::core::input::Outcome::Denied(what) = outcome {
            self.tell(&format!("    the host's door: {what}"));
        }
        let who = Who { kind: crate::core::actor::ActorKind::Automation, name: "gitops".into() };
        self.says(Input::Deployed(Deployed { release: release.release(), request: request(&who) }));
    }

    fn fact(&mut self, fact: &Fact) {
        let now = self.life.world.now;
        let until = |span: &Option<Span>| span.map_or(0, |span| now + span.millis());
        let world = &mut self.life.world;
        match fact {
            Fact::Traffic(rate) => world.truth.rate = *rate,
            Fact::Fails(release, share, after) => {
                world.truth.bad_images.insert(digest(release), (*share, if after.millis() == 0 { 0 } else { now + after.millis() }));
            }
            Fact::FailsFlipped(release, share) => drop(world.truth.bad_flipped.insert(digest(release), *share)),
            Fact::Harms(release, share) => world.truth.harmful = Some((digest(release), *share)),
            Fact::Healthy(release) => {
                let digest = digest(release);
                world.truth.bad_images.remove(&digest);
                world.truth.harmful.take_if(|(harmful, _)| *harmful == digest);
            }
            Fact::Outage(share, span) => world.truth.outage = Some((now, span.map_or(u64::MAX, |span| now + span.millis()), *share)),
            Fact::OutageOver => world.truth.outage = None,
            Fact::Source(source) => {
                world.source = match source {
                    Source::Answers => world::Source::Answers,
                    Source::Fails(fault) => world::Source::Fails(fault.clone()),
                    Source::Stale => world::Source::StuckAt(now),
                }
            }
            Fact::Registry(up) => world.registry = *up,
            Fact::Flags(service) => world.flag_service = *service,
            Fact::Store(span) => world.store_back_at = until(span),
            Fact::Host(span) => world.host_back_at = until(span),
            Fact::Webhook(up) => world.webhook = *up,
            Fact::Dies(span) => self.life.crash(0, span.millis()),
            Fact::Clock(by) => self.life.step_clock(0, *by),
            Fact::PutsBack(release, every) => {
                let release = self.known(release);
                self.puts_back = Some((release, *every, now + every.millis()));
            }
            Fact::LetsGo => self.puts_back = None,
            Fact::Members(release, members) => self.members(&release.clone(), *members),
            Fact::Attested(release, good) => {
                let release = self.known(release);
                self.life.world.evidence.entry(digest(&release)).or_default().good = *good;
            }
            Fact::Tampered(release) => {
                let release = self.known(release);
                self.life.world.evidence.entry(digest(&release)).or_default().tampered = true;
            }
            Fact::Gone(release) => drop(world.gone.insert(digest(release))),
            Fact::Neighbours(..) | Fact::Approvals(_) | Fact::Alert(..) => self.surroundings(fact),
        }
    }

    /// Facts that reach the controller by themselves.
    fn surroundings(&mut self, fact: &Fact) {
        let input = match fact {
            Fact::Neighbours(breaching, watched) => {
                Input::ScopeChanged(Scope { breaching: *breaching, breaching_recently: *breaching, watched: *watched, ..Scope::default() })
            }
            Fact::Approvals(approvals) => {
                Arc::make_mut(&mut self.life.world.policy).approvals = *approvals;
                Input::PolicyChanged(Arc::clone(&self.life.world.policy))
            }
            Fact::Alert(name, firing, trust) => {
                let at = EPOCH_MS + i64::try_from(self.life.world.now).unwrap_or_default();
                let starts_at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
                Input::Alerted(Alerted { name: name.clone(), fingerprint: name.clone(), starts_at, firing: *firing, trust: *trust })
            }
            _ => return,
        };
        self.life.tell(input);
    }

    fn members(&mut self, release: &Named, how: Members) {
        let world = &mut self.life.world;
        if let Members::CrashLoop = how {
            world.broken.insert(digest(release));
        }
        let Some(members) = world.members.get_mut(&release.release().id) else { return };
        match how {
            Members::CrashLoop => members.failing = Some("crash loop".into()),
            Members::Unready(0) => *members = world::Members::default(),
            Members::Unready(count) => members.unready = count,
            Members::Die => *members = world::Members { ready_at: world.now + world.start, ..world::Members::default() },
            Members::Down => members.ready_at = u64::MAX,
        }
    }
}

fn digest(named: &Named) -> Digest {
    Digest::of(named.image.as_bytes())
}

fn name_of(named: &Named) -> String {
    named.release().label.unwrap_or_default()
}

fn request(who: &Who) -> Request {
    house::request(who.kind, &who.name)
}
