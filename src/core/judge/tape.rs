//! Intervals, packed: what was judged since the last record of it. Ten thousand watched rollouts each hold some
//! hundreds, and a healthy one is a few small numbers.
//!
//! A number is written as the varint of its bits in reverse order of bytes: a small whole number has only its first
//! bytes set, so it takes two or three bytes, and every number comes back exactly.

use super::{Count, Interval};
use crate::core::input::SignalId;

const SCORED: u8 = 1;
const CANDIDATE: u8 = 2;
const STABLE: u8 = 4;

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
        self.bytes.push(flag(interval.scored, SCORED) | flag(candidate.is_some(), CANDIDATE) | flag(stable.is_some(), STABLE));
        self.put(place as u64);
        let step = interval.edge.wrapping_sub(self.edge);
        self.put((step.wrapping_shl(1) ^ (step >> 63)).cast_unsigned());
        self.edge = interval.edge;
        for count in [candidate, stable].into_iter().flatten() {
            self.put(count.bad.to_bits().swap_bytes());
            self.put(count.total.to_bits().swap_bytes());
        }
        self.length += 1;
    }

    /// Takes all intervals out.
    pub fn take(&mut self) -> Vec<Interval> {
        let Self { signals, length, bytes, .. } = std::mem::take(self);
        let mut read = Read { bytes: bytes.into_iter() };
        let mut edge = 0_i64;
        (0..length)
            .map_while(|_| {
                let flags = read.bytes.next()?;
                let signal = signals.get(usize::try_from(read.varint()?).ok()?)?.clone();
                let step = read.varint()?;
                edge = edge.wrapping_add((step >> 1).cast_signed() ^ -(step & 1).cast_signed());
                let candidate = if flags & CANDIDATE == 0 { None } else { Some(read.count()?) };
                let stable = if flags & STABLE == 0 { None } else { Some(read.count()?) };
                Some(Interval { signal, edge, scored: flags & SCORED != 0, candidate, stable })
            })
            .collect()
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }
}

struct Read {
    bytes: std::vec::IntoIter<u8>,
}

impl Read {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn count(&mut self) -> Option<Count> {
        let mut number = || Some(f64::from_bits(self.varint()?.swap_bytes()));
        Some(Count { bad: number()?, total: number()? })
    }
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
            });
        }
        for interval in &intervals {
            tape.push(interval);
        }
        assert_eq!(tape.len(), 60);
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
            });
        }
        assert!(tape.bytes.len() <= 15 * 1000, "{} bytes", tape.bytes.len());
    }
}
