//! Text exposition, read without loss: the Prometheus text format 0.0.4 and `OpenMetrics` text 1.0.
//!
//! `prometheus-parse` drops or merges series whose label values hold `}`, `,` or `=`, names with colons or in quotes,
//! and never says so. Here a quote-aware lexer reads names and labels itself and hands that crate only what it cannot
//! lose: one line `sN VALUE [MILLISECONDS]` per watched sample. Lines in and samples out are compared one by one.
//!
//! It fails closed: what is wrong about a watched metric makes the whole body [`Invalid`], which callers count as a
//! missing scrape, never as zero.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use prometheus_parse::{Scrape, Value};

/// The two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4: timestamps are integer milliseconds, no end mark.
    Text,
    /// `OpenMetrics` text 1.0: timestamps are seconds, exemplars, ends with `# EOF`.
    OpenMetrics,
}

/// A body as it came from an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// How they are to be read.
    pub format: Format,
    /// Whether the transport proved that they are complete (a length or chunks). If not, the last line must end.
    pub complete: bool,
}

/// One value of a watched counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Counter<'a> {
    /// Its line, from 1.
    pub line: usize,
    /// The metric's name.
    pub metric: Cow<'a, str>,
    /// Its labels in order of names, escapes undone, without empty values.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The value: finite, not below zero.
    pub value: f64,
    /// The timestamp on the line, in milliseconds since the Unix epoch.
    pub at: Option<i64>,
}

impl Counter<'_> {
    /// The value of a label; empty if absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.binary_search_by(|(label, _)| label.as_ref().cmp(name)).map_or("", |index| &self.labels[index].1)
    }
}

/// What a body says about the watched metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition<'a> {
    /// The watched counters in the order of their lines.
    pub counters: Vec<Counter<'a>>,
    /// How many lines of other metrics could not be read.
    pub malformed: usize,
}

impl Exposition<'_> {
    /// Gives every series these labels, in place of its own of that name.
    pub fn relabel(&mut self, labels: &[(&str, &str)]) {
        for counter in &mut self.counters {
            counter.labels.retain(|(name, _)| labels.iter().all(|(given, _)| name != given));
            counter.labels.extend(labels.iter().map(|(name, value)| (Cow::Owned((*name).to_owned()), Cow::Owned((*value).to_owned()))));
            counter.labels.sort();
        }
    }
}

/// Why a body cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Invalid {}

/// Reads the metrics for which `watched` is true.
///
/// # Errors
/// A malformed line of a watched metric, a watched metric that is declared to be no counter, a value that is not finite
/// or below zero, a series that appears twice, a missing `# EOF` in `OpenMetrics`, text after it, a last line that may be
/// cut off, or no readable line at all.
pub fn parse(body: Body<'_>, watched: impl Fn(&str) -> bool) -> Result<Exposition<'_>, Invalid> {
    let mut reading =
        Reading { format: body.format, watched, raw: Vec::new(), gauges: BTreeSet::new(), malformed: None, readable: 0, end: None };
    let mut last = 0;
    for (index, line) in body.bytes.split(|byte| *byte == b'\n').enumerate() {
        // What follows the last line feed is a line only if there is something.
        if !line.is_empty() {
            last = index + 1;
            reading.line(last, line.strip_suffix(b"\r").unwrap_or(line))?;
        }
    }
    let fail = |line, what: &str| Err(Invalid { line, what: what.to_owned() });
    if body.format == Format::OpenMetrics && reading.end.is_none() {
        return fail(last, "`# EOF` is missing: the body was cut off");
    }
    if body.format == Format::Text && !body.complete && last > 0 && body.bytes.last() != Some(&b'\n') {
        return fail(last, "no line feed at the end and neither Content-Length nor chunks: the body may be cut off");
    }
    if let Some((count, line, what)) = reading.malformed
        && reading.readable == 0
    {
        return fail(line, &format!("{what}; none of {count} lines can be read: is this a metrics endpoint?"));
    }
    let malformed = reading.malformed.map_or(0, |(count, ..)| count);
    let counters = values(reading.raw)?;
    refuse_duplicates(&counters)?;
    Ok(Exposition { counters, malformed })
}

/// A sample line in pieces.
struct Raw<'a> {
    line: usize,
    metric: Cow<'a, str>,
    labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    value: &'a str,
    at: Option<i64>,
}

