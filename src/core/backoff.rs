//! Waiting between tries, as a pure function of how many there were.

use std::time::Duration;

/// The wait after `attempts` failed tries: 100 ms, doubled each time, at most 10 s.
pub fn wait(attempts: u32) -> Duration {
    Duration::from_millis(100_u64.saturating_mul(1 << attempts.min(10).saturating_sub(1))).min(Duration::from_secs(10))
}

/// The same for a revert, whose effects have permits of their own: at most 2 s, for requests fail meanwhile.
pub fn urgent(attempts: u32) -> Duration {
    wait(attempts).min(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_ten_seconds() {
        let waits: Vec<_> = [1, 2, 3, 7, 8, 100].map(|attempts| wait(attempts).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 6400, 10_000, 10_000]);
        assert_eq!([1, 5, 6, 100].map(|attempts| urgent(attempts).as_millis()), [100, 1600, 2000, 2000]);
    }
}
