//! What a look showed, once its samples were differenced: all that a verdict depends on, and so what is written down of a
//! look. Measuring ends here and judging begins; only judging is done again in a replay.

use serde::{Deserialize, Serialize};

use super::counters::{Grid, Unusable};
use super::{Count, Interval, Judge};
use crate::core::reason::Reason;

/// What a look showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Sight {
    /// Nobody was judged.
    Nothing,
    /// It was asked for before the stage began, and is of no use to it.
    Outdated,
    /// No trustworthy answer.
    Fault(Reason),
    /// Counts.
    Counts {
        /// The source's clock, in milliseconds since the Unix epoch.
        source_now: i64,
        /// Time of the newest sample of all.
        newest: Option<i64>,
        /// Time of the newest sample of the candidate, and of stable.
        seen: [Option<i64>; 2],
        /// How many intervals were closed.
        closed: usize,
    },
}

impl Sight {
    /// How many intervals were closed.
    pub fn closed(&self) -> usize {
        match self {
            Self::Counts { closed, .. } => *closed,
            Self::Nothing | Self::Outdated | Self::Fault(_) => 0,
        }
    }
}

impl Judge {
    /// Takes in what a look showed, with the intervals that it closed, where its samples are not to be had any more.
    ///
    /// The verdict is the same as after the look itself. The counters are not where they were: see [`Judge::measured`].
    pub fn recall(&mut self, sight: &Sight, intervals: &[Interval]) {
        let Some(stage) = self.state.stage else { return };
        match sight {
            Sight::Nothing | Sight::Outdated => {}
            Sight::Fault(reason) => self.distrust(reason.clone()),
            Sight::Counts { source_now, newest, seen, .. } => {
                self.state.grid.recall(*source_now, *newest, *seen);
                self.trust(&stage, *source_now);
                let signals = self.config.signals.len().max(1);
                let count = |count: Option<Count>, lacks: Option<Unusable>| count.ok_or(lacks.unwrap_or(Unusable::Silent));
                for closed in intervals.chunks(signals) {
                    let counted: Vec<_> = closed
                        .iter()
                        .map(|interval| {
                            (count(interval.candidate, interval.candidate_lacks), count(interval.stable, interval.stable_lacks))
                        })
                        .collect();
                    self.score(&stage, closed[0].edge, &counted, &mut Vec::new());
                }
            }
        }
    }

    /// Where the counters stand.
    pub fn grid(&self) -> &Grid {
        &self.state.grid
    }

    /// Puts the counters where they were.
    pub fn measured(&mut self, grid: Grid) {
        self.state.grid = grid;
    }
}

#[cfg(test)]
mod tests {
    use crate::core::input::{Arm, LookFault, Looked};
    use crate::core::judge::StageStart;
    use crate::core::judge::fixture::{BOTH, Random, Traffic, judge, stage};

    /// A look, and the same look recalled, say the same at each second: with faults, silent arms, gaps, and a new stage.
    #[test]
    fn what_was_seen_leads_to_the_same_verdicts_again() {
        let (mut first, mut traffic, mut random) = (judge(20.0), Traffic::default(), Random(7));
        let mut again = first.clone();
        let mut verdicts = std::collections::BTreeSet::new();
        for second in 1..600_i64 {
            traffic.serve(Arm::Candidate, random.poisson(20.0), random.poisson(if second > 500 { 4.0 } else { 0.1 }), 0.0);
            traffic.serve(Arm::Stable, random.poisson(80.0), 0.0, 0.0);
            let answers = match second % 100 {
                40..60 => &BOTH[..1],
                70..80 => &BOTH[1..],
                _ => BOTH,
            };
            let mut looked = traffic.scrape(second * 1000, answers);
            if second % 50 == 7 {
                // A member without the bucket: roles that do not go together.
                looked.samples.values_mut().flat_map(|arms| arms.values_mut()).for_each(|series| series.truncate(1));
            }
            if (90..95).contains(&(second % 100)) {
                looked = Looked { fault: Some(LookFault::Down("refused".into())), ..Looked::default() };
            }
            let (sight, closed) = first.look(&looked);
            again.recall(&sight, &closed);
            assert_eq!(first.verdict(), again.verdict(), "after {second} s");
            verdicts.insert(format!("{:?}", first.verdict().verdict).chars().take(28).collect::<String>());
            if second == 300 {
                again.measured(first.grid().clone());
                assert_eq!(first.checkpoint(), again.checkpoint());
                let next = StageStart { origin: None, ..stage(50.0) };
                first.begin_stage(next);
                again.begin_stage(next);
            }
        }
        again.measured(first.grid().clone());
        assert_eq!(first, again);
        assert!(verdicts.len() >= 5, "{verdicts:?}");
    }
}
