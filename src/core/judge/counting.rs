//! What counting promises: exact numbers, and the same ones however one looks.

use proptest::prelude::*;

use super::fixture::{judge, stage};
use super::{Interval, Judge, StageStart};
use crate::core::input::Arm::{self, Candidate, Stable};
use crate::core::input::Role::{self, Bad, Total};
use crate::core::input::{Looked, Sample, Series, SignalId};
use crate::core::reason::{Reason, Verdict};
use crate::core::time::Span;

fn name(text: &str) -> SignalId {
    SignalId(text.into())
}

/// One series of `availability`: arm, role, label, samples as (seconds, value).
type Line<'a> = (Arm, Role, &'a str, &'a [(f64, f64)]);

fn look(now: f64, lines: &[Line<'_>]) -> Looked {
    #[allow(clippy::cast_possible_truncation)] // a few seconds
    let millis = |seconds: f64| (seconds * 1000.0).round() as i64;
    let mut looked = Looked { source_now: millis(now), ..Looked::default() };
    for (arm, role, labels, samples) in lines {
        let samples = samples.iter().map(|(at, value)| Sample { at: millis(*at), value: *value }).collect();
        let series = Series { role: *role, labels: (*labels).into(), samples };
        looked.samples.entry(name("availability")).or_default().entry(*arm).or_default().push(series);
    }
    looked
}

/// Candidate counts of `availability` by edge in seconds, `None` where not scored.
fn candidate(intervals: &[Interval]) -> Vec<(i64, Option<(f64, f64)>)> {
    let ours = intervals.iter().filter(|interval| interval.signal == name("availability"));
    ours.map(|interval| {
        let count = interval.candidate.filter(|_| interval.scored);
        (interval.edge / 1000, count.map(|count| (count.bad, count.total)))
    })
    .collect()
}

#[test]
fn a_gain_belongs_to_the_interval_of_its_later_sample() {
    let total = [(-0.5, 100.0), (0.5, 110.0), (1.5, 130.0), (2.5, 135.0)];
    let intervals = judge(10.0).look(&look(2.6, &[(Candidate, Total, "a", &total)])).1;
    // The third interval is open: its edge lies ahead.
    assert_eq!(candidate(&intervals), [(1, Some((0.0, 10.0))), (2, Some((0.0, 20.0)))]);
}

#[test]
fn a_series_born_in_the_stage_counts_from_zero_and_one_that_was_there_does_not() {
    let fresh = [(0.5, 10.0), (1.5, 30.0), (2.5, 37.0), (3.5, 37.0)];
    let errors = [(2.5, 4.0), (3.5, 4.0)];
    let lines: [Line<'_>; 2] = [(Candidate, Total, "a", &fresh), (Candidate, Bad, "a", &errors)];
    let intervals = judge(10.0).look(&look(3.5, &lines)).1;
    assert_eq!(candidate(&intervals), [(1, Some((0.0, 10.0))), (2, Some((0.0, 20.0))), (3, Some((4.0, 7.0)))]);

    // The same of a release that ran before: its first scrape is a base, a member that joins later counts.
    let mut running = judge(10.0);
    running.begin_stage(StageStart { fresh: false, ..stage(10.0) });
    let intervals = running.look(&look(3.5, &lines)).1;
    assert_eq!(candidate(&intervals), [(1, Some((0.0, 0.0))), (2, Some((0.0, 20.0))), (3, Some((4.0, 7.0)))]);
}

#[test]
fn members_scraped_at_other_moments_of_the_first_interval_are_bases_too() {
    let lines: [Line<'_>; 3] = [
        (Candidate, Total, "c", &[(0.5, 1.0), (1.5, 2.0), (2.5, 3.0)]),
        (Stable, Total, "a", &[(0.2, 1e6), (1.2, 1e6 + 5.0), (2.2, 1e6 + 5.0)]),
        (Stable, Total, "b", &[(1.1, 2e6), (2.1, 2e6 + 7.0)]),
    ];
    let intervals = judge(10.0).look(&look(2.5, &lines)).1;
    let stable: Vec<_> = intervals.iter().filter_map(|interval| interval.stable).map(|count| count.total).collect();
    assert_eq!(stable, [0.0, 5.0]);
}

#[test]
fn a_series_born_while_nobody_was_scraping_is_not_scored() {
    let total = [(0.5, 10.0), (5.5, 60.0), (6.5, 70.0)];
    let born = [(5.5, 40.0), (6.5, 41.0)];
    for stable in [&[(0.5, 1.0), (5.5, 1.0), (6.5, 1.0)][..], &[(0.4, 1.0), (5.4, 1.0), (6.4, 1.0)][..]] {
        let lines: [Line<'_>; 3] = [(Candidate, Total, "a", &total), (Candidate, Bad, "a", &born), (Stable, Total, "b", stable)];
        let intervals = judge(10.0).look(&look(6.5, &lines)).1;
        assert_eq!(candidate(&intervals), [(1, Some((0.0, 10.0))), (6, None)]);
    }
    // Also where it is the arm's first.
    let lines: [Line<'_>; 2] = [(Candidate, Total, "new", &born), (Stable, Total, "b", &[(0.5, 1.0), (5.5, 1.0), (6.5, 1.0)])];
    assert_eq!(candidate(&judge(10.0).look(&look(6.5, &lines)).1), [(1, None), (6, None)]);
}

#[test]
fn what_is_read_late_counts_with_the_next_scrape() {
    let mut judge = judge(10.0);
    let total = [(0.5, 10.0), (1.5, 20.0), (2.5, 30.0)];
    let mut intervals = judge.look(&look(2.5, &[(Candidate, Total, "a", &total)])).1;
    let (total, born) = ([(3.5, 40.0), (4.5, 50.0)], [(1.6, 3.0), (3.6, 4.0), (4.6, 4.0)]);
    intervals.extend(judge.look(&look(4.6, &[(Candidate, Total, "a", &total), (Candidate, Bad, "a", &born)])).1);
    let wanted = [(1, Some((0.0, 10.0))), (2, Some((0.0, 10.0))), (3, Some((0.0, 10.0))), (4, Some((4.0, 10.0)))];
    assert_eq!(candidate(&intervals), wanted);
}

#[test]
fn a_counter_that_falls_was_reset() {
    let total = [(-0.5, 100.0), (0.5, 110.0), (1.5, 3.0), (2.5, 5.0)];
    let intervals = judge(10.0).look(&look(2.5, &[(Candidate, Total, "a", &total)])).1;
    assert_eq!(candidate(&intervals), [(1, Some((0.0, 10.0))), (2, Some((0.0, 3.0)))]);
}

#[test]
fn one_missed_scrape_is_bridged_and_a_gap_is_not_scored() {
    let total = [(-0.5, 0.0), (0.5, 10.0), (2.5, 30.0), (5.5, 60.0), (6.5, 70.0), (7.5, 80.0)];
    let stable = [0.6, 1.6, 2.6, 3.6, 4.6, 5.6, 6.6, 7.6].map(|at| (at, 1.0));
    let intervals = judge(10.0).look(&look(7.6, &[(Candidate, Total, "a", &total), (Stable, Total, "b", &stable)])).1;
    let wanted = [(1, Some((0.0, 10.0))), (2, None), (3, Some((0.0, 20.0))), (4, None), (5, None), (6, None), (7, Some((0.0, 10.0)))];
    assert_eq!(candidate(&intervals), wanted);
}

#[test]
fn the_grid_waits_for_a_slow_series_but_not_for_one_that_stopped() {
    let mut judge = judge(10.0);
    let fast: Vec<_> = (0..=3).map(|at| (f64::from(at) + 0.5, 1.0)).collect();
    let slow = [(0.5, 1.0)];
    assert_eq!(candidate(&judge.look(&look(2.5, &[(Candidate, Total, "a", &slow), (Stable, Total, "b", &fast[..3])])).1), []);
    assert_eq!(judge.since(), Some(500));
    // Three scrapes without it, and it does not hold up the others.
    let edges: Vec<_> = judge.look(&look(3.5, &[(Stable, Total, "b", &fast)])).1.iter().map(|interval| interval.edge).collect();
    assert_eq!(edges, [1000, 1000, 2000, 2000, 3000, 3000]);
}

#[test]
fn warm_up_is_not_scored() {
    let mut judge = judge(10.0);
    judge.begin_stage(StageStart { warm_up: Span::seconds(2), ..stage(10.0) });
    let total = [(0.5, 10.0), (1.5, 20.0), (2.5, 30.0), (3.5, 40.0)];
    let intervals = judge.look(&look(3.5, &[(Candidate, Total, "a", &total)])).1;
    assert_eq!(candidate(&intervals), [(1, None), (2, None), (3, Some((0.0, 10.0)))]);
}

#[test]
fn what_is_not_a_counter_refuses_the_whole_look() {
    let good = [(0.5, 1.0), (1.5, 2.0)];
    for (odd, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-1.0, "-1")] {
        let mut judge = judge(10.0);
        let before = judge.checkpoint().grid;
        let bad = [(1.5, odd)];
        assert_eq!(judge.look(&look(1.5, &[(Candidate, Total, "a", &good), (Stable, Total, "b", &bad)])).1, []);
        let verdict = judge.verdict();
        assert!(matches!(&verdict.verdict, Verdict::Inconclusive(Reason::InvalidData { what }) if what.contains(word)), "{verdict:?}");
        assert_eq!((judge.checkpoint().grid, verdict.faulted), (before, 1));
    }
    let mut judge = judge(10.0);
    judge.look(&look(0.4, &[(Candidate, Total, "a", &good)]));
    assert!(matches!(judge.verdict().verdict, Verdict::Inconclusive(Reason::InvalidData { what }) if what.contains("future")));
}

/// One made-up series and the samples that a source has of it.
#[derive(Debug, Clone)]
struct Made {
    arm: Arm,
    role: Role,
    name: String,
    samples: Vec<Sample>,
    /// How long after a scrape its samples can be read, in milliseconds.
    lag: i64,
}

fn made(lags: bool) -> impl Strategy<Value = Made> {
    let scrape = (0..200_i64, 0..30_u32, 0..12_u8);
    let lag = if lags { 0..900_i64 } else { 0..1 };
    // A late series holds up the grid only once it is known.
    let births = if lags { -3..-1_i64 } else { -3..20 };
    let life = (any::<bool>(), 0..3_u8, births, 0..1000_i64, prop::collection::vec(scrape, 1..40), lag);
    (life, any::<u16>()).prop_map(move |((stable, role, birth, phase, scrapes, lag), id)| {
        let (mut value, mut samples) = (f64::from(id), Vec::new());
        for (place, (jitter, gain, fate)) in (birth..).zip(scrapes) {
            value += f64::from(gain);
            match fate {
                0 => value = f64::from(gain), // reset
                1 | 2 if !lags => continue,   // missed
                _ => {}
            }
            samples.push(Sample { at: place * 1000 + phase + jitter, value });
        }
        let role = if role == 0 { Bad } else { Total };
        Made { arm: if stable { Stable } else { Candidate }, role, name: format!("{id}"), samples, lag }
    })
}

/// What a look at `now` reads that was not readable at `before` less `overlap`.
fn read(series: &[Made], before: i64, now: i64, overlap: i64) -> Looked {
    let mut looked = Looked { source_now: now, ..Looked::default() };
    for (place, made) in series.iter().enumerate() {
        let readable = |sample: &&Sample| sample.at + made.lag <= now && sample.at + made.lag > before - overlap;
        let samples: Vec<_> = made.samples.iter().filter(readable).copied().collect();
        let line = Series { role: made.role, labels: format!("{}-{place}", made.name), samples };
        looked.samples.entry(name("availability")).or_default().entry(made.arm).or_default().push(line);
    }
    looked
}

const END: i64 = 70_000;

/// Looks at these times and once at the end; `each` may replace the judge between looks.
fn looks(series: &[Made], cuts: &[i64], overlap: i64, mut each: impl FnMut(usize, Judge) -> Judge) -> (Vec<Interval>, Judge) {
    let (mut judge, mut intervals, mut before) = (judge(10.0), Vec::new(), i64::MIN / 2);
    for (place, &now) in cuts.iter().chain([&END]).enumerate() {
        intervals.extend(judge.look(&read(series, before, now, overlap)).1);
        before = now;
        judge = each(place, judge);
    }
    (intervals, judge)
}

fn cuts() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(-2000..END, 0..30).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

proptest! {
    #[test]
    fn intervals_do_not_depend_on_when_one_looks(
        series in prop::collection::vec(made(false), 1..6), cuts in cuts(), overlap in 0..9000_i64,
    ) {
        let (once, whole) = looks(&series, &[], 0, |_, judge| judge);
        let (often, parts) = looks(&series, &cuts, overlap, |_, judge| judge);
        prop_assert_eq!(once, often);
        prop_assert_eq!(whole.verdict(), parts.verdict());
        prop_assert_eq!(whole.checkpoint(), parts.checkpoint());
    }

    #[test]
    fn samples_that_can_be_read_late_count_the_same(series in prop::collection::vec(made(true), 1..6), cuts in cuts()) {
        let (once, _) = looks(&series, &[], 0, |_, judge| judge);
        let (often, _) = looks(&series, &cuts, 3000, |_, judge| judge);
        prop_assert_eq!(once, often);
    }

    #[test]
    fn a_restored_judge_goes_on_bit_by_bit(
        series in prop::collection::vec(made(false), 1..6), cuts in cuts(), at in 0..30_usize, overlap in 0..9000_i64,
    ) {
        let (intervals, judge) = looks(&series, &cuts, 0, |_, judge| judge);
        let (again, restored) = looks(&series, &cuts, overlap, |place, judge| {
            if place < at { return judge; }
            let text = serde_json::to_string(&judge.checkpoint()).unwrap();
            Judge::restore(judge.config().clone(), serde_json::from_str(&text).unwrap())
        });
        prop_assert_eq!(intervals, again);
        prop_assert_eq!(judge.verdict(), restored.verdict());
        prop_assert_eq!(judge.checkpoint(), restored.checkpoint());
    }

    #[test]
    fn counts_add_up_to_what_the_counter_gained(gains in prop::collection::vec(0..50_u32, 1..40), cuts in cuts()) {
        let mut value = 1000.0;
        let mut samples = vec![Sample { at: -500, value }];
        for (place, gain) in (0..).zip(&gains) {
            value += f64::from(*gain);
            samples.push(Sample { at: place * 1000 + 500, value });
        }
        samples.push(Sample { at: i64::try_from(gains.len()).unwrap() * 1000 + 500, value });
        let series = [Made { arm: Candidate, role: Total, name: "a".into(), samples, lag: 0 }];
        let (intervals, _) = looks(&series, &cuts, 2000, |_, judge| judge);
        let counted: f64 = candidate(&intervals).iter().filter_map(|(_, count)| count.map(|count| count.1)).sum();
        prop_assert!((counted - (value - 1000.0)).abs() < 1e-9);
    }
}
