//! What it costs to watch ten thousand rollouts, in memory and in processor time.

use std::time::Duration;

use backstop::core::input::{Arm, Input, Looked};
use backstop::core::policy::Policy;
use backstop::core::preview::{RevertPlan, View};
use backstop::core::spec::GuardedRollout;
use backstop::core::state::PhaseKind;
use backstop::world::clock::{self, Clock};

use super::guards::Rollout;
use super::process::resident;
use super::table::{Against, Table};
use super::traffic::{Counters, Second};

/// Rollouts that are watched.
const ROLLOUTS: u32 = 10_000;
/// Looks at each before memory is read: more than the judge keeps.
const LOOKS: u32 = 40;
/// Rounds whose processor time is measured.
const ROUNDS: u32 = 5;
/// How often each is looked at, in seconds.
const EVERY: f64 = 5.0;

/// Machines with their judges and orders, fed with the answers that a source would give.
pub(crate) fn measure(spec: &GuardedRollout, policy: &Policy, table: &mut Table) {
    let clock = Clock::at(backstop::core::time::Mono::default());
    let before = resident(std::process::id());
    let now = clock.now();
    let mut rollouts: Vec<Rollout> =
        (0..ROLLOUTS).map(|number| Rollout::judged(&format!("bench/service-{number}"), spec, policy, now)).collect();
    let unseen = resident(std::process::id()) - before;
    let mut answers = Answers::default();
    for _ in 0..LOOKS {
        look_at_all(&mut rollouts, &answers.next(), clock);
    }
    let memory = resident(std::process::id()) - before;
    let start = clock::instant();
    for _ in 0..ROUNDS {
        look_at_all(&mut rollouts, &answers.next(), clock);
    }
    let per_look = start.elapsed() / (ROUNDS * ROLLOUTS);
    assert!(rollouts.iter().all(|rollout| rollout.phase() == PhaseKind::Advancing), "healthy traffic is left alone");
    let start = clock::instant();
    for rollout in &rollouts {
        let machine = rollout.order.machine();
        let guard = machine.guard();
        std::hint::black_box((View::of(machine), RevertPlan::of(&guard.key, &guard.uid, &guard.spec, machine.state(), machine.workload())));
    }
    let per_view = start.elapsed() / ROLLOUTS;
    table.section(format!("{ROLLOUTS} watched rollouts, looks each {EVERY} s"));
    let each = memory * 1000.0 / f64::from(ROLLOUTS);
    table.row("memory, all, before the first look", unseen, "MB", Against::Nothing);
    table.row(format!("memory, all, after {LOOKS} looks"), memory, "MB", Against::Budget(300.0));
    // Argo Rollouts needs 138 MB for 500; 75 of these are there without any.
    table.row("memory, each", each, "kB", Against::Other("Argo Rollouts, each of 500", (138.0 - 75.0) * 1000.0 / 500.0));
    table.row("processor, one look through order, machine and judge", micros(per_look), "µs", Against::Nothing);
    table.row("processor, what status shows of it", micros(per_view), "µs", Against::Nothing);
    let cores = (per_look + per_view).as_secs_f64() * f64::from(ROLLOUTS) / EVERY;
    table.row("processor, all, without reading the source", cores, "cores", Against::Budget(0.7));
    let argo = 0.218 / (500.0 / 10.0) * f64::from(ROLLOUTS) / EVERY;
    table.row("processor, beside a peer at as many looks", cores, "cores", Against::Other("Argo Rollouts", argo));
    table.print_last();
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn look_at_all(rollouts: &mut [Rollout], looked: &Looked, clock: Clock) {
    for rollout in rollouts {
        rollout.order.push(Input::Looked(looked.clone()), None);
        rollout.settle(clock.now());
    }
}

/// Healthy answers, a second apart.
#[derive(Default)]
struct Answers {
    counters: Counters,
    at: i64,
}

impl Answers {
    fn next(&mut self) -> Looked {
        self.at += 1000;
        self.counters.serve(Arm::Candidate, Second { total: 20.0, failed: 0.0, slow: 0.0 });
        self.counters.serve(Arm::Stable, Second { total: 180.0, failed: 0.0, slow: 0.0 });
        self.counters.scrape(self.at)
    }
}
