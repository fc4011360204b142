//! I10 for real: whatever a test did, its log runs again to the same decisions and the same states.

use std::collections::BTreeMap;
use std::path::Path;

use backstop::core::replay::Replay;
use backstop::world::audit::leaf::Seal;
use backstop::world::audit::{Assembly, Filter, show};

/// Exports the log of a store and runs it again.
pub fn replays(store: &Path) {
    let (mut assembly, mut workloads) = (Assembly::default(), BTreeMap::<String, Replay>::new());
    let mut commits = 0;
    for (place, entry) in (0..).zip(show(store, Filter::default()).expect("the log can be read")) {
        let line = entry.expect("an entry can be read").whole().expect("an entry can be made whole");
        // As it would be written to a file and read again.
        let line = serde_json::from_str(&line.to_string()).expect("JSON");
        let Some(whole) = assembly.add(&line, place).expect("the log is whole") else { continue };
        let made = workloads.entry(whole.key.clone()).or_default().next(whole.recorded());
        let made = made.unwrap_or_else(|divergence| panic!("{} revision {}:\n{divergence}", whole.key, whole.revision));
        let sealed = Seal::of(&made).expect("a state can be written");
        assert!(sealed.names_the_same(&whole.seal), "{} revision {}: another state than was committed", whole.key, whole.revision);
        commits += 1;
    }
    assert_eq!(assembly.unfinished(), None);
    eprintln!("{commits} commits of {} workloads run again to the same", workloads.len());
}
