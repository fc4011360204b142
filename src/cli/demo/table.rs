//! What came of the demo, in a table.

use std::time::Duration;

use serde_json::json;

use super::script::Outcome;
use crate::cli::text;
use crate::cli::{Context, context};
use crate::error::Error;
use crate::world::audit::Verified;

pub(super) fn print(
    context: &Context,
    outcomes: &[Outcome],
    audited: &Result<Verified, String>,
    took: Duration,
    all_well: bool,
) -> Result<(), Error> {
    if context.json {
        return json_lines(outcomes, audited, took, all_well);
    }
    let time = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), |time| format!("{:.3} s", time.as_secs_f64()));
    let mut rows = vec![
        ["", "what", "how it ended", "detected after", "bad requests", "traffic back", "release back", "dropped"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for outcome in outcomes {
        rows.push(vec![
            format!("{} {}", if outcome.as_it_must { "✔" } else { "✖" }, outcome.letter),
            outcome.title.clone(),
            outcome.ended.clone(),
            time(outcome.detection),
            outcome.bad.to_string(),
            time(outcome.traffic_back),
            time(outcome.release_back),
            outcome.dropped.to_string(),
        ]);
    }
    let audit = match audited {
        Ok(found) => {
            format!("audit log verified: {} entries, {} checkpoints, {} ledger records", found.entries, found.checkpoints, found.ledger)
        }
        Err(what) => format!("AUDIT LOG NOT VERIFIED: {what}"),
    };
    context.say(&format!("\n{}\n{audit}\n{}", text::table(&rows), summary(took, all_well)))
}

fn summary(took: Duration, all_well: bool) -> String {
    let end = if all_well { "every scene ended as it must" } else { "A SCENE DID NOT END AS IT MUST" };
    format!("{end}; {:.0} s", took.as_secs_f64())
}

fn json_lines(outcomes: &[Outcome], audited: &Result<Verified, String>, took: Duration, all_well: bool) -> Result<(), Error> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    for outcome in outcomes {
        let line = json!({"kind": "outcome", "scene": outcome.letter.to_string(), "title": outcome.title, "ended": outcome.ended,
            "asItMust": outcome.as_it_must, "detectionSeconds": seconds(outcome.detection), "badRequests": outcome.bad,
            "trafficBackSeconds": seconds(outcome.traffic_back), "releaseBackSeconds": seconds(outcome.release_back), "dropped": outcome.dropped});
        context::print(&line.to_string())?;
    }
    let (entries, what) = match audited {
        Ok(found) => (Some(found.entries), None),
        Err(what) => (None, Some(what)),
    };
    let line = json!({"kind": "end", "allWell": all_well, "seconds": took.as_secs_f64(), "auditVerified": audited.is_ok(), "auditEntries": entries, "auditBroken": what});
    context::print(&line.to_string())
}
