//! What is written down of each input that changes state, each decision and each effect.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::actor::Request;
use super::input::Input;
use super::judge::Interval;
use super::reason::Reason;
use super::release::ReleaseId;
use super::time::Now;
use super::work::Effect;

/// A record. The store turns it into one leaf of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When.
    pub at: Now,
    /// Of which workload: `namespace/name`.
    pub resource_target: String,
    /// The revision that it belongs to.
    pub revision: u64,
    /// The deployment attempt that it belongs to.
    pub generation: u64,
    /// What happened.
    pub event: Event,
    /// The state's phase afterwards.
    pub phase: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The release that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// The image digest of that release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_digest: Option<String>,
    /// Who asked, and why, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<Request>>,
    /// How it ended, in a word: `accepted`, `refused`, `breach`, `pass`, `done`, `failed` …; of a decision to revert, the
    /// revert's id.
    pub result: String,
}

impl Record {
    /// Whether this is the decision to revert without anybody having asked.
    pub fn is_breach(&self) -> bool {
        let revert = matches!(&self.event, Event::Decision { decision: Decision::Revert, .. });
        revert && self.reason.as_ref().is_some_and(|reason| !matches!(reason, Reason::Commanded { .. }))
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// An input that changed state. Looks are not among them: decisions carry the intervals they rest on.
    Input(Box<Input>),
    /// A decision.
    Decision {
        /// In a word: `admit`, `refuse`, `advance`, `promote`, `revert`, `retreat`, `recovered`, `stuck`, `knownGood` ….
        decision: Decision,
        /// The scored intervals that it rests on, by signal.
        intervals: Vec<Interval>,
    },
    /// An effect was wanted.
    Wanted(Box<Effect>),
}

macro_rules! decisions {
    ($( $(#[doc = $doc:literal])+ $name:ident => $words:literal ; )+) => {
        /// The kinds of decisions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub enum Decision { $( $(#[doc = $doc])+ $name, )+ }

        impl Decision {
            /// Every kind.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// What was decided to do, in words.
            pub fn words(self) -> &'static str {
                match self { $( Self::$name => $words, )+ }
            }
        }
    };
}

decisions! {
    /// A candidate goes on trial.
    Admit => "admit";
    /// A deployment is turned away.
    Refuse => "refuse";
    /// The next stage.
    Advance => "advance";
    /// No forward step for now.
    Wait => "wait";
    /// To 100 %.
    Promote => "promote";
    /// Weight to 0 without blame.
    Retreat => "retreat";
    /// Back on trial after a retreat.
    Exonerate => "go on";
    /// Back to known good.
    Revert => "revert";
    /// A target was passed over.
    Skip => "pass over a target";
    /// A target was chosen.
    Choose => "choose a target";
    /// A release is known good.
    KnownGood => "call it known good";
    /// The objectives hold again after a revert.
    Recovered => "call it recovered";
    /// A revert is held, though nothing could show whether it helped.
    Held => "hold it, unjudged";
    /// A person is needed.
    Stuck => "ask for a person";
    /// A command was obeyed.
    Obey => "obey";
    /// A checkpoint of the judge.
    Checkpoint => "take a checkpoint";
}
