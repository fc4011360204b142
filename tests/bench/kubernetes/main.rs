//! What backstop needs on a real control plane with hundreds of canaries, beside its budgets and what its peers need there:
//!
//! ```text
//! cargo bench --bench kubernetes              all of it, in about half an hour
//! cargo bench --bench kubernetes -- storm     one part: latency, storm, failover or many
//! ```
//!
//! API server, etcd, controllers, scheduler and simulated pods share the machine with it, as they did when the peers were measured
//! (Argo Rollouts 1.10.1 and Flagger 1.44.0 on two cores). It prints a table and never fails for being slow.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails by panicking")]

#[path = "../../bed/mod.rs"]
mod bed;
#[path = "../../cluster/mod.rs"]
mod cluster;
#[path = "../../kubernetes_run/images.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod images;
#[path = "../process.rs"]
mod process;
#[path = "../../attestation/bed.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod registry;
#[path = "../../kubernetes_run/replica.rs"]
#[allow(dead_code, reason = "a part of it is needed here")]
mod replica;
#[path = "../table.rs"]
mod table;

mod source;
mod town;

use std::collections::BTreeMap;
use std::time::Duration;

use backstop::world::clock;

use self::table::{Against, Table, quantile};
use self::town::{Controller, Town, Write};

/// Services that breach one after the other, and that the first storm takes.
const FEW: usize = 100;
/// Services that the second storm takes.
const ALL: usize = 500;
/// Services whose guard dies with their breach pending.
const FAILOVER: usize = 20;

#[tokio::main]
async fn main() {
    // `cargo bench` hands `--bench` on; what remains names parts.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    if let Some(missing) = replica::missing() {
        println!("there is no {missing} here: `./tests/run` installs it");
        return;
    }
    let mut table = Table::default();
    if wants("latency") || wants("storm") || wants("failover") {
        let storm = wants("storm");
        let services: Vec<usize> = (0..if storm { ALL } else { FEW }).collect();
        println!("a town of {} services", services.len());
        let town = Town::build(services.len(), 2, 1000).await;
        let mut controller = town.controller("a");
        town.adopt(&controller, &services).await;
        if wants("latency") {
            latency(&town, &services[..FEW], &mut table).await;
        }
        if storm {
            // Their decisive samples are there in the same instant.
            town.source.scrape_together(true);
            breaches(&town, "v3", &services[..FEW], (2.0, "Argo Rollouts", 22.0), &mut table).await;
            breaches(&town, "v4", &services, (10.0, "Argo Rollouts", 72.0), &mut table).await;
            held_back(&town, &services[..FEW], &mut table).await;
        }
        if wants("failover") {
            controller = restart(&town, controller, &services, &mut table).await;
            failover(&town, controller, &services[..FAILOVER], &mut table).await;
        }
    }
    if wants("many") {
        many(&mut table).await;
    }
    let over = table.over_budget();
    println!(
        "\n{}",
        if over.is_empty() { "Everything is within its budget.".to_owned() } else { format!("Over budget:\n  {}", over.join("\n  ")) }
    );
}

/// The first write of such an object for each of these services after `since` (microseconds) that the API server took. One whose answer
/// came too late for whoever asked may have been kept, and is not made again.
fn first_writes(town: &Town, services: &[usize], since: i64, resource: &str) -> Vec<Write> {
    let writes = town.writes();
    let first = |number: &usize| {
        let of_it = writes.iter().filter(|write| {
            write.resource == resource && write.number == *number && write.at >= since && (write.code < 300 || write.code >= 500)
        });
        of_it.min_by_key(|write| write.at).cloned()
    };
    services.iter().filter_map(first).collect()
}

