//! Logs to standard error, and the numbers that `/metrics` shows.

pub mod work;

use std::io::IsTerminal as _;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, log_filter};
use crate::core::preview::View;
use crate::core::record::{Decision, Event, Record};
use crate::core::state::Revert;
use crate::core::work::Action;

/// Starts logging to standard error; at most once in a process. `RUST_LOG` chooses what is logged.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_new(log_filter().unwrap_or_else(|| "warn,backstop=info".into())).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // A second call in the same process changes nothing.
    let _ = if text {
        builder.with_target(false).with_ansi(terminal && !crate::config::no_color()).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    };
}

/// A label: which stage of a revert.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stage {
    /// `traffic`, `flags`, `release`, `recovered`.
    pub stage: &'static str,
}

/// A label: which decision, with the reason's code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionIs {
    /// Its kind, such as `revert`.
    pub decision: &'static str,
    /// The code, such as `BS001`.
    pub reason: &'static str,
}

/// A label: which phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseIs {
    /// The phase's name.
    pub phase: String,
}

/// A label: an answered request of the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The route's pattern, never the path as sent.
    pub route: &'static str,
    /// The HTTP status.
    pub status: u16,
}

/// What is counted. Every number is fed by the shell, but `requests`, which the API feeds.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Seconds from the decision to revert until a stage of it was done.
    pub revert: Family<Stage, Histogram>,
    /// Verdicts, counted when they change.
    pub decisions: Family<DecisionIs, Counter>,
    /// Pages sent.
    pub pages: Counter,
    /// Rollouts in each phase.
    pub phases: Family<PhaseIs, Gauge>,
    /// Rollouts for which a revert would not work now.
    pub not_ready: Gauge,
    /// Whether this controller works: 1 or 0.
    pub ready: Gauge,
    /// Commands, deployments and alerts that no rollout has taken in yet.
    pub queue: Gauge,
    /// Requests that the API answered.
    pub requests: Family<Answered, Counter>,
}

/// Bounds for reverts: tight around the budget of 50 ms.
fn revert_times() -> Histogram {
    Histogram::new([0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0])
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("backstop"),
            revert: Family::new_with_constructor(revert_times),
            decisions: Family::default(),
            pages: Counter::default(),
            phases: Family::default(),
            not_ready: Gauge::default(),
            ready: Gauge::default(),
            queue: Gauge::default(),
            requests: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        let seconds = || Unit::Seconds;
        r.register_with_unit("revert", "From the decision to revert until a stage of it was done", seconds(), self.revert.clone());
        r.register("decisions", "Decisions by kind and reason", self.decisions.clone());
        r.register("pages", "Pages sent", self.pages.clone());
        r.register("rollouts", "Rollouts in each phase", self.phases.clone());
        r.register("rollouts_not_ready", "Rollouts for which a revert would not work now", self.not_ready.clone());
        r.register("ready", "Whether this controller works: 1 or 0", self.ready.clone());
        r.register("queue_depth", "Commands, deployments and alerts that no rollout has taken in yet", self.queue.clone());
        work::work().register(r);
        r.register("api_requests", "Requests that the API answered", self.requests.clone());
    }

    /// Counts a committed record; `view` is where its rollout stands now.
    pub fn observe(&self, record: &Record, view: Option<&View>) {
        match &record.event {
            Event::Wanted(effect) => {
                if matches!(&effect.action, Action::Notify(notice) if notice.page) {
                    self.pages.inc();
                }
            }
            Event::Decision { decision, .. } => {
                let (Some(reason), decision_is) = (&record.reason, decision_word(*decision)) else { return };
                self.decisions.get_or_create(&DecisionIs { decision: decision_is, reason: reason.code() }).inc();
                if matches!(decision, Decision::Recovered | Decision::Held | Decision::Stuck)
                    && let Some(revert) = view.and_then(|view| view.revert.as_ref())
                {
                    self.reverted(revert);
                    if *decision == Decision::Recovered {
                        let took = record.at.mono.since(revert.since.mono);
                        self.revert.get_or_create(&Stage { stage: "recovered" }).observe(took.as_secs_f64());
                    }
                }
            }
            Event::Input(_) => {}
        }
    }

    fn reverted(&self, revert: &Revert) {
        let stages = [("flags", revert.flags_safe), ("traffic", revert.traffic_back), ("release", revert.release_back)];
        for (stage, at) in stages.into_iter().filter_map(|(stage, at)| Some((stage, at?))) {
            self.revert.get_or_create(&Stage { stage }).observe(at.since(revert.since.mono).as_secs_f64());
        }
    }

    /// Counts where rollouts stand.
    pub fn standing<'a>(&self, views: impl Iterator<Item = &'a View>) {
        self.phases.clear();
        let mut not_ready = 0;
        for view in views {
            self.phases.get_or_create(&PhaseIs { phase: view.phase.to_string() }).inc();
            not_ready += i64::from(view.readiness.as_ref().is_some_and(|readiness| readiness.missing.is_some()));
        }
        self.not_ready.set(not_ready);
    }

    /// The exposition, in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// If a value cannot be written as text.
    pub fn expose(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(8192);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn decision_word(decision: Decision) -> &'static str {
    match decision {
        Decision::Admit => "admit",
        Decision::Refuse => "refuse",
        Decision::Advance => "advance",
        Decision::Wait => "wait",
        Decision::Promote => "promote",
        Decision::Retreat => "retreat",
        Decision::Exonerate => "exonerate",
        Decision::Revert => "revert",
        Decision::Skip => "skip",
        Decision::Choose => "choose",
        Decision::KnownGood => "knownGood",
        Decision::Recovered => "recovered",
        Decision::Held => "held",
        Decision::Stuck => "stuck",
        Decision::Obey => "obey",
        Decision::Checkpoint => "checkpoint",
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_names_what_was_counted() {
        let metrics = Metrics::new();
        metrics.pages.inc();
        metrics.revert.get_or_create(&Stage { stage: "traffic" }).observe(0.012);
        metrics.phases.get_or_create(&PhaseIs { phase: "Idle".into() }).set(3);
        let text = metrics.expose().unwrap();
        assert!(text.contains("backstop_pages_total 1"), "{text}");
        assert!(text.contains("backstop_revert_seconds_bucket{le=\"0.02\",stage=\"traffic\"} 1"), "{text}");
        assert!(text.contains("backstop_rollouts{phase=\"Idle\"} 3"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
