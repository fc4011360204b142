//! The text of one file, and places in it.

use std::ops::Range;

use serde::Serialize;

/// Longest part of a line that a finding shows, in characters.
const EXCERPT: usize = 160;

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// How people know the file.
    pub name: String,
    text: String,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
}

/// A place in a file, with the line itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line, or the part of it around the column if it is long. Secrets are masked.
    pub excerpt: String,
    /// What is meant, in bytes of `excerpt`.
    #[serde(skip)]
    pub mark: Mark,
    /// Whether `excerpt` is the line from its beginning.
    #[serde(skip)]
    pub whole: bool,
}

/// A part of an excerpt, half-open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

impl Source {
    /// The text of the file called `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, lines }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Index of the line that holds byte `at`.
    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Line `index` without its end.
    fn line(&self, index: usize) -> &str {
        let start = self.lines[index];
        let end = self.lines.get(index + 1).map_or(self.text.len(), |next| next - 1);
        self.text[start..end].trim_end_matches('\r')
    }

    /// The place of the bytes `span`; what goes beyond the first line is cut.
    pub fn place(&self, span: Range<usize>) -> Place {
        let at = floor(&self.text, span.start.min(self.text.len()));
        let index = self.line_of(at);
        let line = self.line(index);
        let start = (at - self.lines[index]).min(line.len());
        let end = floor(line, span.end.saturating_sub(self.lines[index]).clamp(start, line.len()));
        let column = line[..start].chars().count() + 1;
        let line = mask(line);
        let (from, to) = window(&line, start);
        let to = floor(&line, to);
        Place {
            file: self.name.clone(),
            line: index + 1,
            column,
            mark: Mark { start: start - from, end: end.clamp(start, to.max(start)) - from },
            excerpt: line[from..to].to_owned(),
            whole: from == 0,
        }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The bytes of `line` to show so that `at` is among them.
fn window(line: &str, at: usize) -> (usize, usize) {
    let before = line[..at].char_indices().rev().nth(EXCERPT / 2 - 1).map_or(0, |(index, _)| index);
    let from = if line[..at].chars().count() + EXCERPT / 2 <= EXCERPT { 0 } else { before };
    let to = line[from..].char_indices().nth(EXCERPT).map_or(line.len(), |(index, _)| from + index);
    (from, to)
}

/// Keys whose values are never shown.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "authorization", "cookie", "api-key", "apikey"].iter().any(|word| key.ends_with(word))
}

/// `line` with the same length in bytes, but stars where a secret is, or could be: the user part of a URL, the value of a
/// key such as `password`, and what follows the head of a private key.
pub(super) fn mask(line: &str) -> String {
    let mut hidden: Vec<Range<usize>> = Vec::new();
    for (at, _) in line.match_indices("://") {
        let rest = &line[at + 3..];
        let authority = rest.find(['/', ' ', '"', '\'', '}', ',']).unwrap_or(rest.len());
        if let Some(user) = rest[..authority].rfind('@') {
            hidden.push(at + 3..at + 3 + user);
        }
    }
    for (at, _) in line.match_indices(':') {
        let key = line[..at].trim_end_matches(['"', '\'']);
        let word = key.bytes().rev().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).count();
        let key = &key[key.len() - word..];
        if is_secret(key) {
            let value = at + 1 + (line[at + 1..].len() - line[at + 1..].trim_start().len());
            hidden.push(value..line[value..].find(['}', ',']).map_or(line.len(), |end| value + end));
        }
    }
    if let Some(at) = line.find("PRIVATE KEY-----") {
        hidden.push(at + "PRIVATE KEY-----".len()..line.len());
    }
    let hide = |at: usize| hidden.iter().any(|range| range.contains(&at));
    line.char_indices().flat_map(|(at, c)| if hide(at) { vec!['*'; c.len_utf8()] } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_keep_the_line() {
        let source = Source::new("a.yaml", "é: 1\r\nüber: wert\n");
        let at = source.text().find("wert").unwrap();
        let place = source.place(at..at + 4);
        assert_eq!((place.line, place.column, place.excerpt.as_str()), (2, 7, "über: wert"));
        assert_eq!(&place.excerpt[place.mark.start..place.mark.end], "wert");
    }

    #[test]
    fn places_beyond_the_end_and_inside_characters_do_not_panic() {
        let source = Source::new("a.yaml", "é");
        assert_eq!(source.place(1..2).column, 1);
        assert_eq!(source.place(9..12).column, 2);
        assert_eq!(Source::new("a.yaml", "").place(0..0).line, 1);
    }

    #[test]
    fn long_lines_are_cut_around_the_column() {
        let source = Source::new("a.yaml", format!("{}X{}", "ä".repeat(5000), "ö".repeat(5000)));
        let place = source.place(10_000..10_001);
        assert_eq!(place.column, 5001);
        assert!(place.excerpt.chars().count() <= EXCERPT);
        assert_eq!(&place.excerpt[place.mark.start..place.mark.end], "X");
    }

    #[test]
    fn secrets_are_masked() {
        assert_eq!(mask("url: http://bob:pw@host:1/x"), "url: http://******@host:1/x");
        assert_eq!(mask("a: {password: hunter2, b: 1}"), "a: {password: *******, b: 1}");
        assert_eq!(mask("tokenFile: /etc/token"), "tokenFile: /etc/token");
        assert_eq!(mask("ü\"token\": \"x\""), "ü\"token\": ***");
        assert_eq!(mask("data: '-----BEGIN PRIVATE KEY-----MIG'"), "data: '-----BEGIN PRIVATE KEY-----****");
    }
}