/// One breach after the other: from the answer that held the decisive sample until the write that takes the traffic back came in.
async fn latency(town: &Town, services: &[usize], table: &mut Table) {
    let v2 = town.build.image("v2");
    let services = &town.deploy(&v2, services).await[..];
    let since = clock::wall().as_microsecond();
    for number in services {
        town.source.flip(*number);
        tokio::time::sleep(Duration::from_millis(310)).await;
    }
    town.until_all("each one is back", services, |status| status["phase"] != "Advancing").await;
    let writes = first_writes(town, services, since, "httproutes");
    let millis = |from: i64, to: i64| (to - from) as f64 / 1000.0;
    let mut sent: Vec<f64> =
        writes.iter().filter_map(|write| Some(millis(town.source.last_answer(write.number, write.at)?, write.at))).collect();
    let mut taken: Vec<f64> =
        writes.iter().filter_map(|write| Some(millis(town.source.last_answer(write.number, write.at)?, write.done))).collect();
    assert_eq!(sent.len(), services.len(), "each has its traffic back");
    table.section(format!("{} breaches one after the other", services.len()));
    table.row("decisive sample to first traffic write, median", quantile(&mut sent, 0.5), "ms", Against::Budget(50.0));
    table.row("decisive sample to first traffic write, p99", quantile(&mut sent, 0.99), "ms", Against::Budget(150.0));
    table.row("the same until it was kept, median", quantile(&mut taken, 0.5), "ms", Against::Other("Argo Rollouts", 58.0));
    table.print_last();
    town.until_all("each one has recovered", services, |status| status["phase"] == "Reverted").await;
}

