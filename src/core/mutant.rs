//! Deliberate faults of one line each, for the test of the tests: whoever simulates must notice every one of them.
//!
//! One is chosen at run time, for the thread that asks. Without the feature `mutants` none can be chosen, the question is a
//! constant, and no trace of them is in the binary.

macro_rules! mutants {
    ($( $name:ident => $sentence:literal ; )+) => {
        /// A deliberate fault. The sentence is its documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $( #[doc = $sentence] $name, )+ }

        impl Mutant {
            /// Every fault.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The fault in words.
            pub fn sentence(self) -> &'static str {
                match self { $( Self::$name => $sentence, )+ }
            }
        }
    };
}

mutants! {
    // The order of the shell.
    CommitAfterAct => "what must wait for its commit starts beside it";
    AnswerBeforeCommit => "who asked is answered before the commit is in";
    LostSwapIgnored => "a lost swap is taken for a commit";
    SafeWaits => "traffic to stable and safe flags wait for the commit";
    UnavailableIsDone => "a commit that found no store is taken for done";
    ToldIsForgotten => "what was said to a machine that lost the swap is not said to the next";
    // Fences of the host.
    FenceForgotten => "effects of an older generation are obeyed";
    LateWeights => "forward weights that arrive after the revert are obeyed";
    // Forward steps.
    StageSkipped => "one stage is left out";
    WallClockBake => "the bake is counted by the wall clock";
    WallClockDeadline => "deadlines are counted by the wall clock";
    EvidenceCarriedOver => "a stage's evidence of health counts in the next";
    SameGeneration => "a newer deployment opens no generation";
    HoldbackIgnored => "all traffic goes to the candidate though some is to be held back";
    FreezeIgnored => "forward steps go on under a freeze";
    PauseIgnored => "forward steps go on during a pause";
    ReadinessIgnored => "agents go forward though no revert is ready";
    NoWayBack => "traffic moves to a candidate while stable has no living member";
    DeadlineForgotten => "a stage's deadline does nothing";
    LooserPolicyBinds => "a looser policy binds the attempt that runs";
    OwnApproval => "people approve their own rollout";
    // Evidence.
    NanAsPass => "a value that is not a number is read as zero";
    IntervalsByLook => "intervals are cut by the time of the look";
    ResetAsGain => "a counter that was reset is taken to have gone on";
    CapForgotten => "one bad scrape can give alarm";
    AlphaNotDivided => "each of several objectives spends the whole chance of a false alarm";
    TwoSamplesIgnored => "a candidate as bad as stable breaches";
    SharedCauseReverts => "a shared cause begins a revert";
    StaleIgnored => "old samples speak for today";
    InsufficientPasses => "a bake without enough requests passes";
    EvidenceDropped => "a touched template shakes off the evidence against its image";
    // Reverts.
    WeightAfterBreach => "forward orders of the attempt stay valid after its breach";
    TargetUnderRevert => "the release under revert may be the target";
    TargetQuarantined => "a quarantined release may be the target";
    TargetUnverified => "the target is restored without reading its evidence";
    DeniedRestored => "a denied digest is restored";
    QuarantineForgotten => "the bad release is not quarantined";
    HoldNotWritten => "the hold is not written";
    BreakerIgnored => "a wave of breaches restores";
    QuotaIgnored => "restores have no quota";
    DisarmIgnored => "what is left to people is reverted";
    RestoreDropped => "a person's deployment ends a restore before anything good has the traffic";
    AgentSupersedes => "an agent's deployment ends a revert";
    QuarantineShakenOff => "a touched template shakes off the quarantine";
    RecoveredUnseen => "recovery is believed without looking";
    ResolvedUndoes => "the end of an alert ends the revert";
    // People, and the end of things.
    PersonWaits => "a person's revert waits while promoting";
    AgentsLift => "agents lift holds";
    NoticeDropped => "a page that did not get through is dropped";
    RetryAtOnce => "tries have neither pause nor bound";
    LostIsLost => "an effect without an answer is never tried again";
    TasksForgotten => "a restored machine forgets what is not done";
}

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local!(static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) });

    impl Mutant {
        /// Lets this thread run with a fault, or with none.
        pub fn choose(mutant: Option<Self>) {
            CHOSEN.set(mutant);
        }

        /// Whether this thread runs with this fault.
        pub(crate) fn lives(self) -> bool {
            CHOSEN.get() == Some(self)
        }
    }
}

#[cfg(not(feature = "mutants"))]
impl Mutant {
    /// Whether this thread runs with this fault: never.
    #[inline]
    #[allow(clippy::unused_self, reason = "with the feature it is used")]
    pub(crate) const fn lives(self) -> bool {
        false
    }
}
