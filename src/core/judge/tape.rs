//! Intervals, packed: what was judged since the last record of it. Ten thousand watched rollouts each hold some
//! hundreds, and a healthy one is a few small numbers.
//!
//! A number is written as the varint of its bits in reverse order of bytes: a small whole number has only its first
//! bytes set, so it takes two or three bytes, and every number comes back exactly.

use super::{Count, Interval, Unusable};
use crate::core::input::SignalId;
use crate::core::varint::{self, Read};

const SCORED: u8 = 1;
const CANDIDATE: u8 = 2;
const STABLE: u8 = 4;
const CANDIDATE_LACKS: u8 = 8;
const STABLE_LACKS: u8 = 16;

/// Intervals in the order in which they were closed.
#[derive(Debug, Clone, Default)]
pub struct Tape {
    signals: Vec<SignalId>,
    edge: i64,
    length: usize,
    bytes: Vec<u8>,
}

impl Tape {
    /// How many intervals there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds `interval` at the end.
    pub fn push(&mut self, interval: &Interval) {
        let place = self.signals.iter().position(|signal| *signal == interval.signal).unwrap_or_else(|| {
            self.signals.push(interval.signal.clone());
            self.signals.len() - 1
        });
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let (candidate, stable) = (interval.candidate, interval.stable);
        let lacks = (interval.candidate_lacks, interval.stable_lacks);
        let arms = flag(candidate.is_some(), CANDIDATE) | flag(stable.is_some(), STABLE);
        let lacking = flag(lacks.0.is_some(), CANDIDATE_LACKS) | flag(lacks.1.is_some(), STABLE_LACKS);
        self.bytes.push(flag(interval.scored, SCORED) | arms | lacking);
        varint::put(&mut self.bytes, place as u64);
        varint::put_signed(&mut self.bytes, interval.edge.wrapping_sub(self.edge));
        self.edge = interval.edge;
        for count in [candidate, stable].into_iter().flatten() {
            varint::put(&mut self.bytes, count.bad.to_bits().swap_bytes());
            varint::put(&mut self.bytes, count.total.to_bits().swap_bytes());
        }
        for lacks in [lacks.0, lacks.1].into_iter().flatten() {
            let (kind, totals, others) = match lacks {
                Unusable::Silent => (0, 0, 0),
                Unusable::Gap => (1, 0, 0),
                Unusable::Mismatch(totals, others) => (2, totals, others),
            };
            self.bytes.push(kind);
            varint::put(&mut self.bytes, totals.into());
            varint::put(&mut self.bytes, others.into());
        }
        self.length += 1;
    }

    /// Takes all intervals out.
    pub fn take(&mut self) -> Vec<Interval> {
        let all = self.after(0);
        *self = Self::default();
        all
    }

    /// All intervals but the first `skipped`.
    pub fn after(&self, skipped: usize) -> Vec<Interval> {
        if skipped >= self.length {
            return Vec::new();
        }
        let mut read = Read(&self.bytes);
        let mut edge = 0;
        let mut all = (0..self.length).map_while(|_| self.read(&mut read, &mut edge));
        all.by_ref().take(skipped).for_each(drop);
        all.collect()
    }

    fn read(&self, read: &mut Read<'_>, edge: &mut i64) -> Option<Interval> {
        let flags = read.byte()?;
        let signal = self.signals.get(usize::try_from(read.number()?).ok()?)?.clone();
        *edge = edge.wrapping_add(read.signed()?);
        let candidate = if flags & CANDIDATE == 0 { None } else { Some(count(read)?) };
        let stable = if flags & STABLE == 0 { None } else { Some(count(read)?) };
        let candidate_lacks = if flags & CANDIDATE_LACKS == 0 { None } else { Some(lacks(read)?) };
        let stable_lacks = if flags & STABLE_LACKS == 0 { None } else { Some(lacks(read)?) };
        Some(Interval { signal, edge: *edge, scored: flags & SCORED != 0, candidate, stable, candidate_lacks, stable_lacks })
    }
}

fn count(read: &mut Read<'_>) -> Option<Count> {
    let mut number = || Some(f64::from_bits(read.number()?.swap_bytes()));
    Some(Count { bad: number()?, total: number()? })
}

fn lacks(read: &mut Read<'_>) -> Option<Unusable> {
    let (kind, totals, others) = (read.byte()?, read.number()?, read.number()?);
    Some(match kind {
        0 => Unusable::Silent,
        1 => Unusable::Gap,
        _ => Unusable::Mismatch(u32::try_from(totals).ok()?, u32::try_from(others).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_takes_little() {
        let numbers = [0.0, -0.0, 1.0, 97.0, 12_345.0, 1e300, f64::MIN_POSITIVE, 0.1, f64::INFINITY, 9_007_199_254_740_991.0];
        let mut tape = Tape::default();
        let mut intervals = Vec::new();
        for (index, number) in numbers.into_iter().cycle().take(60).enumerate() {
            let count = Count { bad: number, total: numbers[index % 7] };
            intervals.push(Interval {
                signal: SignalId(["availability", "latency<=0.3"][index % 2].into()),
                edge: [1_000_000, i64::MAX, i64::MIN, 0, -5][index % 5],
                scored: index % 3 == 0,
                candidate: (index % 4 != 0).then_some(count),
                stable: (index % 5 != 0).then_some(count),
                candidate_lacks: (index % 4 == 0).then_some(Unusable::Mismatch(3, u32::MAX)),
                stable_lacks: (index % 10 == 0).then_some(Unusable::Gap),
            });
        }
        for interval in &intervals {
            tape.push(interval);
        }
        assert_eq!(tape.len(), 60);
        assert_eq!((tape.after(0), tape.after(59), tape.after(60)), (intervals.clone(), intervals[59..].to_vec(), Vec::new()));
        assert_eq!(tape.take(), intervals);
        assert!(tape.is_empty() && tape.take().is_empty());
    }

    #[test]
    fn a_healthy_second_takes_few_bytes() {
        let mut tape = Tape::default();
        for second in 0..1000 {
            let count = Count { bad: 0.0, total: 95.0 };
            let edge = 1_700_000_000_000 + second * 1000;
            tape.push(&Interval {
                signal: SignalId("availability".into()),
                edge,
                scored: true,
                candidate: Some(count),
                stable: Some(count),
                candidate_lacks: None,
                stable_lacks: None,
            });
        }
        assert!(tape.bytes.len() <= 15 * 1000, "{} bytes", tape.bytes.len());
    }
}
