//! What a Prometheus knows of a selector, asked once by a person: whether it finds anything, and if not, what there is instead.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{self, Counted};
use super::{Prometheus, promql};
use crate::core::input::LookFault;
use crate::core::judge::signal::{Matcher, Selector};
use crate::world::series::{is_classic, push_quoted};

/// Names and values that are told at most.
const TOLD: usize = 8;

/// What a selector finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// Series by the value of the label that tells arms apart; the empty value is that of series without it.
    pub arms: BTreeMap<String, u64>,
    /// What all of them together gained in a minute, over the last five.
    pub per_minute: f64,
}

/// Why a selector finds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is no such metric; names that begin like it.
    Metric(Vec<String>),
    /// The metric has no such label; those that it has.
    Label(String, Vec<String>),
    /// The label is there, without such a value; values that it has.
    Value(String, Vec<String>),
    /// Each matcher finds something, all together nothing.
    Together,
}

impl Prometheus {
    /// What `selector` finds now, by the label `arm`.
    ///
    /// # Errors
    /// As for a look.
    pub async fn survey(&self, selector: &Selector, arm: &str) -> Result<Survey, LookFault> {
        let text = promql::instant(&selector.metric, &selector.matchers.iter().collect::<Vec<_>>());
        let arms = self.by(arm, &text).await?;
        let gained = self.counted(&format!("sum(rate({text}[5m])) * 60")).await?;
        Ok(Survey { arms, per_minute: gained.first().map_or(0.0, |one| one.value) })
    }

    /// Why `selector` finds nothing.
    ///
    /// # Errors
    /// As for a look.
    pub async fn missing(&self, selector: &Selector) -> Result<Missing, LookFault> {
        let all = promql::instant(&selector.metric, &[]);
        if self.counted(&format!("count({all})")).await?.is_empty() {
            let begin = selector.metric.split('_').next().unwrap_or_default();
            let like = format!("count by (__name__) ({{__name__=~\"{}.*\"}})", regex::escape(begin).replace('\\', "\\\\"));
            let found = self.counted(&like).await?;
            let names = found.into_iter().filter_map(|mut one| one.labels.remove("__name__"));
            return Ok(Missing::Metric(names.take(TOLD).collect()));
        }
        for matcher in &selector.matchers {
            if !self.counted(&format!("count({})", promql::instant(&selector.metric, &[matcher]))).await?.is_empty() {
                continue;
            }
            let values = self.by(&matcher.label, &all).await?;
            if values.keys().any(|value| !value.is_empty()) {
                let values = values.into_keys().filter(|value| !value.is_empty()).take(TOLD).collect();
                return Ok(Missing::Value(shown(matcher), values));
            }
            return Ok(Missing::Label(matcher.label.clone(), self.labels(&selector.metric).await?));
        }
        Ok(Missing::Together)
    }

    /// The labels that a metric's series have.
    ///
    /// # Errors
    /// As for a look.
    pub async fn labels(&self, metric: &str) -> Result<Vec<String>, LookFault> {
        let series = self.counted(&promql::instant(metric, &[])).await?;
        let names: BTreeSet<String> = series.into_iter().flat_map(|one| one.labels.into_keys()).filter(|name| name != "__name__").collect();
        Ok(names.into_iter().collect())
    }

    /// Series of a selector, by the value of a label.
    async fn by(&self, label: &str, selector: &str) -> Result<BTreeMap<String, u64>, LookFault> {
        let mut name = String::new();
        if is_classic(label) {
            name.push_str(label);
        } else {
            push_quoted(&mut name, label);
        }
        let found = self.counted(&format!("count by ({name}) ({selector})")).await?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count
        let count = |one: &Counted| one.value as u64;
        Ok(found.iter().map(|one| (one.labels.get(label).cloned().unwrap_or_default(), count(one))).collect())
    }

    async fn counted(&self, promql: &str) -> Result<Vec<Counted>, LookFault> {
        let permit = self.budget.permit(self.timeout).await.map_err(LookFault::Down)?;
        answer::counted(self.query(promql, None, permit).await?)
    }
}

fn shown(matcher: &Matcher) -> String {
    promql::matchers(&[matcher])
}
