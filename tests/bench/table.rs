//! The printed table: what was measured, what it is held against, and how they compare.

/// What a figure is held against.
#[derive(Debug, Clone)]
pub(crate) enum Against {
    /// Our own limit: at most this much.
    Budget(f64),
    /// What a peer, or a baseline run beside it, needs for the same.
    Other(&'static str, f64),
    /// Nothing: for the record.
    Nothing,
}

/// One figure.
#[derive(Debug, Clone)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    against: Against,
}

/// All figures, in sections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    sections: Vec<(String, Vec<Row>)>,
}

impl Table {
    /// Begins a section.
    pub(crate) fn section(&mut self, title: impl Into<String>) {
        self.sections.push((title.into(), Vec::new()));
    }

    /// Adds a figure to the section begun last.
    pub(crate) fn row(&mut self, what: impl Into<String>, value: f64, unit: &'static str, against: Against) {
        if let Some((_, rows)) = self.sections.last_mut() {
            rows.push(Row { what: what.into(), value, unit, against });
        }
    }

    /// Prints the section begun last, so that a long run can be followed.
    pub(crate) fn print_last(&self) {
        let Some((title, rows)) = self.sections.last() else { return };
        println!("\n{title}");
        for row in rows {
            println!("  {}", row.line());
        }
    }

    /// The rows that are over budget.
    pub(crate) fn over_budget(&self) -> Vec<String> {
        let all = self.sections.iter().flat_map(|(_, rows)| rows);
        all.filter(|row| matches!(row.against, Against::Budget(limit) if row.value > limit)).map(Row::line).collect()
    }
}

impl Row {
    fn line(&self) -> String {
        let Self { what, value, unit, against } = self;
        let figure = format!("{} {unit}", digits(*value));
        match against {
            Against::Budget(limit) => {
                let verdict = if value > limit { "OVER" } else { "ok" };
                // Nothing is a multiple of nothing.
                let times = if *limit > 0.0 { format!("{:>6}× ", digits(value / limit)) } else { " ".repeat(8) };
                format!("{what:<58} {figure:>14}   {times}the budget of {} {unit}: {verdict}", digits(*limit))
            }
            Against::Other(name, other) => {
                format!("{what:<58} {figure:>14}   {:>6}× {name} ({} {unit})", digits(value / other), digits(*other))
            }
            Against::Nothing => format!("{what:<58} {figure:>14}"),
        }
    }
}

/// Three significant digits.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 0.01 => format!("{value:.4}"),
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The value below which a share `at` of the sorted values lies (nearest rank).
pub(crate) fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (at * values.len() as f64).ceil().max(1.0);
    // A rank is at least 1 and at most the number of values.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    values.get(rank as usize - 1).copied().unwrap_or(f64::NAN)
}
