//! What the parts of a controller count while they work. One set for the process: prometheus-client's values are shared by their clones.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::core::input::{LookFault, Looked, Outcome};
use crate::core::work::Lane;

/// A label: of which source, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    /// Name of the `GuardSource`.
    pub source: String,
    /// `samples`, `down`, `rejected`, `invalid`.
    pub outcome: &'static str,
}

/// A label: which lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneIs {
    /// `revert` or `forward`.
    pub lane: &'static str,
}

/// A label: which effect, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Acted {
    /// Its name, such as `ensureWeights`.
    pub action: &'static str,
    /// `done`, `transient`, `denied`, `superseded`, `invalid`, `unknown`.
    pub outcome: &'static str,
}

/// A label: how a commit ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// `done`, `lost` (another controller decided), `unavailable` (the store did not answer).
    pub outcome: &'static str,
}

/// The numbers.
#[derive(Debug)]
pub struct Work {
    /// Looks.
    pub looks: Family<Asked, Counter>,
    /// Looks that came a scrape interval or more after they were due.
    pub looks_missed: Counter,
    /// Seconds from when a rollout was due until it was woken.
    pub wake_delay: Histogram,
    /// Queries sent to sources.
    pub queries: Counter,
    /// Seconds that an effect waited for its lane.
    pub lane_wait: Family<LaneIs, Histogram>,
    /// Effects that ended.
    pub effects: Family<Acted, Counter>,
    /// Commits that ended.
    pub commits: Family<Ended, Counter>,
    /// Seconds that a commit took.
    pub commit: Histogram,
    /// Times that a rollout's task broke, or could not read its state, and begins again.
    pub tasks_broken: Counter,
    /// Replicas that this one sees alive, itself among them.
    pub replicas: Gauge,
    /// When this replica last renewed its Lease.
    pub lease_renewed: Gauge,
}

/// Bounds for what should take no time at all.
fn short() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

static WORK: LazyLock<Work> = LazyLock::new(|| Work {
    looks: Family::default(),
    looks_missed: Counter::default(),
    wake_delay: short(),
    queries: Counter::default(),
    lane_wait: Family::new_with_constructor(short),
    effects: Family::default(),
    commits: Family::default(),
    commit: short(),
    tasks_broken: Counter::default(),
    replicas: Gauge::default(),
    lease_renewed: Gauge::default(),
});

/// The process's numbers.
pub fn work() -> &'static Work {
    &WORK
}

impl Work {
    /// Shows them.
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("looks", "Looks at a source, by how they ended", self.looks.clone());
        r.register("looks_missed", "Looks that came a scrape interval or more after they were due", self.looks_missed.clone());
        r.register_with_unit("wake_delay", "From when a rollout was due until it was woken", Unit::Seconds, self.wake_delay.clone());
        r.register("queries", "Queries sent to Prometheus sources", self.queries.clone());
        r.register_with_unit("lane_wait", "How long an effect waited for its lane", Unit::Seconds, self.lane_wait.clone());
        r.register("effects", "Effects, by how they ended", self.effects.clone());
        r.register("commits", "Commits of state, by how they ended", self.commits.clone());
        r.register_with_unit("commit", "How long a commit of state took", Unit::Seconds, self.commit.clone());
        r.register("tasks_broken", "Times that a rollout's task broke and begins again", self.tasks_broken.clone());
        r.register("replicas", "Replicas that this one sees alive, itself among them; 0 on one machine", self.replicas.clone());
        r.register_with_unit(
            "lease_renewed_timestamp",
            "When this replica last renewed its Lease; 0 on one machine",
            Unit::Seconds,
            self.lease_renewed.clone(),
        );
    }

    /// A look ended.
    pub fn looked(&self, source: &str, looked: &Looked) {
        let outcome = match &looked.fault {
            None => "samples",
            Some(LookFault::Down(_)) => "down",
            Some(LookFault::Rejected(_)) => "rejected",
            Some(_) => "invalid",
        };
        self.looks.get_or_create(&Asked { source: source.to_owned(), outcome }).inc();
    }

    /// A rollout that looks each `interval` was woken so long after it was due.
    pub fn woke(&self, late: Duration, interval: Duration) {
        self.wake_delay.observe(late.as_secs_f64());
        let missed = late.as_millis() / interval.as_millis().max(1);
        self.looks_missed.inc_by(u64::try_from(missed).unwrap_or(u64::MAX));
    }

    /// An effect had its turn after waiting so long.
    pub fn waited(&self, lane: Lane, waited: Duration) {
        let lane = match lane {
            Lane::Revert => "revert",
            Lane::Forward => "forward",
        };
        self.lane_wait.get_or_create(&LaneIs { lane }).observe(waited.as_secs_f64());
    }

    /// An effect ended.
    pub fn acted(&self, action: &'static str, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Done { .. } => "done",
            Outcome::Transient { .. } => "transient",
            Outcome::Denied(_) => "denied",
            Outcome::Superseded(_) => "superseded",
            Outcome::Invalid(_) => "invalid",
            Outcome::Unknown(_) => "unknown",
        };
        self.effects.get_or_create(&Acted { action, outcome }).inc();
    }

    /// A commit ended after so long.
    pub fn committed(&self, outcome: &'static str, took: Duration) {
        self.commits.get_or_create(&Ended { outcome }).inc();
        self.commit.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::input::Observation;

    /// Others in this process may count as well: what is shown must have grown by at least as much.
    #[test]
    fn each_number_moves_with_what_it_counts() {
        let work = work();
        let looks = |outcome| work.looks.get_or_create(&Asked { source: "moving".into(), outcome }).get();
        work.looked("moving", &Looked::default());
        work.looked("moving", &Looked { fault: Some(LookFault::Down("gone".into())), ..Looked::default() });
        work.looked("moving", &Looked { fault: Some(LookFault::Rejected("no".into())), ..Looked::default() });
        assert_eq!((looks("samples"), looks("down"), looks("rejected")), (1, 1, 1));

        let missed = work.looks_missed.get();
        work.woke(Duration::from_millis(900), Duration::from_secs(1));
        assert_eq!(work.looks_missed.get(), missed, "less than an interval late is not missed");
        work.woke(Duration::from_millis(3_500), Duration::from_secs(1));
        assert!(work.looks_missed.get() >= missed + 3);

        work.waited(Lane::Revert, Duration::from_millis(3));
        work.acted("moving", &Outcome::Done { changed: true, observed: Observation::Nothing });
        work.acted("moving", &Outcome::Unknown("lost".into()));
        work.committed("moving", Duration::from_millis(2));
        let mut registry = Registry::default();
        work.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "effects_total{action=\"moving\",outcome=\"done\"} 1",
            "effects_total{action=\"moving\",outcome=\"unknown\"} 1",
            "commits_total{outcome=\"moving\"} 1",
            "lane_wait_seconds_bucket{le=\"0.005\",lane=\"revert\"}",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
