//! What Alertmanager posts: version 4 of its webhook payload.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;

use crate::core::input::Alerted;
use crate::core::spec::Trust;

use super::super::problem::Problem;

/// Most alerts in one payload.
const ALERT_LIMIT: usize = 1000;
/// Longest fingerprint; Alertmanager's have 16 characters.
const FINGERPRINT_LIMIT: usize = 64;

/// A payload. Fields that are not read may come and go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    version: String,
    /// Alerts that were left out because of `max_alerts`.
    #[serde(default, rename = "truncatedAlerts")]
    pub truncated: u64,
    /// The alerts of one group. Each has its own status; the group's says nothing about them.
    pub alerts: Vec<Alert>,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    status: Status,
    /// Its labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    starts_at: jiff::Timestamp,
    fingerprint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Firing,
    Resolved,
}

impl Payload {
    /// Reads a body: 422 if it is not a version 4 payload, 413 if it has more than 1,000 alerts.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        let payload: Self = serde_json::from_slice(body)
            .map_err(|error| wrong(format!("not a payload of Alertmanager's webhook: {error}; custom payloads are not read")))?;
        if payload.version != "4" {
            return Err(wrong(format!("payload version {:?}; only \"4\" is known", payload.version.chars().take(16).collect::<String>())));
        }
        if payload.alerts.len() > ALERT_LIMIT {
            let detail = format!("{} alerts, at most {ALERT_LIMIT}; group by more labels or set `max_alerts`", payload.alerts.len());
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        for (at, alert) in payload.alerts.iter().enumerate() {
            if alert.name().is_empty() {
                return Err(wrong(format!("alerts[{at}] has no label `alertname`")));
            }
            if alert.fingerprint.is_empty() || alert.fingerprint.len() > FINGERPRINT_LIMIT {
                return Err(wrong(format!("alerts[{at}] has no fingerprint of 1 to {FINGERPRINT_LIMIT} characters")));
            }
        }
        Ok(payload)
    }
}

impl Alert {
    /// Its name.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }

    /// What the machine gets to know of it.
    pub fn alerted(&self, trust: Trust) -> Alerted {
        Alerted {
            name: self.name().to_owned(),
            fingerprint: self.fingerprint.clone(),
            starts_at: self.starts_at,
            firing: self.status == Status::Firing,
            trust,
        }
    }
}