/// What has been read so far.
struct Reading<'a, W> {
    format: Format,
    watched: W,
    raw: Vec<Raw<'a>>,
    /// Names of samples that are declared to be something whose value may fall.
    gauges: BTreeSet<String>,
    /// How many lines of other metrics are malformed; the first of them and why.
    malformed: Option<(usize, usize, &'static str)>,
    readable: usize,
    /// The line of `# EOF`.
    end: Option<usize>,
}

impl<'a, W: Fn(&str) -> bool> Reading<'a, W> {
    fn line(&mut self, number: usize, bytes: &'a [u8]) -> Result<(), Invalid> {
        if let Some(end) = self.end {
            return Err(Invalid { line: number, what: format!("text after `# EOF` on line {end}") });
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        if text[0] == b'#' {
            self.comment(number, text);
            return Ok(());
        }
        match std::str::from_utf8(text).map_err(|_| "not UTF-8").and_then(|text| sample(number, text, self.format)) {
            Ok(raw) => {
                self.readable += 1;
                if (self.watched)(&raw.metric) {
                    if self.gauges.contains(raw.metric.as_ref()) {
                        return Err(Invalid {
                            line: number,
                            what: format!("`{}` is declared to be no counter: its value may fall", raw.metric),
                        });
                    }
                    self.raw.push(raw);
                }
            }
            Err(what) => match self.may_be_watched(text) {
                Some(name) => return Err(Invalid { line: number, what: format!("malformed line of `{name}`: {what}") }),
                None => self.malformed.get_or_insert((0, number, what)).0 += 1,
            },
        }
        Ok(())
    }

    fn comment(&mut self, number: usize, text: &[u8]) {
        self.readable += 1;
        if self.format == Format::OpenMetrics && text == b"# EOF" {
            self.end = Some(number);
            return;
        }
        let Ok(text) = std::str::from_utf8(text) else { return };
        let Some(rest) = text[1..].trim_start().strip_prefix("TYPE").filter(|rest| rest.starts_with([' ', '\t'])) else { return };
        let mut cursor = Cursor { text: rest, at: 0 };
        cursor.skip_blanks();
        let name = if cursor.peek() == Some(b'"') { cursor.quoted() } else { cursor.name(true).map(Cow::Borrowed) };
        let Ok(name) = name else { return };
        match cursor.text[cursor.at..].trim() {
            "gauge" | "info" | "stateset" => self.gauges.insert(name.into_owned()),
            "gaugehistogram" => self.gauges.insert(format!("{name}_bucket")),
            _ => false,
        };
    }

    /// The watched name that a malformed line belongs to. With the name in quotes there is no telling where a broken
    /// line's name ends, so such a line belongs to whatever it starts like.
    fn may_be_watched(&self, line: &[u8]) -> Option<String> {
        let inner = line.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
        let start = inner.map_or(line, |rest| rest.strip_prefix(b"\"").unwrap_or(rest));
        let stops: &[u8] = if inner.is_some() { b"\"}" } else { b"{ \t" };
        let end = start.iter().position(|byte| stops.contains(byte)).unwrap_or(start.len());
        let name = String::from_utf8_lossy(&start[..end]);
        // A bare name may also run into what follows it: `requests_total"…`.
        let bare = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').map_or(&*name, |end| &name[..end]);
        let names = if inner.is_some() { [&*name, bare] } else { [bare, &*name] };
        names.into_iter().find(|name| !name.is_empty() && (self.watched)(name)).map(str::to_owned)
    }
}

/// One sample line: `name{label="value",…} value [timestamp] [# exemplar]`, or with the name in quotes inside the braces.
fn sample(line: usize, text: &str, format: Format) -> Result<Raw<'_>, &'static str> {
    let mut cursor = Cursor { text, at: 0 };
    let mut metric = if cursor.peek() == Some(b'{') { None } else { Some(Cow::Borrowed(cursor.name(true)?)) };
    let blanks = cursor.skip_blanks();
    let mut labels = Vec::new();
    if cursor.eat(b'{') {
        cursor.labels(&mut metric, &mut labels)?;
        cursor.skip_blanks();
    } else if blanks == 0 {
        return Err("expected a blank or `{` after the name");
    }
    let metric = metric.ok_or("a sample without a name")?;
    labels.sort_by(|(a, _), (b, _)| a.cmp(b));
    if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err("a label appears twice");
    }
    labels.retain(|(_, value)| !value.is_empty());
    let value = cursor.token();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return Err("expected a number as the value");
    }
    cursor.skip_blanks();
    let at = if matches!(cursor.peek(), None | Some(b'#')) { None } else { Some(timestamp(cursor.token(), format)?) };
    cursor.skip_blanks();
    match (cursor.peek(), format) {
        (None, _) => Ok(Raw { line, metric, labels, value, at }),
        (Some(b'#'), Format::OpenMetrics) if cursor.rest().trim_start_matches(['#', ' ', '\t']).starts_with('{') => {
            Ok(Raw { line, metric, labels, value, at })
        }
        (Some(_), _) => Err("more text than a value and a timestamp"),
    }
}

