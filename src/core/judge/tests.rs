//! The verdict of each kind of data.

use std::collections::BTreeMap;

use super::fixture::{BOTH, Traffic, judge, objectives, spec, stage, started};
use super::{Checkpoint, Config, Count, Judge, StageStart};
use crate::core::input::Arm::{self, Candidate, Stable};
use crate::core::input::{LookFault, Looked, Role, Sample, Series, SignalId};
use crate::core::reason::{Reason, Verdict};
use crate::core::spec::{Condition, NoData, Percent, StableDark};
use crate::core::time::Span;

fn name(text: &str) -> SignalId {
    SignalId(text.into())
}
#[test]
fn faults_are_neither_good_nor_bad() {
    let faults = [
        (LookFault::Down("x".into()), "SourceDown"),
        (LookFault::Partial("x".into()), "PartialAnswer"),
        (LookFault::Invalid("x".into()), "InvalidData"),
        (LookFault::Rejected("x".into()), "QueryRejected"),
    ];
    for (fault, reason) in faults {
        let (mut judge, mut traffic) = (judge(10.0), Traffic::default());
        for second in 1..=30 {
            traffic.serve(Candidate, 20.0, 0.0, 0.0);
            traffic.serve(Stable, 180.0, 0.0, 0.0);
            judge.look(&traffic.scrape(second * 1000, BOTH));
        }
        assert_eq!(judge.verdict().verdict, Verdict::Pass);
        judge.look(&Looked { fault: Some(fault), ..Looked::default() });
        assert_eq!(named(&judge), reason);
        judge.look(&traffic.scrape(30_000, BOTH));
        assert_eq!(judge.verdict().verdict, Verdict::Pass);
    }
}

#[test]
fn a_histogram_without_the_bucket_is_invalid_not_bad() {
    let mut judge = judge(10.0);
    for second in 1..=20 {
        let (at, value) = (second * 1000, second as f64 * 50.0);
        let mut looked = Traffic::default().scrape(at, BOTH);
        let series = Series { role: Role::Total, labels: "a".into(), samples: vec![Sample { at, value }] };
        looked.samples.insert(name("latency<=0.3"), BTreeMap::from([(Candidate, vec![series])]));
        judge.look(&looked);
    }
    let verdict = judge.verdict().verdict;
    let wanted = r#"1 samples of took_count but 0 of took_bucket{le="0.3"}: every member needs a bucket at this bound"#;
    assert_eq!(verdict, Verdict::Inconclusive(Reason::InvalidData { what: wanted.into() }));
}

/// Runs seconds of steady traffic: requests and failures per second of each arm; tells the first breach.
fn run(judge: &mut Judge, traffic: &mut Traffic, seconds: std::ops::Range<i64>, load: [(f64, f64); 2], answers: &[Arm]) -> Option<i64> {
    let mut found = None;
    for second in seconds {
        for (arm, (total, failed)) in [(Candidate, load[0]), (Stable, load[1])] {
            traffic.serve(arm, total, failed, 0.0);
        }
        judge.look(&traffic.scrape(second * 1000, answers));
        if found.is_none() && matches!(judge.verdict().verdict, Verdict::Breach(_)) {
            found = Some(second);
        }
    }
    found
}

fn named(judge: &Judge) -> &'static str {
    match judge.verdict().verdict {
        Verdict::Pass => "Pass",
        Verdict::Breach(reason) | Verdict::Inconclusive(reason) => reason.name(),
    }
}

