//! What goes wrong, and how often: drawn from the seed, some faults off altogether and some extreme.

use super::prng::Random;

/// Probabilities and spans of everything that can go wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// An effect's answer never comes.
    pub lost: f64,
    /// An effect happens, and its answer is that nobody knows.
    pub unknown: f64,
    /// An effect fails for now.
    pub transient: f64,
    /// An effect is denied.
    pub denied: f64,
    /// An effect is said to be invalid.
    pub invalid: f64,
    /// An effect is done a second time, later.
    pub doubled: f64,
    /// An effect claims to be done, and is not.
    pub lying: f64,
    /// An effect is asked to come again later (429).
    pub busy: f64,
    /// An effect takes longer than anybody waits, and is done then.
    pub hangs: f64,
    /// Longest time an effect takes, in milliseconds.
    pub slow: u64,
    /// A look fails as a whole.
    pub look_fault: f64,
    /// A look brings old samples only.
    pub look_stale: f64,
    /// A commit finds the store unavailable.
    pub store_down: f64,
    /// A commit is written, and its answer lost with the controller.
    pub torn_commit: f64,
    /// A controller dies in a second.
    pub crash: f64,
    /// How long it stays away, in milliseconds.
    pub away: u64,
    /// Evidence in the store is found damaged when it is read.
    pub tampered: f64,
    /// How much a controller's clock runs fast or slow.
    pub drift: f64,
    /// A wall clock jumps in a second.
    pub step: f64,
    /// A member dies in a second.
    pub member_dies: f64,
    /// Members take this long until they are ready, in milliseconds.
    pub start: u64,
}

impl Faults {
    /// A world in which nothing goes wrong, and everything takes a moment.
    pub fn none() -> Self {
        Self {
            lost: 0.0,
            unknown: 0.0,
            transient: 0.0,
            denied: 0.0,
            invalid: 0.0,
            doubled: 0.0,
            lying: 0.0,
            busy: 0.0,
            hangs: 0.0,
            slow: 40,
            look_fault: 0.0,
            look_stale: 0.0,
            store_down: 0.0,
            torn_commit: 0.0,
            crash: 0.0,
            away: 3_000,
            tampered: 0.0,
            drift: 0.0,
            step: 0.0,
            member_dies: 0.0,
            start: 500,
        }
    }

    /// A swarm's member: half of the faults are off, the others mild or extreme.
    pub fn draw(random: &mut Random) -> Self {
        let mut some = |mild: f64, extreme: f64| match random.between(0, 9) {
            0..=4 => 0.0,
            5..=8 => mild,
            _ => extreme,
        };
        let (lost, unknown, transient) = (some(0.02, 0.3), some(0.05, 0.4), some(0.1, 0.6));
        let (denied, invalid, doubled) = (some(0.01, 0.1), some(0.005, 0.05), some(0.05, 0.5));
        let (lying, look_fault, look_stale) = (some(0.01, 0.1), some(0.05, 0.6), some(0.05, 0.6));
        let (store_down, torn_commit, crash) = (some(0.05, 0.7), some(0.01, 0.1), some(0.01, 0.1));
        let (tampered, drift, step, member_dies) = (some(0.05, 0.5), some(0.002, 0.01), some(0.02, 0.2), some(0.005, 0.05));
        let (busy, hangs) = (some(0.02, 0.3), some(0.04, 0.3));
        Self {
            lost,
            unknown,
            transient,
            denied,
            invalid,
            doubled,
            lying,
            busy,
            hangs,
            slow: random.pick(&[5, 40, 300, 4_000]),
            look_fault,
            look_stale,
            store_down,
            torn_commit,
            crash,
            away: random.pick(&[100, 3_000, 20_000]),
            tampered,
            drift,
            step,
            member_dies,
            start: random.pick(&[100, 1_000, 10_000]),
        }
    }
}
