//! The JSON of the query API as values. What cannot be trusted is a fault, never a guess.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::core::input::{LookFault, Sample};
use crate::world::endpoint::excerpt;

#[derive(Deserialize)]
struct Envelope {
    status: Status,
    data: Option<Data>,
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    error: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    /// Set by `VictoriaMetrics` when a part of its storage did not answer.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Success,
    Error,
}

/// The result of a query by its type.
#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub(super) enum Data {
    Matrix(Vec<Row>),
    Vector(Vec<Point>),
    Scalar((f64, String)),
    String(IgnoredAny),
}

impl Data {
    fn name(&self) -> &'static str {
        match self {
            Self::Matrix(_) => "matrix",
            Self::Vector(_) => "vector",
            Self::Scalar(_) => "scalar",
            Self::String(_) => "string",
        }
    }
}

/// One series of a matrix.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    histograms: Option<IgnoredAny>,
}

/// One series of a vector.
#[derive(Deserialize)]
pub(super) struct Point {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
}

impl Row {
    /// The samples in order: finite values not below zero, at rising times.
    pub(super) fn samples(&self) -> Result<Vec<Sample>, LookFault> {
        let invalid = |what: &str| Err(LookFault::Invalid(format!("{} {what}", self.name())));
        if self.histograms.is_some() {
            return invalid("is a native histogram: only counters and classic buckets can be read");
        }
        let mut samples: Vec<Sample> = Vec::with_capacity(self.values.len());
        for (seconds, text) in &self.values {
            let Some(at) = millis(*seconds) else { return invalid(&format!("has a sample at {seconds} s, which is no time")) };
            let value = match text.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= 0.0 => value,
                Ok(value) => return invalid(&format!("has the value {value}: a counter is finite and never below zero")),
                Err(_) => return invalid(&format!("has the value `{}`, which is not a number", excerpt(text))),
            };
            if samples.last().is_some_and(|last| last.at >= at) {
                return invalid("has samples that are not in order of time");
            }
            samples.push(Sample { at, value });
        }
        Ok(samples)
    }

    fn name(&self) -> String {
        excerpt(&format!("`{}`", self.metric.get("__name__").map_or("a series without a name", String::as_str)))
    }
}

/// Seconds as whole milliseconds.
#[allow(clippy::cast_possible_truncation)] // in range: checked
fn millis(seconds: f64) -> Option<i64> {
    (seconds.abs() < 253_402_300_800.0).then(|| (seconds * 1000.0).round() as i64)
}

/// The data of an answer with status 200.
pub(super) fn data(body: &[u8]) -> Result<Data, LookFault> {
    let envelope: Envelope = serde_json::from_slice(body)
        .map_err(|error| LookFault::Invalid(format!("the answer is not that of a Prometheus API: {}", excerpt(&error.to_string()))))?;
    if matches!(envelope.status, Status::Error) {
        let text = excerpt(&envelope.error.unwrap_or_else(|| "an error without a text".to_owned()));
        return Err(match envelope.error_type.as_deref() {
            Some("bad_data" | "execution") => LookFault::Rejected(text),
            _ => LookFault::Down(text),
        });
    }
    let warnings = envelope.warnings.unwrap_or_default();
    if let Some(first) = warnings.first() {
        let more = if warnings.len() > 1 { format!(" (and {} more)", warnings.len() - 1) } else { String::new() };
        return Err(LookFault::Partial(format!("{}{more}", excerpt(first))));
    }
    if envelope.is_partial {
        return Err(LookFault::Partial("a part of the storage did not answer".to_owned()));
    }
    envelope.data.ok_or_else(|| LookFault::Invalid("the answer has no data".to_owned()))
}

/// The rows of a matrix.
pub(super) fn matrix(data: Data) -> Result<Vec<Row>, LookFault> {
    match data {
        Data::Matrix(rows) => Ok(rows),
        other => Err(LookFault::Invalid(format!("the answer is a {}, expected a matrix", other.name()))),
    }
}

/// A number with its labels.
pub(super) struct Counted {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

/// The numbers of a vector.
pub(super) fn counted(data: Data) -> Result<Vec<Counted>, LookFault> {
    let Data::Vector(points) = data else { return Err(LookFault::Invalid(format!("the answer is a {}, expected a vector", data.name()))) };
    let read = |point: Point| {
        let value = point.value.and_then(|(_, text)| text.parse().ok());
        Some(Counted { labels: point.metric, value: value? })
    };
    Ok(points.into_iter().filter_map(read).collect())
}

/// The one number of a scalar or of a vector with one element.
pub(super) fn number(data: Data) -> Result<f64, LookFault> {
    let text = match data {
        Data::Scalar((_, text)) => text,
        Data::Vector(points) => match points.as_slice() {
            [] => return Err(LookFault::Invalid("the query gives no sample".to_owned())),
            [Point { value: Some((_, text)), .. }] => text.clone(),
            [_] => return Err(LookFault::Invalid("the query gives a native histogram, expected a number".to_owned())),
            several => {
                return Err(LookFault::Rejected(format!("the query gives {} series, expected one: aggregate them", several.len())));
            }
        },
        other => return Err(LookFault::Rejected(format!("the query gives a {}, expected a scalar", other.name()))),
    };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) => Err(LookFault::Invalid(format!("the query gives {value}, which is no finite number"))),
        Err(_) => Err(LookFault::Invalid(format!("the query gives `{}`, which is not a number", excerpt(&text)))),
    }
}

/// What a failed answer says, as far as it says anything.
pub(super) fn error_text(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Envelope>(body).ok().and_then(|envelope| envelope.error);
    let text = excerpt(&said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned()));
    if text.is_empty() { "the source gave no reason".to_owned() } else { text }
}
