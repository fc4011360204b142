//! Where metrics and flags are: what guards only name.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one_second;
use crate::core::time::Span;

/// Where metrics come from, with its credentials and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardSource {
    /// A Prometheus API. Exactly one of `prometheus` and `scrape`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Exposition endpoints scraped directly. Exactly one of `prometheus` and `scrape`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape: Option<Scrape>,
    /// Namespaces whose rollouts may use it; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_namespaces: Vec<String>,
}

/// A Prometheus, or what speaks its HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prometheus {
    /// Base URL, to which `/api/v1/query` is added.
    pub url: String,
    /// The scrape interval of the watched series.
    pub scrape_interval: Span,
    /// Credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Further request headers, such as `X-Scope-OrgID`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Time a query may take. Absent: the scrape interval, at most 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Queries per second over all rollouts.
    #[serde(default = "fifty")]
    pub queries_per_second: u32,
    /// Queries under way at once.
    #[serde(default = "eight")]
    pub concurrency: u32,
}

fn fifty() -> u32 {
    50
}

fn eight() -> u32 {
    8
}

/// Exposition endpoints scraped directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scrape {
    /// The endpoints; their series are put together. Exactly one of `urls` and `pods`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// In a cluster: the pods of each rollout that is judged through this source, every one at its own address. Exactly one of
    /// `urls` and `pods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodEndpoint>,
    /// Time between scrapes.
    #[serde(default = "one_second")]
    pub every: Span,
    /// Credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

/// Where a pod serves its metrics. Its series get the labels `namespace` and `pod`, whatever it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodEndpoint {
    /// Port.
    pub port: u16,
    /// Path.
    #[serde(default = "metrics")]
    pub path: String,
}

fn metrics() -> String {
    "/metrics".to_owned()
}

/// Credentials, read from a file at each use so that they can be rotated; never written in a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer {
        /// File that holds the token; relative to the file this is written in.
        token_file: String,
    },
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        username: String,
        /// File that holds the password; relative to the file this is written in.
        password_file: String,
    },
}

/// Where a flag lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlagTarget {
    /// A flag definition file as flagd reads it.
    pub file: FlagFile,
    /// Namespaces whose rollouts may use it; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_namespaces: Vec<String>,
}

/// A flag definition file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlagFile {
    /// Path of the file; relative to the file this is written in.
    pub path: String,
}
