//! Alerts that Alertmanager sends: its webhook, version 4.
//!
//! Alertmanager signs nothing, so each receiver has a bearer token of its own, which may report only the alerts that
//! it is bound to; which rollout an alert concerns is said by the rollouts, never by the sender. Alertmanager repeats
//! what gets a 5xx and drops what gets a 4xx: everything that may yet succeed is answered 503.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use tokio::time::timeout;

use crate::core::input::{Alerted, Input};
use crate::shell::handle::{Handle, SendError};

use super::limits::Limits;
use super::problem::Problem;

pub mod payload;
pub mod receiver;
pub mod subscription;

use payload::{Alert, Payload};
use receiver::{Receiver, ReceiverError, Receivers};
use subscription::{Subscription, Subscriptions};

/// Largest body.
const BODY_LIMIT: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// One alert for one rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The rollout: `namespace/name`.
    pub rollout: String,
    /// The alert.
    pub alerted: Alerted,
}

/// The webhook's end: who may send, who listens, and where alerts go.
#[derive(Debug)]
pub struct Alerts {
    receivers: Receivers,
    subscriptions: RwLock<Arc<Subscriptions>>,
    handle: Handle,
    limits: Limits,
}

impl Alerts {
    /// What these receivers send goes to the rollouts behind `handle`.
    ///
    /// # Errors
    /// The receivers cannot be used.
    pub fn new(receivers: Vec<Receiver>, handle: Handle) -> Result<Self, ReceiverError> {
        Ok(Self { receivers: Receivers::new(receivers)?, subscriptions: RwLock::default(), handle, limits: Limits::default() })
    }

    /// Replaces what rollouts listen to. Call it whenever a guard comes, changes or goes.
    pub fn listen(&self, subscriptions: Vec<Subscription>) {
        *self.subscriptions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Subscriptions::new(subscriptions));
    }

    async fn take(&self, receiver: &Receiver, payload: Payload) -> Result<Response, Problem> {
        let subscriptions = Arc::clone(&self.subscriptions.read().unwrap_or_else(PoisonError::into_inner));
        if payload.truncated > 0 {
            let (receiver, truncated) = (&receiver.name, payload.truncated);
            tracing::warn!(receiver, truncated, "Alertmanager left out alerts; set `max_alerts: 0` in its webhook_config");
        }
        let accepted = payload.alerts.len();
        let (bound, foreign): (Vec<Alert>, Vec<Alert>) = payload.alerts.into_iter().partition(|alert| receiver.may_send(alert.name()));
        let deliveries: Vec<Delivery> = bound.iter().flat_map(|alert| subscriptions.deliveries(alert)).collect();
        let count = deliveries.len();
        if count > 0 {
            self.limits.alerts(&receiver.name, count)?;
            self.deliver(deliveries).await?;
        }
        // What this receiver may send has been taken: one alert routed wrongly must not cost a revert.
        if let Some(alert) = foreign.first() {
            let detail = format!(
                "receiver `{}` is not bound to the alert `{}`; {} of {accepted} alerts were left out. Add it to the receiver's `alerts`, or route it elsewhere",
                receiver.name,
                alert.name(),
                foreign.len()
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, detail).with_code(NOT_ALLOWED));
        }
        let body = json!({"alerts": accepted, "deliveries": count, "truncated": payload.truncated});
        Ok((StatusCode::ACCEPTED, Json(body)).into_response())
    }

    /// Gives every rollout its alerts, side by side: one that takes nothing in costs the others nothing. What is sent again because of it
    /// changes nothing where it was taken already.
    async fn deliver(&self, deliveries: Vec<Delivery>) -> Result<(), Problem> {
        let mut lines: BTreeMap<String, Vec<Input>> = BTreeMap::new();
        for Delivery { rollout, alerted } in deliveries {
            lines.entry(rollout).or_default().push(Input::Alerted(alerted));
        }
        let told = lines.into_iter().map(|(rollout, alerts)| async move { self.handle.tell_all(&rollout, alerts).await });
        let missed: Vec<SendError> = futures::future::join_all(told).await.into_iter().filter_map(Result::err).collect();
        let Some(first) = missed.first() else { return Ok(()) };
        tracing::warn!(rollouts = missed.len(), error = %first, "alerts were not taken; Alertmanager is told to send them again");
        let what = format!("{} rollouts did not take their alerts: {first}; send this again", missed.len());
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what))
    }
}

/// The code of `Reason::NotAllowed`.
const NOT_ALLOWED: &str = "BS056";

/// `POST /v1/alerts`, to be merged into the API.
pub fn router(alerts: Arc<Alerts>) -> Router {
    Router::new().route("/v1/alerts", post(receive)).with_state(alerts)
}