/// A timestamp in milliseconds.
fn timestamp(text: &str, format: Format) -> Result<i64, &'static str> {
    match format {
        Format::Text => text.parse().map_err(|_| "expected a timestamp in whole milliseconds"),
        Format::OpenMetrics => match text.parse::<f64>() {
            // Whole milliseconds of the years 1 to 9999 are exact in a float.
            #[allow(clippy::cast_possible_truncation)]
            Ok(seconds) if seconds.abs() < 253_402_300_800.0 => Ok((seconds * 1000.0).round() as i64),
            _ => Err("expected a timestamp in seconds"),
        },
    }
}

/// A place in a line. Everything that it stops at is ASCII, so cuts never split a character.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes bytes while `keep` holds.
    fn run(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        self.at += rest.iter().position(|byte| !keep(*byte)).unwrap_or(rest.len());
        &self.text[start..self.at]
    }

    fn skip_blanks(&mut self) -> usize {
        self.run(|byte| matches!(byte, b' ' | b'\t')).len()
    }

    fn token(&mut self) -> &'a str {
        self.run(|byte| !matches!(byte, b' ' | b'\t'))
    }

    /// A name of letters, digits and `_`, and `:` if `colons`; not starting with a digit.
    fn name(&mut self, colons: bool) -> Result<&'a str, &'static str> {
        let name = self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':'));
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() { Err("expected a name") } else { Ok(name) }
    }

    /// A text in double quotes, escapes undone: `\\`, `\"` and `\n`. Any other backslash stands for itself.
    fn quoted(&mut self) -> Result<Cow<'a, str>, &'static str> {
        if !self.eat(b'"') {
            return Err("expected a quote");
        }
        let mut text = Cow::Borrowed("");
        loop {
            let plain = self.run(|byte| byte != b'"' && byte != b'\\');
            if text.is_empty() {
                text = Cow::Borrowed(plain);
            } else {
                text.to_mut().push_str(plain);
            }
            if self.eat(b'"') {
                return Ok(text);
            }
            self.at += 1;
            match self.peek() {
                Some(b'\\') => text.to_mut().push('\\'),
                Some(b'"') => text.to_mut().push('"'),
                Some(b'n') => text.to_mut().push('\n'),
                Some(_) => {
                    text.to_mut().push('\\');
                    continue;
                }
                None => return Err("a quote is not closed"),
            }
            self.at += 1;
        }
    }

    /// What is between the braces, and the closing one. A quoted text without a value is the metric's name.
    fn labels(&mut self, metric: &mut Option<Cow<'a, str>>, labels: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>) -> Result<(), &'static str> {
        loop {
            self.skip_blanks();
            if self.eat(b'}') {
                return Ok(());
            }
            let is_quoted = self.peek() == Some(b'"');
            let name = if is_quoted { self.quoted()? } else { Cow::Borrowed(self.name(false)?) };
            self.skip_blanks();
            if self.eat(b'=') {
                self.skip_blanks();
                let value = self.quoted()?;
                if name == "__name__" {
                    return Err("`__name__` cannot be a label");
                }
                labels.push((name, value));
            } else if is_quoted && metric.is_none() && labels.is_empty() && !name.is_empty() {
                *metric = Some(name);
            } else {
                return Err("expected `=` after a label's name");
            }
            self.skip_blanks();
            if !self.eat(b',') && self.peek() != Some(b'}') {
                return Err("expected `,` or `}` after a label");
            }
        }
    }
}

