//! Words on a screen: colours, bars, tables, times. Everything that others wrote is stripped of control characters first.

use std::fmt::Write as _;
use std::time::Duration;

use crate::core::spec::Percent;
use crate::core::text::is_unseen;

/// Whether and how text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    color: bool,
}

impl Paint {
    /// With colour, or without.
    pub fn new(color: bool) -> Self {
        Self { color }
    }

    /// Whether there is colour.
    pub fn is_colored(self) -> bool {
        self.color
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// For names and headings.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what matters less.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// For what is well.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// For what waits.
    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For what is wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}

/// Text that somebody else wrote, on one line and without control characters, which terminals obey.
pub fn clean(text: &str) -> String {
    text.split_whitespace().map(|word| word.chars().filter(|c| !is_unseen(*c)).collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// [`clean`], cut to `max` characters.
pub fn brief(text: &str, max: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= max { text } else { text.chars().take(max.saturating_sub(1)).chain(['…']).collect() }
}

/// A share as a bar of `width` characters.
pub fn bar(share: Percent, width: usize) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to `width`
    let full = (share.fraction() * width as f64).round() as usize;
    // What has any traffic shows at least one mark.
    let full = if share > Percent::ZERO { full.max(1) } else { full };
    format!("{}{}", "█".repeat(full.min(width)), "░".repeat(width.saturating_sub(full)))
}

/// Columns aligned by the widest cell; two blanks between.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell}{}  ", " ".repeat(width.saturating_sub(visible(cell))));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Characters of `text` that take room: colours do not.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => escaped = true,
            'm' if escaped => escaped = false,
            _ if !escaped => count += 1,
            _ => {}
        }
    }
    count
}

/// A span for people: `12ms`, `1.2s`, `3m 20s`, `2h 5m`, `4d 3h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{:.1}s", span.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// A span of whole seconds: `9s`, `3m 20s`.
pub fn whole(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { span(Duration::from_secs(seconds)) }
}

/// How long before `now` something was: `3m 20s ago`.
pub fn ago(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second());
    match u64::try_from(seconds) {
        Ok(seconds) => format!("{} ago", whole(seconds)),
        Err(_) => format!("in {}", whole(seconds.unsigned_abs())),
    }
}

/// A point in time: `2026-11-23T03:12:09Z`.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        assert_eq!(clean("fix \u{1b}[2J\nall\tof it\u{7}"), "fix [2J all of it");
        assert_eq!(brief("abcdef", 4), "abc…");
    }

    #[test]
    fn bars_show_the_smallest_share() {
        assert_eq!(bar(Percent::ZERO, 4), "░░░░");
        assert_eq!(bar(Percent::new(1.0), 4), "█░░░");
        assert_eq!(bar(Percent::FULL, 4), "████");
    }

    #[test]
    fn colours_take_no_room() {
        let red = Paint::new(true).bad("ab");
        assert_eq!(table(&[vec![red.clone(), "x".into()], vec!["abc".into(), "y".into()]]), format!("{red}   x\nabc  y\n"));
    }

    #[test]
    fn spans_are_short() {
        let text = |millis| span(Duration::from_millis(millis));
        assert_eq!([text(12), text(1_240), text(200_000), text(7_500_000)], ["12ms", "1.2s", "3m 20s", "2h 5m"]);
    }
}