/// Takes what an Alertmanager sends.
///
/// 202: every rollout has them in its line. 401: no or a wrong token. 403: this token may not report one of these alerts. 408, 413, 422: too slow,
/// too large, not such a payload. 503: not now. Errors are problem documents.
pub async fn receive(State(alerts): State<Arc<Alerts>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let receiver = alerts.receivers.authenticate(&headers).await?;
    let payload = Payload::parse(&read(body).await?)?;
    alerts.take(receiver, payload).await
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error))
            if std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) =>
        {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB; lower `max_alerts` in the webhook_config"))
        }
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 5 s")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header;
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::receiver::Token;
    use super::*;
    use crate::core::reason::Reason;
    use crate::core::spec::{Rule, Trust};
    use crate::shell::handle::Message;

    /// As Alertmanager 0.25 sends it, with a field that no version has yet.
    const PAYLOAD: &str = r#"{"receiver": "backstop", "status": "firing", "notYetKnown": 1, "alerts": [
        {"status": "firing", "labels": {"alertname": "CheckoutBurningBudget", "namespace": "shop", "severity": "page"}, "annotations": {},
         "startsAt": "2026-03-01T12:00:00.5+02:00", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": "89fdc1a5b0b5d2c1"},
        {"status": "resolved", "labels": {"alertname": "CheckoutSlow", "severity": "ticket"}, "annotations": {},
         "startsAt": "2026-03-01T10:00:00Z", "endsAt": "2026-03-01T11:00:00Z", "generatorURL": "", "fingerprint": "00fdc1a5b0b5d2c1"}],
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "version": "4", "groupKey": "{}", "truncatedAlerts": 0}"#;

    fn listens(rollout: &str, rules: Value) -> Subscription {
        Subscription::new(rollout, &serde_json::from_value::<Vec<Rule>>(rules).unwrap()).unwrap()
    }

    /// What arrives at one rollout.
    struct Queue(mpsc::Receiver<Message>);

    impl Queue {
        fn take(&mut self) -> Vec<Alerted> {
            let arrived = std::iter::from_fn(|| self.0.try_recv().ok());
            let alerted = |message: Message| match *message.input {
                Input::Alerted(alerted) => alerted,
                other => panic!("{other:?}"),
            };
            arrived.map(alerted).collect()
        }
    }

    /// The webhook's end, and what arrives at `shop/checkout` and `shop/cart`.
    fn alerts(bound: &[&str], places: usize) -> (Arc<Alerts>, Queue, Queue) {
        let handle = Handle::new();
        let [checkout_queue, cart_queue] = ["shop/checkout", "shop/cart"].map(|key| Queue(handle.connect_to_nobody(key, places)));
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
        let bound = bound.iter().map(|&name| name.into()).collect();
        let receiver = Receiver { name: "edge".into(), token: Token::Sha256(hash.into()), alerts: bound };
        let alerts = Alerts::new(vec![receiver], handle).unwrap();
        let alert = |matchers: &[&str], trust| json!({"alert": {"matchers": matchers, "trust": trust}});
        let checkout = json!([
            alert(&["severity=~\"page|ticket\""], "wait"),
            alert(&["alertname=\"CheckoutBurningBudget\"", "namespace=\"shop\""], "revert"),
        ]);
        let cart =
            json!([alert(&["alertname=\"CheckoutSlow\""], "wait"), alert(&["alertname=\"CheckoutSlow\"", "namespace!=\"\""], "revert")]);
        alerts.listen(vec![
            listens("shop/checkout", checkout),
            listens("shop/cart", cart),
            listens("shop/silent", json!([alert(&[], "revert")])),
        ]);
        (Arc::new(alerts), checkout_queue, cart_queue)
    }

    async fn post(alerts: &Arc<Alerts>, token: &str, body: impl Into<Body>) -> (u16, Value) {
        let headers = [(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect();
        let response = receive(State(Arc::clone(alerts)), headers, body.into()).await.into_response();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(response.into_body(), BODY_LIMIT).await.unwrap()).unwrap())
    }

    fn alerted(name: &str, fingerprint: &str, starts_at: &str, firing: bool, trust: Trust) -> Alerted {
        Alerted { name: name.into(), fingerprint: fingerprint.into(), starts_at: starts_at.parse().unwrap(), firing, trust }
    }

    /// This many alerts that `shop/checkout` listens to, with one that `shop/cart` does.
    fn storm(of: usize) -> String {
        let alert = |name: &str, number: usize| {
            json!({"status": "firing", "labels": {"alertname": name, "severity": "page"}, "startsAt": "2026-03-01T10:00:00Z",
                "fingerprint": format!("{number}")})
        };
        let mut alerts: Vec<Value> = (0..of).map(|number| alert(BOTH[0], number)).collect();
        alerts.push(alert(BOTH[1], of));
        json!({"version": "4", "alerts": alerts}).to_string()
    }

    const BOTH: &[&str] = &["CheckoutBurningBudget", "CheckoutSlow"];

    #[tokio::test]
    async fn alerts_reach_the_rollouts_that_listen() {
        let (alerts, mut checkout, mut cart) = alerts(BOTH, 4);
        assert_eq!(post(&alerts, "secret", PAYLOAD).await, (202, json!({"alerts": 2, "deliveries": 3, "truncated": 0})));
        let burning = alerted(BOTH[0], "89fdc1a5b0b5d2c1", "2026-03-01T10:00:00.5Z", true, Trust::Revert);
        let slow = alerted(BOTH[1], "00fdc1a5b0b5d2c1", "2026-03-01T10:00:00Z", false, Trust::Wait);
        assert_eq!((checkout.take(), cart.take()), (vec![burning, slow.clone()], vec![slow]));
        // Nobody listens any more: accepted all the same, there is nothing to repeat.
        alerts.listen(vec![]);
        assert_eq!(post(&alerts, "secret", PAYLOAD).await.1["deliveries"], 0);
        assert!(checkout.take().is_empty());
    }

    #[tokio::test]
    async fn a_storm_waits_for_room_and_nothing_of_it_is_lost() {
        let (alerts, mut checkout, _cart) = alerts(BOTH, 64);
        let taken = async {
            let mut taken = 0;
            while taken < 301 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                taken += checkout.take().len();
            }
        };
        let both = async { tokio::join!(post(&alerts, "secret", storm(300)), taken).0 };
        let (status, said) = timeout(Duration::from_secs(4), both).await.unwrap();
        assert_eq!((status, &said["deliveries"]), (202, &json!(302)));
    }

    #[tokio::test]
    async fn a_rollout_that_takes_nothing_in_is_worth_another_try_and_costs_the_others_nothing() {
        let (alerts, mut checkout, mut cart) = alerts(BOTH, 1);
        let sent = tokio::spawn({
            let alerts = Arc::clone(&alerts);
            async move { post(&alerts, "secret", storm(1)).await }
        });
        let heard = timeout(Duration::from_secs(1), cart.0.recv()).await;
        assert!(heard.is_ok_and(|heard| heard.is_some()), "at once");
        let (status, problem) = sent.await.unwrap();
        assert_eq!(status, 503);
        assert!(problem["detail"].as_str().unwrap().contains("shop/checkout has too many requests waiting"), "{problem}");
        assert_eq!(checkout.take().len(), 1);
        drop(checkout);
        assert_eq!(post(&alerts, "secret", storm(1)).await.0, 503, "nobody looks after it now");
    }

    #[tokio::test]
    async fn a_token_reports_only_what_it_is_bound_to() {
        let (alerts, mut checkout, _cart) = alerts(&["CheckoutBurningBudget"], 1);
        let (status, problem) = post(&alerts, "secret", PAYLOAD).await;
        assert_eq!((status, problem["code"].as_str()), (403, Some(Reason::NotAllowed { what: String::new() }.code())));
        assert!(problem["detail"].as_str().unwrap().contains("`CheckoutSlow`; 1 of 2"), "{problem}");
        assert_eq!(checkout.take().len(), 1, "the alert that it is bound to counts");

        let (status, problem) = post(&alerts, "Secret", PAYLOAD).await;
        assert_eq!((status, problem["title"].as_str()), (401, Some("Unauthorized")));
        assert!(checkout.take().is_empty());
    }

    #[tokio::test]
    async fn other_shapes_are_refused_by_name() {
        let (alerts, ..) = alerts(BOTH, 1);
        let many = format!(
            r#"{{"version": "4", "alerts": [{}]}}"#,
            vec![r#"{"status":"firing","labels":{"alertname":"CheckoutSlow"},"startsAt":"2026-03-01T10:00:00Z","fingerprint":"1"}"#; 1001]
                .join(",")
        );
        for (body, status, part) in [
            (PAYLOAD.replace(r#""version": "4""#, r#""version": "5""#), 422, "\"5\"; only \"4\""),
            (PAYLOAD.replace(r#""version": "4""#, r#""version": 4"#), 422, "invalid type"),
            (PAYLOAD.replace("alertname", "name"), 422, "alerts[0] has no label `alertname`"),
            (PAYLOAD.replace("89fdc1a5b0b5d2c1", ""), 422, "alerts[0] has no fingerprint"),
            (PAYLOAD.replace("2026-03-01T10:00:00Z", "yesterday"), 422, "not a payload"),
            ("payload=1".into(), 422, "not a payload"),
            (String::new(), 422, "not a payload"),
            (many, 413, "1001 alerts, at most 1000"),
            (" ".repeat(BODY_LIMIT + 1), 413, "1 MiB"),
        ] {
            let (got, problem) = post(&alerts, "secret", body).await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(got == status && detail.contains(part), "{got}: {detail}");
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_cut_off() {
        let (alerts, ..) = alerts(BOTH, 1);
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(post(&alerts, "secret", body).await.0, 408);
    }
}