/// Reads the values with `prometheus-parse` and checks that each line came back as one sample, with its own timestamp.
fn values(raw: Vec<Raw<'_>>) -> Result<Vec<Counter<'_>>, Invalid> {
    let lines = raw.iter().enumerate().map(|(index, raw)| {
        Ok(match raw.at {
            Some(at) => format!("s{index} {} {at}", raw.value),
            None => format!("s{index} {}", raw.value),
        })
    });
    // Without a timestamp a sample gets the default one, the epoch: no clock is read.
    #[allow(clippy::default_trait_access)] // its type is that of a crate that is not ours
    let parsed = Scrape::parse_at(lines, Default::default()).map_err(|error| Invalid { line: 0, what: error.to_string() })?;
    let mut samples = parsed.samples.into_iter();
    let mut counters = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let fail = |what: String| Err(Invalid { line: raw.line, what: format!("`{}` {what}", raw.metric) });
        let sample = samples.next().filter(|sample| sample.metric.strip_prefix('s').and_then(|n| n.parse().ok()) == Some(index));
        let value = match sample {
            Some(sample) if sample.timestamp.timestamp_millis() != raw.at.unwrap_or(0) => {
                return fail("has a timestamp out of range".into());
            }
            Some(sample) => match sample.value {
                Value::Untyped(value) => value,
                other => return fail(format!("came back as {other:?}")),
            },
            None => return fail(format!("has the value `{}`, which is not a number", raw.value)),
        };
        if !value.is_finite() || value < 0.0 {
            return fail(format!("has the value {value}; a counter is finite and never below zero"));
        }
        counters.push(Counter { line: raw.line, metric: raw.metric, labels: raw.labels, value, at: raw.at });
    }
    Ok(counters)
}

/// Refuses a series that appears twice. Hashes find the candidates, so that sorting compares numbers only.
fn refuse_duplicates(counters: &[Counter<'_>]) -> Result<(), Invalid> {
    let hash = |counter: &Counter<'_>| {
        let mut hasher = DefaultHasher::new();
        (&counter.metric, &counter.labels).hash(&mut hasher);
        hasher.finish()
    };
    let mut order: Vec<(u64, usize)> = counters.iter().enumerate().map(|(index, counter)| (hash(counter), index)).collect();
    order.sort_unstable();
    // Different series with one hash are as rare as never; were they between two equal ones, `chunk_by` still sees all.
    for same in order.chunk_by(|a, b| a.0 == b.0) {
        for (place, (_, later)) in same.iter().enumerate() {
            let later = &counters[*later];
            for (_, earlier) in &same[..place] {
                let earlier = &counters[*earlier];
                if (&earlier.metric, &earlier.labels) == (&later.metric, &later.labels) {
                    let what = format!("a series of `{}` appears twice; first on line {}", later.metric, earlier.line);
                    return Err(Invalid { line: later.line, what });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
