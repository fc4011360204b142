//! How traffic moves, and every limit in time.

use super::{Guard, Sheet};
use crate::core::plan::{Gate, Plan};
use crate::core::spec::{Canary, Percent, Strategy};
use crate::core::time::Span;
use crate::spec::code;
use crate::spec::finding::Finding;

/// Separate bad scrapes that the sequential tests need before they can speak.
pub(in crate::spec) const SCRAPES_TO_ALARM: u32 = 3;

pub(super) fn check(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    match &guard.rollout.strategy {
        Strategy::Canary(canary) => check_steps(sheet, canary, guard),
        Strategy::BlueGreen(_) => check_no_holdback(sheet, guard, "blueGreen switches all traffic at once, and keeps no holdback"),
        Strategy::Observe(_) => check_no_holdback(sheet, guard, "observe drives no traffic, and keeps no holdback"),
    }
    check_stages(sheet, guard);
    check_after(sheet, guard);
    check_flags(sheet, guard);
}

fn check_steps(sheet: &mut Sheet<'_>, canary: &Canary, guard: &Guard<'_>) {
    const STEPS: &str = "/spec/strategy/canary/steps";
    if canary.steps.is_empty() {
        sheet.push(
            STEPS,
            Finding::error(code::WEIGHTS, "a canary without steps").expected("at least one, such as `{weight: 5%, bake: 2m}`"),
        );
    }
    for (index, step) in canary.steps.iter().enumerate() {
        let pointer = format!("{STEPS}/{index}/weight");
        let before = index.checked_sub(1).map(|before| canary.steps[before].weight);
        if step.weight <= Percent::ZERO {
            sheet.push(&pointer, Finding::error(code::WEIGHTS, "a step without traffic").expected("more than 0%"));
        } else if let Some(before) = before.filter(|before| step.weight <= *before) {
            let mut finding = Finding::error(code::WEIGHTS, "weights must rise").expected(format!("more than {before}"));
            if let Some(place) = sheet.loaded.place(sheet.at, &format!("{STEPS}/{}/weight", index - 1)) {
                finding = finding.related("the step before", place);
            }
            sheet.push(&pointer, finding);
        }
    }
    let holdback = guard.rollout.watch.holdback;
    if holdback > Percent::ZERO && (holdback < Percent::new(10.0) || holdback > Percent::new(90.0)) {
        let finding = Finding::error(code::HOLDBACK, "a holdback this small or large is no baseline to compare with");
        sheet.push("/spec/watch/holdback", finding.expected("0%, or 10% to 90%"));
    } else if let Some(last) = canary.steps.last().filter(|last| last.weight > holdback.rest() && holdback > Percent::ZERO) {
        let message =
            format!("with the last step at {} the candidate's traffic would fall to {} while watching", last.weight, holdback.rest());
        sheet.push("/spec/watch/holdback", Finding::error(code::HOLDBACK, message).expected(format!("at most {}", last.weight.rest())));
    }
    if canary.candidate.warm_up.0.is_zero() {
        let finding = Finding::warning(code::TOO_SHORT, "without a warm-up the errors of a cold start count as the candidate's");
        sheet.push("/spec/strategy/canary/candidate/warmUp", finding.fix("write `30s`, or leave it out"));
    }
}

fn check_no_holdback(sheet: &mut Sheet<'_>, guard: &Guard<'_>, message: &str) {
    if guard.rollout.watch.holdback > Percent::ZERO {
        sheet.push("/spec/watch/holdback", Finding::error(code::HOLDBACK, message).fix("leave it out"));
    }
}

/// Bakes and deadlines, of whatever strategy.
fn check_stages(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let plan = Plan::compile(guard.rollout);
    let no_data = &guard.rollout.no_data;
    let mut latest = Span::default();
    for (index, stage) in plan.stages.iter().filter(|stage| stage.gate == Gate::Judge).enumerate() {
        let base = match guard.rollout.strategy {
            Strategy::Canary(_) => format!("/spec/strategy/canary/steps/{index}"),
            _ => "/spec/strategy/blueGreen".to_owned(),
        };
        latest = latest.max(stage.deadline);
        let needed = guard.interval.times(SCRAPES_TO_ALARM);
        if stage.bake < needed {
            let message =
                format!("the bake is over before a breach can be seen: that takes {SCRAPES_TO_ALARM} scrapes, {} apart", guard.interval);
            sheet.push(&format!("{base}/bake"), Finding::error(code::TOO_SHORT, message).expected(format!("at least {needed}")));
        }
        let warm_up = if index == 0 { plan.warm_up } else { Span::default() };
        if stage.deadline <= stage.bake.plus(warm_up) {
            let what = if warm_up.0.is_zero() { "the bake".to_owned() } else { format!("warm-up ({warm_up}) and bake ({})", stage.bake) };
            let finding = Finding::error(code::DEADLINE, format!("the deadline comes before {what} can end")).expected("a later deadline");
            sheet.push(&format!("{base}/deadline"), finding);
        }
    }
    if sheet.loaded.is_written(sheet.at, "/spec/noData/deadline") && !plan.stages.is_empty() && no_data.deadline >= latest {
        let finding = Finding::info(code::NO_EFFECT, format!("no step lasts this long: the longest deadline of a step is {latest}"));
        sheet.push("/spec/noData/deadline", finding);
    }
    if no_data.page > no_data.deadline {
        let finding =
            Finding::warning(code::DEADLINE, format!("the rollout ends at {} without data, before anybody is paged", no_data.deadline));
        sheet.push("/spec/noData/page", finding.expected(format!("at most {}", no_data.deadline)));
    }
}

/// Watching, recovering, retreating, adopting.
fn check_after(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let rollout = guard.rollout;
    let scrapes = |count: u32| guard.interval.times(count);
    if rollout.watch.for_ < scrapes(SCRAPES_TO_ALARM) {
        let finding = Finding::error(code::TOO_SHORT, "watching ends before anything can be seen, so nothing ever becomes known good");
        sheet.push(
            "/spec/watch/for",
            finding.expected(format!("at least {} ({SCRAPES_TO_ALARM} scrapes); 30m is usual", scrapes(SCRAPES_TO_ALARM))),
        );
    }
    for (pointer, span, count, message) in [
        ("/spec/recovery/deadline", rollout.recovery.deadline, 10, "too few scrapes to see that a revert has helped"),
        // Weight 0 and one retry, each judged by three scrapes.
        (
            "/spec/retreat/for",
            rollout.retreat.for_,
            2 * SCRAPES_TO_ALARM,
            "too few scrapes to see whether taking the traffic away has helped",
        ),
    ] {
        if span < scrapes(count) {
            let expected = format!("at least {} ({count} scrapes)", scrapes(count));
            sheet.push(pointer, Finding::error(code::TOO_SHORT, message).expected(expected));
        }
    }
}

fn check_flags(sheet: &mut Sheet<'_>, guard: &Guard<'_>) {
    let flags = &guard.rollout.revert.flags;
    for (index, flag) in flags.iter().enumerate() {
        let pointer = format!("/spec/revert/flags/{index}");
        if flag.flag.is_empty() {
            sheet.push(&format!("{pointer}/flag"), Finding::error(code::BAD_NAME, "a flag without a key"));
        }
        if flags[..index].iter().any(|first| (&first.use_, &first.flag) == (&flag.use_, &flag.flag)) {
            sheet.push(
                &format!("{pointer}/flag"),
                Finding::error(code::TWICE, format!("the flag `{}` is set twice", flag.flag)).fix("leave one out"),
            );
        }
    }
}
