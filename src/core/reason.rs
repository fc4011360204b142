//! Why. One typed value feeds status, event, page, audit log and `explain`; its code is stable for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::spec::Percent;
use super::time::Span;

/// What was counted when a judgement fell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Bad requests of the candidate.
    pub candidate_bad: f64,
    /// Requests of the candidate.
    pub candidate_total: f64,
    /// Bad requests of stable.
    pub stable_bad: f64,
    /// Requests of stable.
    pub stable_total: f64,
    /// Natural logarithm of the odds against "within the objective".
    pub objective_evidence: f64,
    /// Natural logarithm of the odds against "no worse than stable"; absent without a comparable baseline.
    pub baseline_evidence: Option<f64>,
    /// Scrape intervals counted.
    pub intervals: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |bad: f64, total: f64| if total > 0.0 { 100.0 * bad / total } else { 0.0 };
        write!(
            f,
            "candidate {:.0} of {:.0} bad ({:.2}%), stable {:.0} of {:.0} ({:.2}%)",
            self.candidate_bad,
            self.candidate_total,
            share(self.candidate_bad, self.candidate_total),
            self.stable_bad,
            self.stable_total,
            share(self.stable_bad, self.stable_total)
        )
    }
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $code:literal $name:ident { $( $(#[doc = $fdoc:literal])* $field:ident : $type:ty ),* } => $text:literal ; )+) => {
        /// A reason. The documentation of a variant is what `backstop explain CODE` prints.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
        pub enum Reason {
            $( $(#[doc = $doc])+ $name { $( $(#[doc = $fdoc])* $field : $type ),* } , )+
        }

        impl Reason {
            /// The stable code, `BS` and three digits.
            pub fn code(&self) -> &'static str {
                match self { $( Self::$name { .. } => $code, )+ }
            }

            /// The variant's name.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$name { .. } => stringify!($name), )+ }
            }

            /// Every code with its name and meaning, in order.
            pub const TABLE: &'static [(&'static str, &'static str, &'static str)] = &[
                $( ($code, stringify!($name), concat!($($doc, "\n"),+)), )+
            ];
        }

        impl fmt::Display for Reason {
            #[allow(unused_variables)]
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $( Self::$name { $( $field ),* } => write!(f, $text), )+ }
            }
        }
    };
}

