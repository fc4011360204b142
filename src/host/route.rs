//! Which release answers the next request: smooth weighted round robin, so that 5 % is exactly one request in twenty,
//! spread evenly, without chance.
//!
//! Each pick adds every usable target's weight to its credit, takes the target with the most credit and charges it
//! the sum of what was added (the algorithm nginx made known). A target that cannot serve is left out as if it
//! were not there: its share goes to the others in proportion. A target of weight 0 is never in the list.

use crate::core::spec::Percent;

/// Parts that a whole is divided into: hundredths of a per cent.
const PARTS: f64 = 10_000.0;

/// Targets and their shares.
#[derive(Debug)]
pub(crate) struct Balance<T> {
    shares: Vec<Share<T>>,
}

#[derive(Debug)]
struct Share<T> {
    target: T,
    weight: i64,
    credit: i64,
}

impl<T> Default for Balance<T> {
    fn default() -> Self {
        Self { shares: Vec::new() }
    }
}

impl<T> Balance<T> {
    /// Targets with a share above nothing; shares below a hundredth of a per cent count as that.
    pub(crate) fn new(shares: impl IntoIterator<Item = (T, Percent)>) -> Self {
        let shares = shares.into_iter().filter(|(_, share)| *share > Percent::ZERO);
        Self { shares: shares.map(|(target, share)| Share { target, weight: parts(share), credit: 0 }).collect() }
    }

    /// The next target among those that are usable.
    pub(crate) fn pick(&mut self, usable: impl Fn(&T) -> bool) -> Option<&T> {
        let mut sum = 0;
        let mut best: Option<usize> = None;
        for place in 0..self.shares.len() {
            if !usable(&self.shares[place].target) {
                continue;
            }
            let share = &mut self.shares[place];
            share.credit += share.weight;
            sum += share.weight;
            let credit = share.credit;
            if best.is_none_or(|best| credit > self.shares[best].credit) {
                best = Some(place);
            }
        }
        let best = &mut self.shares[best?];
        best.credit -= sum;
        Some(&best.target)
    }

    /// Whether `other` has the same targets with the same shares.
    pub(crate) fn same(&self, other: &Self, equal: impl Fn(&T, &T) -> bool) -> bool {
        let alike = |(one, two): (&Share<T>, &Share<T>)| one.weight == two.weight && equal(&one.target, &two.target);
        self.shares.len() == other.shares.len() && self.shares.iter().zip(&other.shares).all(alike)
    }

    /// The targets.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &T> {
        self.shares.iter().map(|share| &share.target)
    }
}

#[allow(clippy::cast_possible_truncation)] // a share is between 0 and 1
fn parts(share: Percent) -> i64 {
    ((share.fraction() * PARTS).round() as i64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(balance: &mut Balance<&'static str>, picks: usize, usable: impl Fn(&&str) -> bool) -> [usize; 2] {
        let mut counts = [0; 2];
        for _ in 0..picks {
            match balance.pick(&usable) {
                Some(&"stable") => counts[0] += 1,
                Some(&"candidate") => counts[1] += 1,
                _ => {}
            }
        }
        counts
    }

    #[test]
    fn five_per_cent_is_exactly_one_in_twenty() {
        let mut balance = Balance::new([("stable", Percent::new(95.0)), ("candidate", Percent::new(5.0))]);
        for _ in 0..50 {
            assert_eq!(count(&mut balance, 20, |_| true), [19, 1]);
        }
        let mut balance = Balance::new([("stable", Percent::new(97.5)), ("candidate", Percent::new(2.5))]);
        assert_eq!(count(&mut balance, 4000, |_| true), [3900, 100]);
    }

    #[test]
    fn nothing_goes_to_weight_zero_even_if_all_else_is_down() {
        let mut balance = Balance::new([("stable", Percent::FULL), ("candidate", Percent::ZERO)]);
        assert_eq!(count(&mut balance, 100, |target| *target != "stable"), [0, 0]);
    }

    #[test]
    fn the_share_of_a_target_that_is_down_goes_to_the_others() {
        let mut balance = Balance::new([("stable", Percent::new(75.0)), ("candidate", Percent::new(25.0))]);
        assert_eq!(count(&mut balance, 40, |target| *target == "stable"), [40, 0]);
        assert_eq!(count(&mut balance, 40, |target| *target == "candidate"), [0, 40]);
        assert_eq!(count(&mut balance, 40, |_| true), [30, 10]);
    }
}