#[test]
fn darkness_is_told_apart_from_silence() {
    const LOAD: [(f64, f64); 2] = [(20.0, 0.0), (180.0, 0.0)];
    let serving = || {
        let (mut judge, mut traffic) = (judge(10.0), Traffic::default());
        run(&mut judge, &mut traffic, 1..31, LOAD, BOTH);
        assert_eq!(named(&judge), "Pass");
        (judge, traffic)
    };
    let (mut dark, mut traffic) = serving();
    assert_eq!(run(&mut dark, &mut traffic, 31..40, LOAD, &[Stable]), Some(33));
    assert!(matches!(dark.verdict().verdict, Verdict::Breach(Reason::CandidateDark { .. })));

    let (mut alone, mut traffic) = serving();
    assert_eq!(run(&mut alone, &mut traffic, 31..40, LOAD, &[Candidate]), None);
    assert_eq!((named(&alone), alone.verdict().notes), ("Pass", vec![Reason::StableDark {}]));
    // Judged alone, a failure is a breach without comparison.
    assert!(run(&mut alone, &mut traffic, 40..60, [(20.0, 5.0), (180.0, 0.0)], &[Candidate]).is_some());
    assert_eq!(named(&alone), "BreachAlone");

    let (mut silent, mut traffic) = serving();
    assert_eq!(run(&mut silent, &mut traffic, 31..40, LOAD, &[]), None);
    assert_eq!(silent.verdict().verdict, Verdict::Inconclusive(Reason::Stale { scrapes: 9 }));

    let mut cautious = spec(objectives(), vec![]);
    cautious.no_data = NoData { stable_dark: StableDark::Wait, ..NoData::default() };
    let (mut waits, mut traffic) = (started(&cautious, 10.0), Traffic::default());
    run(&mut waits, &mut traffic, 1..31, LOAD, BOTH);
    assert_eq!(run(&mut waits, &mut traffic, 31..60, [(20.0, 5.0), (180.0, 0.0)], &[Candidate]), None);
    assert_eq!(named(&waits), "StableDark");
}

#[test]
fn a_candidate_that_never_reports_is_dark_only_if_it_was_due_requests() {
    let (mut quiet, mut traffic) = (judge(10.0), Traffic::default());
    assert_eq!(run(&mut quiet, &mut traffic, 1..100, [(0.0, 0.0), (1.0, 0.0)], &[Stable]), None);
    assert_eq!(named(&quiet), "NoTraffic");
    let (mut busy, mut traffic) = (judge(10.0), Traffic::default());
    let found = run(&mut busy, &mut traffic, 1..100, [(0.0, 0.0), (90.0, 0.0)], &[Stable]);
    assert!(found.is_some_and(|second| second <= 6), "{found:?}");
    assert_eq!(named(&busy), "CandidateDark");
    // At weight 0 nothing is due.
    let (mut retreated, mut traffic) = (judge(0.0), Traffic::default());
    assert_eq!(run(&mut retreated, &mut traffic, 1..100, [(0.0, 0.0), (90.0, 0.0)], &[Stable]), None);
    let last = retreated.recent(&name("availability")).last().unwrap();
    assert_eq!((last.scored, last.stable), (false, Some(Count { bad: 0.0, total: 90.0 })));
}

#[test]
fn each_verdict_of_the_two_tests() {
    let cases = [
        (10.0, [(20.0, 1.0), (180.0, 0.2)], "Breach"),
        (10.0, [(20.0, 1.0), (180.0, 9.0)], "SharedCause"),
        (50.0, [(100.0, 0.9), (100.0, 0.1)], "Regression"),
        (100.0, [(200.0, 10.0), (0.0, 0.0)], "BreachAlone"),
    ];
    for (weight, load, wanted) in cases {
        let (mut judge, mut traffic) = (judge(weight), Traffic::default());
        run(&mut judge, &mut traffic, 1..120, load, BOTH);
        assert_eq!(named(&judge), wanted);
    }
}

#[test]
fn where_stable_is_plainly_better_the_comparison_is_awaited() {
    // At 90 % weight the objective's test is sure long before the comparison.
    let (mut judge, mut traffic) = (judge(90.0), Traffic::default());
    let mut seen = Vec::new();
    for second in 1..200 {
        run(&mut judge, &mut traffic, second..second + 1, [(90.0, 4.0), (10.0, 0.005)], BOTH);
        if seen.last() != Some(&named(&judge)) {
            seen.push(named(&judge));
        }
    }
    assert_eq!(seen, ["Baking", "Comparing", "Breach"]);
}

#[test]
fn strict_objectives_revert_on_a_regression() {
    let mut strict = objectives();
    strict[0].strict = true;
    let (mut judge, mut traffic) = (started(&spec(strict, vec![]), 50.0), Traffic::default());
    assert!(run(&mut judge, &mut traffic, 1..120, [(100.0, 0.9), (100.0, 0.1)], BOTH).is_some());
    assert_eq!(named(&judge), "Regression");
}

