//! What backstop needs, beside its budgets and what its peers need for the same:
//!
//! ```text
//! cargo bench --bench bench              all of it, in about two minutes
//! cargo bench --bench bench -- judge     one part: watched, judge, replay, evidence, storm, program or reverts
//! ```
//!
//! It prints a table and never fails for being slow: figures depend on the machine, ratios hardly. Peers' figures were
//! measured on two cores: Argo Rollouts 1.10.1 and Flagger 1.44.0 with a real API server, this program with everything else.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails by panicking")]

mod evidence;
mod guards;
mod judge;
#[allow(dead_code, reason = "a part of it is needed here")]
mod process;
mod programs;
mod reverts;
mod storm;
mod table;
mod traffic;
mod watched;

use backstop::world::publish::SigningKey;

use self::table::Table;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // `cargo bench` hands `--bench` on; what remains names parts.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    let key = SigningKey::generate().expect("a key");
    let public = key.public_pem().expect("a public key");
    let (spec, policy) = guards::document(&public);
    let dir = tempfile::tempdir().expect("a folder");
    let folder = |part: &str| {
        let folder = dir.path().join(part);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut table = Table::default();
    // Memory first, while this process is still small.
    if wants("watched") {
        watched::measure(&spec, &policy, &mut table);
    }
    if wants("judge") {
        judge::cost(&spec, &mut table);
    }
    if wants("replay") {
        judge::replay(&spec, &mut table);
    }
    if wants("evidence") {
        runtime.block_on(evidence::measure(&policy, &key, &folder("evidence"), &mut table));
    }
    if wants("storm") {
        runtime.block_on(storm::measure(&spec, &policy, &folder("storm"), &mut table));
    }
    if wants("program") {
        programs::measure(&guards::text(&public), &folder("program"), &mut table);
    }
    if wants("reverts") {
        runtime.block_on(reverts::measure(&folder("reverts"), &mut table));
    }
    let over = table.over_budget();
    println!(
        "\n{}",
        if over.is_empty() { "Everything is within its budget.".to_owned() } else { format!("Over budget:\n  {}", over.join("\n  ")) }
    );
}
