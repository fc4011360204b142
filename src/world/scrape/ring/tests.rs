//! Tests of the ring of recent samples.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::core::input::{Arm, Role, SignalId};
use crate::core::judge::signal::{Matcher, Signal};
use crate::core::release::ReleaseId;
use crate::world::exposition::{Body, Format, parse};

fn selector(metric: &str, matchers: &[(&str, MatchOp, &str)]) -> Selector {
    let matchers = matchers.iter().map(|(label, op, value)| Matcher { label: (*label).into(), op: *op, value: (*value).into() }).collect();
    Selector { metric: metric.into(), matchers }
}

fn plan(selectors: &[&Selector], release: &str) -> LookPlan {
    let signals = selectors.iter().enumerate().map(|(index, selector)| {
        let id = SignalId(format!("s{index}"));
        (id.clone(), Signal { id, objective: "o".into(), counters: BTreeMap::from([(Role::Total, (*selector).clone())]) })
    });
    let arms = BTreeMap::from([(Arm::Candidate, ReleaseId(release.into()))]);
    LookPlan {
        source: "s".into(),
        signals: std::sync::Arc::new(signals.collect()),
        arm_label: "release".into(),
        arms,
        members: BTreeMap::new(),
        since: None,
    }
}

fn ingest(watches: &mut Watches, text: &str, at: i64) -> Result<(), String> {
    let body = Body { bytes: text.as_bytes(), format: Format::Text, complete: true };
    watches.ingest(&parse(body, |_| true).unwrap(), "http://a/", at, at + 10)
}

fn read(watches: &Watches, selector: &Selector, release: &str, since: i64) -> Vec<(String, Vec<(i64, f64)>)> {
    let found = watches.read(selector, "release", release, since).into_iter().flatten();
    found.map(|(labels, samples)| (labels.clone(), samples.iter().map(|sample| (sample.at, sample.value)).collect())).collect()
}

#[test]
fn only_what_matches_is_kept_and_only_what_is_new_is_read() {
    let (all, bad) = (selector("req", &[]), selector("req", &[("code", MatchOp::Regex, "5..")]));
    let mut watches = Watches::default();
    assert_eq!(watches.register(&plan(&[&all, &bad], "a"), 0), Ok(true));
    assert_eq!(watches.register(&plan(&[&bad, &all], "a"), 0), Ok(false), "known");
    assert_eq!(watches.register(&plan(&[&bad], "b"), 0), Ok(true), "another release");
    for round in 1..=3 {
        let text = format!(
            "req{{release=\"a\",code=\"200\"}} {round}\nreq{{release=\"a\",code=\"500\"}} {round}\nreq{{release=\"c\"}} 1\nother 1\n"
        );
        ingest(&mut watches, &text, round * 1000).unwrap();
    }
    let url = "release=\"a\",scrape_url=\"http://a/\"}";
    assert_eq!(read(&watches, &bad, "a", 1000), [(format!("{{code=\"500\",{url}"), vec![(2000, 2.0), (3000, 3.0)])]);
    assert_eq!(read(&watches, &all, "a", 2000).len(), 2);
    assert_eq!(read(&watches, &bad, "b", 0), [], "watched but never seen");
    assert_eq!(read(&watches, &all, "c", 0), [], "never watched");
}

#[test]
fn buckets_match_by_number() {
    let bucket = selector("d_bucket", &[("le", MatchOp::Equal, "1")]);
    let mut watches = Watches::default();
    watches.register(&plan(&[&bucket], "a"), 0).unwrap();
    ingest(&mut watches, "d_bucket{release=\"a\",le=\"1.0\"} 5\nd_bucket{release=\"a\",le=\"10.0\"} 7\n", 1).unwrap();
    ingest(&mut watches, "d_bucket{release=\"a\",le=\"1\"} 6\n", 2).unwrap();
    let labels = "{le=\"1\",release=\"a\",scrape_url=\"http://a/\"}".to_owned();
    assert_eq!(read(&watches, &bucket, "a", 0), [(labels, vec![(1, 5.0), (2, 6.0)])], "one series through an upgrade of the client");
}

