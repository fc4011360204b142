//! Where metrics come from: one value per `GuardSource`, shared by every rollout that names it.

use crate::core::input::{LookFault, Looked};
use crate::core::spec::GuardSource;
use crate::core::work::LookPlan;

use super::prometheus::Prometheus;
use super::scrape::{Pods, Scraper};

/// A source of metrics. Each has its own connections, limits and deadlines, so that a hanging one costs nobody else.
#[derive(Debug)]
pub enum Source {
    /// A Prometheus API.
    Prometheus(Box<Prometheus>),
    /// Endpoints scraped by ourselves.
    Scrape(Scraper),
}

/// Why a `GuardSource` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("GuardSource `{name}`: {what}")]
pub struct SourceError {
    /// Name of the source.
    pub name: String,
    /// What is wrong with it, and how to put it right.
    pub what: String,
}

impl Source {
    /// Makes the source called `name`. Scraping starts with the first look. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Not exactly one kind is given, or an address, header or limit cannot be used.
    pub fn open(name: &str, spec: &GuardSource) -> Result<Self, SourceError> {
        let source = match (&spec.prometheus, &spec.scrape) {
            (Some(prometheus), None) => Prometheus::new(prometheus).map(|prometheus| Self::Prometheus(Box::new(prometheus))),
            (None, Some(scrape)) => Scraper::start(scrape).map(Self::Scrape),
            _ => Err("expected exactly one of `prometheus` and `scrape`".to_owned()),
        };
        source.map_err(|what| SourceError { name: name.to_owned(), what })
    }

    /// Reads the raw samples that a look asks for. Never fails and never hangs: faults are part of the answer, and it
    /// comes within the source's own time limit.
    pub async fn look(&self, plan: &LookPlan) -> Looked {
        self.look_at(plan, &Pods::default()).await
    }

    /// The same of members whose addresses are known: a source that scrapes pods asks these.
    pub async fn look_at(&self, plan: &LookPlan, pods: &Pods) -> Looked {
        match self {
            Self::Prometheus(prometheus) => prometheus.look(plan).await,
            Self::Scrape(scraper) => scraper.look(plan, pods).await,
        }
    }

    /// The value of a `PromQL` query that gives one number.
    ///
    /// # Errors
    /// The faults of a look; [`LookFault::Rejected`] where endpoints are scraped directly, which cannot evaluate queries.
    pub async fn scalar(&self, promql: &str) -> Result<f64, LookFault> {
        match self {
            Self::Prometheus(prometheus) => prometheus.scalar(promql).await,
            Self::Scrape(_) => Err(LookFault::Rejected("a scrape source cannot evaluate PromQL: use a `prometheus` source".to_owned())),
        }
    }
}
