//! Every state within reach, breadth first.

use sim_alone::sim::explore;

/// Distinct states that must hold.
const STATES: usize = 1_000_000;

#[test]
fn every_state_within_reach_holds() {
    let explored = explore::explore(STATES);
    println!("{} distinct states, {} transitions, depth {}", explored.states, explored.transitions, explored.depth);
    if let Some((violation, path)) = explored.violation {
        panic!("{violation}\nby: {}", path.join(", "));
    }
    assert!(explored.states >= STATES, "only {} states within reach", explored.states);
}
