//! A rolling update that is only observed: nothing is driven, and a revert restores the template.

use std::time::Duration;

use backstop::world::clock;

use crate::bed;
use crate::guarded::{Guarded, PATIENCE};
use crate::shop::{self, Shop, Traffic};

/// The guard with another strategy.
fn with_strategy(guard: &str, strategy: &str) -> String {
    let (before, rest) = guard.split_once("  strategy:\n").expect("guard.yaml has a strategy");
    let (_, after) = rest.split_once("  watch:").expect("and then a watch");
    format!("{before}  strategy: {strategy}\n  watch:{after}").replace(", holdback: 10%", "")
}

#[test]
fn a_bad_rolling_update_that_is_only_observed_goes_back() {
    if let Some(missing) = shop::missing() {
        return bed::skip("a_bad_rolling_update_that_is_only_observed_goes_back", &missing);
    }
    let guarded = Guarded::start(Shop::open(), "observed", |guard| with_strategy(&guard, "{observe: {}}"));
    let traffic = Traffic::start(&guarded.shop.router);
    guarded.deploy(&guarded.shop.bad);
    assert!(!guarded.deployment()["spec"]["paused"].as_bool().unwrap_or(false), "what is observed is not paused");
    guarded.shop.until_ready(&guarded.shop.bad, 3);
    let status = guarded.until_phase("Reverted", PATIENCE);
    assert_eq!(status["stable"]["image"], guarded.shop.v1.as_str(), "{status:#}");
    guarded.shop.until_ready(&guarded.shop.v1, 3);
    let now = clock::instant();
    guarded.until("traffic", || traffic.visits().iter().any(|visit| visit.sent > now + Duration::from_secs(1)).then_some(()));
    assert!(traffic.visits().iter().filter(|visit| visit.sent > now).all(|visit| visit.said == "200 v1"), "good traffic alone");
}