/// All of them at once.
async fn breaches(town: &Town, tag: &str, services: &[usize], (budget, peer, needs): (f64, &'static str, f64), table: &mut Table) {
    let image = town.build.image(tag);
    let services = &town.deploy(&image, services).await[..];
    let since = clock::wall().as_microsecond();
    for number in services {
        town.source.flip(*number);
    }
    town.until("each one's template is back", || async { town.restored(services, since).len() == services.len() }).await;
    let (routes, templates) = (first_writes(town, services, since, "httproutes"), town.restored(services, since));
    assert_eq!((routes.len(), templates.len()), (services.len(), services.len()), "each is back");
    // A source is asked at its own pace, and three scrapes show a breach: the budget is for what comes after.
    let decided: BTreeMap<usize, i64> =
        routes.iter().filter_map(|write| Some((write.number, town.source.last_answer(write.number, write.at)?))).collect();
    let after = |done: &mut dyn Iterator<Item = (usize, i64)>| -> Vec<f64> {
        done.filter_map(|(number, at)| Some((at - decided.get(&number)?) as f64 / 1e6)).collect()
    };
    table.section(format!("{} breaches at once, breaker off", services.len()));
    let (mut back, mut restored) = (after(&mut routes.iter().map(|write| (write.number, write.done))), after(&mut templates.into_iter()));
    table.row("decisive sample to traffic back: median", quantile(&mut back, 0.5), "s", Against::Nothing);
    table.row("decisive sample to traffic back: the last", quantile(&mut back, 1.0), "s", Against::Budget(budget));
    table.row("decisive sample to template restored: median", quantile(&mut restored, 0.5), "s", Against::Nothing);
    table.row("decisive sample to template restored: the last", quantile(&mut restored, 1.0), "s", Against::Budget(30.0));
    let mut whole = seconds(&routes, since);
    table.row("first failing request to traffic back: the first", quantile(&mut whole, 0.0), "s", Against::Nothing);
    table.row("first failing request to traffic back: median", quantile(&mut whole, 0.5), "s", Against::Nothing);
    table.row("first failing request to traffic back: the last", quantile(&mut whole, 1.0), "s", Against::Other(peer, needs));
    table.print_last();
    town.until_all("each one has recovered", services, |status| status["phase"] == "Reverted").await;
}

fn seconds(writes: &[Write], since: i64) -> Vec<f64> {
    writes.iter().map(|write| (write.done - since) as f64 / 1e6).collect()
}

/// With the breaker on, traffic goes back and templates wait.
async fn held_back(town: &Town, services: &[usize], table: &mut Table) {
    town.breaker(true);
    let image = town.build.image("v5");
    let services = &town.deploy(&image, services).await[..];
    let since = clock::wall().as_microsecond();
    for number in services {
        town.source.flip(*number);
    }
    town.until_all("each one has its traffic back", services, |status| status["phase"] != "Advancing").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (routes, templates) = (first_writes(town, services, since, "httproutes").len(), town.restored(services, since).len());
    table.section(format!("{} breaches at once, breaker on, 5 s later", services.len()));
    table.row("traffic back", routes as f64, "services", Against::Nothing);
    table.row("templates restored: the rest waits for a person", templates as f64, "services", Against::Nothing);
    table.print_last();
    town.breaker(false);
    town.until_all("the rest is restored, the breaker off", services, |status| status["phase"] == "Reverted").await;
}

/// The only replica dies with a breach pending, and starts again.
async fn restart(town: &Town, controller: Controller, services: &[usize], table: &mut Table) -> Controller {
    let one = &services[..1];
    let one = &town.deploy(&town.build.image("v6"), one).await[..];
    drop(controller);
    town.source.flip(one[0]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let since = clock::wall().as_microsecond();
    let controller = town.controller("a");
    town.until_all("it has its traffic back", one, |status| status["phase"] != "Advancing").await;
    let back = seconds(&first_writes(town, one, since, "httproutes"), since);
    table.section(format!("one replica with {} guards starts again with a breach pending", services.len()));
    table.row("from its start until the traffic is back", back[0], "s", Against::Budget(0.5));
    table.print_last();
    town.until_all("it has recovered", one, |status| status["phase"] == "Reverted").await;
    controller
}

/// One of two replicas dies with breaches pending.
async fn failover(town: &Town, first: Controller, services: &[usize], table: &mut Table) {
    let _second = town.controller("b");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let services = &town.deploy(&town.build.image("v7"), services).await[..];
    for number in services {
        town.source.flip(*number);
    }
    // Three scrapes show a breach; they are under way.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let since = clock::wall().as_microsecond();
    drop(first);
    town.until_all("each one has its traffic back", services, |status| status["phase"] != "Advancing").await;
    let mut back = seconds(&first_writes(town, services, since, "httproutes"), since);
    assert_eq!(back.len(), services.len());
    table.section(format!("one of two replicas dies with {} breaches pending", services.len()));
    table.row("traffic back after its end: the first", quantile(&mut back, 0.0), "s", Against::Nothing);
    table.row("traffic back after its end: the last", quantile(&mut back, 1.0), "s", Against::Budget(5.0));
    table.print_last();
}

/// Two thousand guarded Deployments, five hundred of them in mid-canary, and nothing happens.
async fn many(table: &mut Table) {
    const GUARDS: usize = 2_000;
    const MINUTES: u64 = 3;
    println!("a town of {GUARDS} services");
    let town = Town::build(GUARDS, 1, 5000).await;
    let controller = town.controller("a");
    let (all, canaries): (Vec<usize>, Vec<usize>) = ((0..GUARDS).collect(), (0..ALL).collect());
    town.adopt(&controller, &all).await;
    let (resting, _) = controller.used();
    let _ = town.deploy(&town.build.image("v2"), &canaries).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let (missed, looks, requests, writes) =
        (controller.counted("looks_missed"), controller.counted("looks"), town.requests(), town.writes().len());
    let (_, before) = controller.used();
    tokio::time::sleep(Duration::from_mins(MINUTES)).await;
    let (memory, after) = controller.used();
    let seconds = (MINUTES * 60) as f64;
    table.section(format!("{GUARDS} guarded Deployments, {ALL} in mid-canary, a look at each of these every 5 s, for {MINUTES} min"));
    table.row("memory, nothing on trial", resting, "MB", Against::Nothing);
    table.row("memory", memory, "MB", Against::Budget(150.0));
    table.row("processor", after.saturating_sub(before).as_secs_f64() / seconds, "cores", Against::Nothing);
    table.row("looks", (controller.counted("looks") - looks) / seconds, "per s", Against::Nothing);
    table.row("looks missed", controller.counted("looks_missed") - missed, "", Against::Budget(0.0));
    table.row("requests to the API server", (town.requests() - requests) / seconds, "per s", Against::Nothing);
    table.row("of these, writes", (town.writes().len() - writes) as f64 / seconds, "per s", Against::Nothing);
    table.print_last();
}