#[test]
fn sticky_arms_are_not_compared() {
    let mut sticky = spec(objectives(), vec![]);
    sticky.arms.sticky = true;
    let (mut judge, mut traffic) = (started(&sticky, 10.0), Traffic::default());
    run(&mut judge, &mut traffic, 1..60, [(20.0, 1.0), (180.0, 9.0)], BOTH);
    assert_eq!(named(&judge), "BreachAlone");
}

#[test]
fn exoneration_starts_afresh_at_half_the_level_and_a_step_does_not() {
    let (mut judge, mut traffic) = (judge(10.0), Traffic::default());
    run(&mut judge, &mut traffic, 1..60, [(20.0, 1.0), (180.0, 9.0)], BOTH);
    assert_eq!(named(&judge), "SharedCause");
    let before = judge.verdict().objectives[0].clone();
    judge.begin_stage(StageStart { origin: Some(59_000), ..stage(25.0) });
    let after = judge.verdict().objectives[0].clone();
    assert_eq!(before.counts, after.counts);
    assert_eq!((after.health, judge.scored()), (0.0, Span::default()));
    judge.exonerate();
    let fresh = judge.verdict().objectives[0].clone();
    assert!(fresh.counts.objective_evidence.abs() < 1e-12);
    assert!((fresh.alarm - before.alarm - std::f64::consts::LN_2).abs() < 1e-12);
}

#[test]
fn evidence_against_an_unchanged_image_is_carried() {
    let (mut judge, mut traffic) = (judge(90.0), Traffic::default());
    run(&mut judge, &mut traffic, 1..11, [(90.0, 4.0), (10.0, 0.0)], BOTH);
    let carried = Judge::carry(judge.config().clone(), &judge.checkpoint());
    let (old, new) = (&judge.verdict().objectives[0], &carried.verdict().objectives[0]);
    assert_eq!(old.counts, new.counts);
    assert_eq!((new.health, carried.scored(), carried.since()), (0.0, Span::default(), None));
}

#[test]
fn missing_requests_are_told() {
    let (mut judge, mut traffic) = (judge(10.0), Traffic::default());
    run(&mut judge, &mut traffic, 1..16, [(2.0, 0.0), (18.0, 0.0)], BOTH);
    // 15 intervals of 2, of the 177 that an objective of 99 % takes.
    assert_eq!(judge.verdict().verdict, Verdict::Inconclusive(Reason::Insufficient { objective: "availability".into(), missing: 147 }));
}

/// More than 2 % failed over a minute, and the 95th percentile above 300 ms over a minute, for five minutes.
fn conditions() -> Vec<Condition> {
    let over = Span::minutes(1);
    let bad = Condition { objective: "availability".into(), bad: Some(">2%".parse().unwrap()), quantile: None, value: None, over };
    let value = Some(">300ms".parse().unwrap());
    vec![bad, Condition { objective: "latency".into(), bad: None, quantile: Some(0.95), value, over }]
}

/// When the rule fires, in seconds, if each second brings so many requests, failures and slow ones to the candidate.
fn fires(load: impl Fn(i64) -> Option<(f64, f64, f64)>) -> Option<i64> {
    let guard = spec(objectives(), conditions());
    // Without an arm to blame, so that thresholds alone speak: both arms behave the same.
    let (mut judge, mut traffic) = (started(&guard, 10.0), Traffic::default());
    (1..1000).find(|second| {
        let load = load(*second);
        if let Some((total, failed, slow)) = load {
            traffic.serve(Candidate, total, failed, slow);
            traffic.serve(Stable, 9.0 * total, 9.0 * failed, 9.0 * slow);
        }
        if load.is_some() {
            judge.look(&traffic.scrape(second * 1000, BOTH));
        }
        match judge.verdict().verdict {
            Verdict::Breach(Reason::Threshold { rule }) => {
                assert_eq!(rule, "availability: bad >2% over 1m and latency: p95 >300ms over 1m, for 5m");
                true
            }
            Verdict::Breach(other) => panic!("{other:?}"),
            _ => false,
        }
    })
}