reasons! {
    /// Both sequential tests of an objective gave alarm: the candidate is outside its objective and worse than stable. Reverts.
    "BS001" Breach {
        /// Name of the objective.
        objective: String,
        /// What was counted.
        counts: Counts
    } => "the candidate breaks `{objective}`: {counts}";
    /// The objective's test gave alarm and there is no comparable baseline. Reverts, unless neighbours on the same source breach too.
    "BS002" BreachAlone {
        /// Name of the objective.
        objective: String,
        /// What was counted.
        counts: Counts
    } => "the candidate breaks `{objective}`, without a baseline to compare: {counts}";
    /// A declared rule held for as long as it must. Reverts.
    "BS003" Threshold {
        /// The rule in words.
        rule: String
    } => "the rule holds: {rule}";
    /// An alert with `trust: revert` fires. Reverts.
    "BS004" AlertFiring {
        /// Name of the alert.
        alert: String
    } => "the alert {alert} fires";
    /// The candidate stopped reporting while stable reports. Reverts.
    "BS005" CandidateDark {
        /// Scrapes missed.
        scrapes: u32
    } => "the candidate has not reported for {scrapes} scrapes while stable has";
    /// The candidate completes far fewer requests than its weight. Reverts.
    "BS006" Starved {
        /// Requests completed.
        completed: f64,
        /// Requests expected from its weight.
        expected: f64
    } => "the candidate completed {completed:.0} requests where its weight gives {expected:.0}";
    /// The candidate's members fail: crash loop, cannot be pulled, never ready. Reverts.
    "BS007" Unhealthy {
        /// What was seen.
        what: String
    } => "the candidate is unhealthy: {what}";
    /// Errors went with the candidate's traffic and came back with it: it harmed what both share. Reverts.
    "BS008" SharedHarm {
        /// Name of the objective.
        objective: String
    } => "errors of both releases in `{objective}` went away and came back with the candidate's traffic";
    /// A step's deadline passed without a verdict, and the guard says what then.
    "BS009" Deadline {
        /// Which stage, counted from one.
        stage: usize,
        /// What was still missing.
        missing: String
    } => "stage {stage} reached its deadline: {missing}";
    /// Stable is just as bad. Weight goes to 0 without blame; nothing is restored.
    "BS020" SharedCause {
        /// Name of the objective.
        objective: String,
        /// What was counted.
        counts: Counts
    } => "both releases break `{objective}`, a shared cause: {counts}";
    /// The candidate is worse than stable but within its objective. Waits.
    "BS021" Regression {
        /// Name of the objective.
        objective: String,
        /// What was counted.
        counts: Counts
    } => "the candidate is worse than stable in `{objective}`, within the objective: {counts}";
    /// Too few requests were seen to call the candidate healthy. Waits.
    "BS022" Insufficient {
        /// Name of the objective.
        objective: String,
        /// Good requests still missing.
        missing: u64
    } => "`{objective}` needs {missing} more good requests";
    /// No requests reach the candidate. Waits.
    "BS023" NoTraffic { } => "no requests reach the candidate";
    /// Nothing reports. Waits.
    "BS024" Stale {
        /// Scrapes missed.
        scrapes: u32
    } => "neither release has reported for {scrapes} scrapes";
    /// The answer is not a number, negative, from the future or unparsable. Waits.
    "BS025" InvalidData {
        /// What was wrong.
        what: String
    } => "the metrics are not usable: {what}";
    /// The source does not answer. Waits.
    "BS026" SourceDown {
        /// What happened.
        what: String
    } => "the metrics source does not answer: {what}";
    /// The source answered in part. Waits.
    "BS027" PartialAnswer {
        /// What it said.
        what: String
    } => "the metrics source answered in part: {what}";
    /// The source says that the query is wrong: a mistake in the guard. Waits and pages.
    "BS028" QueryRejected {
        /// What it said.
        what: String
    } => "the metrics source rejects the query: {what}";
    /// Stable stopped reporting; the candidate is judged alone.
    "BS029" StableDark { } => "stable does not report; the objective alone decides";
    /// The bake is not over. Waits.
    "BS030" Baking {
        /// Scored time so far.
        scored: Span,
        /// Scored time wanted.
        bake: Span
    } => "baking: {scored} of {bake} scored";
    /// The candidate is within its objectives, with enough evidence.
    "BS031" Healthy { } => "the candidate is within its objectives";
    /// An alert with `trust: wait` fires. Waits, at most 15 minutes.
    "BS032" AlertWaiting {
        /// Name of the alert.
        alert: String
    } => "waiting while the alert {alert} fires";
    /// Health held where policy allows that to stand in for evidence.
    "BS033" PromotedOnHealth { } => "promoted on health alone, as policy allows";
    /// The objective is broken and stable looks better, but too few errors were seen to say that the candidate is worse. Waits.
    "BS034" Comparing {
        /// Name of the objective.
        objective: String,
        /// What was counted.
        counts: Counts
    } => "the candidate breaks `{objective}`; still comparing with stable: {counts}";
    /// Images are attested and policy allows the release.
    "BS035" Admitted { } => "attested, and policy allows it";
    /// The release ran before its guard was there, is attested, and was healthy for as long as it takes: it is known good.
    "BS036" Found {
        /// How long it was healthy.
        healthy: Span
    } => "it ran before it was guarded, is attested, and was healthy for {healthy}";
    /// An image lacks what policy demands.
    "BS040" NotAttested {
        /// Which image.
        image: String,
        /// What is missing or wrong.
        why: String
    } => "{image} is not attested: {why}";
    /// An image is on a deny list.
    "BS041" DeniedDigest {
        /// Which image.
        image: String
    } => "{image} is denied by policy";
    /// The evidence could not be had; that is not the same as none.
    "BS042" EvidenceUnavailable {
        /// What happened.
        what: String
    } => "the evidence cannot be read: {what}";
    /// The ledger's record of the release has no good signature.
    "BS043" LedgerUntrusted {
        /// What was wrong.
        what: String
    } => "the ledger record is not trusted: {what}";
    /// The release was reverted before and is quarantined.
    "BS050" Quarantined {
        /// Which release.
        release: String
    } => "{release} is quarantined";
    /// A freeze is on.
    "BS051" Frozen { } => "a freeze is on";
    /// The rollout is paused.
    "BS052" Paused { } => "paused";
    /// A revert would not work now, so no agent may step forward.
    "BS053" NotReady {
        /// What is missing.
        what: String
    } => "not ready to revert: {what}";
    /// A person must agree.
    "BS054" ApprovalNeeded {
        /// How many.
        approvals: u32
    } => "waiting for {approvals} approval(s)";
    /// Nobody agreed in time.
    "BS055" ApprovalExpired { } => "nobody approved in time";
    /// The requester may not do this.
    "BS056" NotAllowed {
        /// Who, and what they lack.
        what: String
    } => "not allowed: {what}";
    /// The running release was deployed again.
    "BS057" SameRelease { } => "this release already runs";
    /// A newer deployment took the place of this one.
    "BS058" Superseded {
        /// By which release.
        release: String
    } => "superseded by {release}";
    /// Another rollout is under way, and the guard says that newer ones are refused or wait.
    "BS059" Busy { } => "another rollout is under way";
    /// A hold keeps a revert in force.
    "BS060" Held { } => "held after a revert; `backstop lift` ends the hold";
    /// Too many deployments by this agent, or too many releases in quarantine.
    "BS061" QuotaExceeded {
        /// Which quota.
        what: String
    } => "quota exceeded: {what}";
    /// The verb means nothing in this phase.
    "BS062" NothingToDo {
        /// Why.
        what: String
    } => "nothing to do: {what}";
    /// A deployment was taken in; its images are verified next.
    "BS063" Accepted { } => "accepted; verification is under way";
    /// A release was passed over as a revert target.
    "BS070" TargetSkipped {
        /// Which release.
        release: String,
        /// Why.
        why: String
    } => "{release} is no target: {why}";
    /// No release may be restored. Traffic and flags still moved.
    "BS071" NoTarget { } => "no known-good release can be restored";
    /// Traffic, flags and release are back and the objectives hold again.
    "BS072" Recovered { } => "recovered";
    /// The objectives do not hold after the revert.
    "BS073" NotRecovered {
        /// What was seen.
        what: String
    } => "not recovered: {what}";
    /// Too many rollouts breach at once: restores wait for a person.
    "BS074" BreakerOpen {
        /// Rollouts that breach.
        breaching: u32,
        /// Rollouts watched.
        watched: u32
    } => "{breaching} of {watched} rollouts on this source breach: automatic restores wait for a person";
    /// Too many restores of this service within an hour.
    "BS075" RestoreQuota {
        /// How many.
        restores: u32
    } => "{restores} restores within an hour: restores wait for a person";
    /// An effect failed for good or for too long.
    "BS076" EffectFailed {
        /// Which effect.
        effect: String,
        /// What happened.
        what: String
    } => "{effect} failed: {what}";
    /// Automatic reverts are disarmed.
    "BS077" Disarmed {
        /// What would have happened.
        instead_of: String
    } => "disarmed: {instead_of} is left to people";
    /// The errors went away without blame; the candidate may go on.
    "BS078" Exonerated { } => "the errors were not the candidate's; going on";
    /// A disarm has run out.
    "BS080" DisarmExpired { } => "the disarm has run out; automatic reverts are on again";
    /// Somebody gave a command.
    "BS090" Commanded {
        /// The verb.
        verb: String,
        /// Who.
        by: String,
        /// Why, in their words.
        why: String
    } => "{verb} by {by}: {why}";
    /// Checks were skipped on a person's word.
    "BS091" BreakGlass {
        /// Who.
        by: String
    } => "checks skipped by {by}";
    /// A rule of section "Invariants" was about to be broken; forward effects were dropped.
    "BS099" InvariantBroken {
        /// Which.
        invariant: String
    } => "invariant {invariant} was about to be broken; nothing forward was done";
}

/// What the judge says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Enough evidence of health.
    Pass,
    /// Go back.
    Breach(Reason),
    /// Neither. The reason says what is done meanwhile.
    Inconclusive(Reason),
}

/// The share `part` of `whole`, for messages.
pub fn share(part: f64, whole: f64) -> Percent {
    Percent::new(if whole > 0.0 { 100.0 * part / whole } else { 0.0 })
}