#[test]
fn explicit_timestamps_are_honoured_if_they_are_sane() {
    let all = selector("req", &[]);
    let mut watches = Watches::default();
    watches.register(&plan(&[&all], "a"), 0).unwrap();
    let line = |at: i64| format!("req{{release=\"a\"}} 1 {at}\n");
    ingest(&mut watches, &line(1_000_000), 1_001_000).unwrap();
    ingest(&mut watches, &line(1_000_000), 1_002_000).unwrap();
    ingest(&mut watches, &line(1_003_500), 1_003_000).unwrap();
    let future = ingest(&mut watches, &line(1_009_000), 1_004_000).unwrap_err();
    assert!(future.contains("4990 ms ahead"), "{future}");
    ingest(&mut watches, &line(1), 1_005_000).unwrap();
    let times: Vec<_> = read(&watches, &all, "a", 0)[0].1.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [1_000_000, 1_003_010], "once each, never after it was read, never stale");
}

#[test]
fn memory_is_bounded_and_forgets() {
    let all = selector("req", &[]);
    let mut watches = Watches::default();
    watches.register(&plan(&[&all], "a"), 0).unwrap();
    for at in 1..=200 {
        ingest(&mut watches, &format!("req{{release=\"a\"}} {at}\n"), at).unwrap();
    }
    assert_eq!(read(&watches, &all, "a", 0)[0].1.len(), KEPT);
    ingest(&mut watches, "req{release=\"a\",pod=\"new\"} 1\n", 300).unwrap();
    watches.register(&plan(&[&all], "a"), 300).unwrap();
    watches.forget(250);
    assert_eq!(read(&watches, &all, "a", 0).len(), 1, "the series that was not seen is forgotten");
    assert_eq!(watches.series, 1);
    watches.forget(301);
    assert!(watches.is_empty(), "nobody asked");
}

#[test]
fn a_wrong_matcher_is_an_error_and_not_watched() {
    let wrong = selector("req", &[("code", MatchOp::Regex, "(")]);
    let mut watches = Watches::default();
    assert!(watches.register(&plan(&[&wrong], "a"), 0).is_err());
    assert!(watches.is_empty());
}

/// Ten thousand rollouts on one source: a scrape of 40,000 lines, and a look. Prints what they cost.
#[test]
fn ten_thousand_rollouts_are_cheap() {
    let (all, bad) = (selector("req", &[]), selector("req", &[("code", MatchOp::Regex, "5..")]));
    let mut watches = Watches::default();
    let mut text = String::new();
    for index in 0..10_000 {
        let mut plan = plan(&[&all, &bad], &format!("{index}-new"));
        plan.arms.insert(Arm::Stable, ReleaseId(format!("{index}-old").into()));
        watches.register(&plan, 0).unwrap();
        for (age, code) in [("new", 200), ("new", 500), ("old", 200), ("old", 500)] {
            let _ = writeln!(text, "req{{release=\"{index}-{age}\",code=\"{code}\"}} {index}");
        }
    }
    let (mut lexed, mut taken) = (Duration::ZERO, Duration::ZERO);
    for at in 1..=5 {
        let begin = crate::world::clock::instant();
        let exposition = parse(Body { bytes: text.as_bytes(), format: Format::Text, complete: true }, |name| name == "req").unwrap();
        lexed += begin.elapsed() / 5;
        let begin = crate::world::clock::instant();
        watches.ingest(&exposition, "http://a/", at * 1000, at * 1000).unwrap();
        taken += begin.elapsed() / 5;
    }
    let begin = crate::world::clock::instant();
    let mut samples = 0;
    for index in 0..10_000 {
        for release in [format!("{index}-new"), format!("{index}-old")] {
            for selector in [&all, &bad] {
                samples += read(&watches, selector, &release, 3000).iter().map(|(_, samples)| samples.len()).sum::<usize>();
            }
        }
    }
    println!("a scrape of 40,000 lines: {lexed:?} to read, {taken:?} to keep; a look: {:?}", begin.elapsed() / 10_000);
    assert_eq!(samples, 10_000 * 2 * (2 + 1) * 2);
}