#[test]
fn a_conjunction_fires_to_the_interval() {
    // True from the first evaluation, at 1 s: it fires at the first one 300 s later.
    assert_eq!(fires(|_| Some((100.0, 3.0, 6.0))), Some(301));
    // The window fills up: 3 of 100 failing since second 101 pass 2 % of the last minute in second 141.
    assert_eq!(fires(|second| Some((100.0, if second > 100 { 3.0 } else { 0.0 }, 6.0))), Some(441));
    // One condition alone is not enough, nor is exactly the bound.
    assert_eq!(fires(|_| Some((100.0, 3.0, 5.0))), None);
    assert_eq!(fires(|_| Some((100.0, 2.0, 6.0))), None);
    // The later of the two decides.
    assert_eq!(fires(|second| Some((100.0, 3.0, if second > 100 { 60.0 } else { 0.0 }))), Some(406));
}

#[test]
fn one_evaluation_that_is_false_starts_over() {
    // A flood of good requests in second 200 makes that minute good; it is false until they leave the window.
    assert_eq!(fires(|second| Some(if second == 200 { (1e5, 3.0, 6.0) } else { (100.0, 3.0, 6.0) })), Some(560));
    assert_eq!(fires(|second| Some((100.0, if second == 300 { -0.0 } else { 3.0 }, 6.0))), Some(301));
}

#[test]
fn a_gap_starts_over_and_a_missed_scrape_does_not() {
    let without = |gap: std::ops::Range<i64>| move |second: i64| (!gap.contains(&second)).then_some((100.0, 3.0, 6.0));
    assert_eq!(fires(without(200..201)), Some(301));
    // Three scrapes missed: the first interval after the gap is not scored, so the next is the first that holds.
    assert_eq!(fires(without(200..203)), Some(504));
    // No request in the window: no share, hence not true.
    assert_eq!(fires(|second| Some(if (200..290).contains(&second) { (0.0, 0.0, 0.0) } else { (100.0, 3.0, 6.0) })), Some(590));
}

#[test]
fn a_new_stage_does_not_start_a_rule_over_but_a_pause_before_it_does() {
    for (origin, wanted) in [(200, 301), (203, 301), (208, 509)] {
        let (mut judge, mut traffic) = (started(&spec(objectives(), conditions()), 10.0), Traffic::default());
        let found = (1..700).find(|second| {
            traffic.serve(Candidate, 100.0, 3.0, 6.0);
            traffic.serve(Stable, 900.0, 27.0, 54.0);
            if *second == origin {
                judge.begin_stage(StageStart { origin: Some(origin * 1000), ..stage(10.0) });
            }
            // Without looks from 200 until the stage; the samples are read then, as bases.
            if *second <= 200 || *second >= origin {
                judge.look(&traffic.scrape(second * 1000, BOTH));
            }
            matches!(judge.verdict().verdict, Verdict::Breach(Reason::Threshold { .. }))
        });
        assert_eq!(found, Some(wanted));
    }
}
#[test]
fn a_checkpoint_of_another_configuration_does_no_harm() {
    let (mut judge, mut traffic) = (judge(10.0), Traffic::default());
    run(&mut judge, &mut traffic, 1..20, [(20.0, 1.0), (180.0, 0.0)], BOTH);
    let one = Config::new(&spec(objectives()[1..].to_vec(), conditions()[1..].to_vec()), &[], Span::seconds(1)).unwrap();
    let mut other = Judge::restore(one, judge.checkpoint());
    run(&mut other, &mut traffic, 20..40, [(20.0, 0.0), (180.0, 0.0)], BOTH);
    assert_eq!(other.verdict().objectives.len(), 1);
    let mut empty = Judge::restore(judge.config().clone(), Checkpoint::default());
    empty.look(&traffic.scrape(41_000, BOTH));
    assert_eq!(named(&empty), "Baking");
    empty.begin_stage(StageStart { weight: Percent::new(10.0), origin: None, ..stage(10.0) });
    run(&mut empty, &mut traffic, 42..80, [(20.0, 0.0), (180.0, 0.0)], BOTH);
    assert_eq!(named(&empty), "Pass");
}
