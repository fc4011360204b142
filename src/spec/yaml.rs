//! YAML to a tree that knows where everything stands. Scalars stay text: what they mean depends on who asks.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput, options};

use super::code;
use super::finding::Finding;
use super::schema::shorten;
use super::source::Source;

/// Deepest nesting.
pub(super) const MAX_DEPTH: usize = 64;
/// Most nodes that aliases may add to one file.
pub(super) const MAX_ALIASED: usize = 10_000;
/// Most nodes under anchors in one file; nested anchors count their nodes again.
pub(super) const MAX_ANCHORED: usize = 100_000;
/// Most documents in one file.
pub(super) const MAX_DOCUMENTS: usize = 100;

/// A node and the bytes it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it stands. A collection's span begins at its first entry.
    pub span: Range<usize>,
    /// What it is.
    pub value: Value,
    /// Nodes in it, this one counted.
    size: usize,
    /// Levels of nesting in it.
    height: usize,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, and whether it stands there without quotes.
    Scalar {
        /// The text, escapes resolved.
        text: String,
        /// Without quotes, so that `5`, `true` and `null` are not text.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Fields in the order of the file; keys are unique.
    Mapping(Vec<Entry>),
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Where the name stands.
    pub key_span: Range<usize>,
    /// Its value.
    pub value: Node,
}

impl Node {
    fn new(span: Range<usize>, value: Value) -> Self {
        let children: Vec<(usize, usize)> = match &value {
            Value::Scalar { .. } => Vec::new(),
            Value::Sequence(items) => items.iter().map(|item| (item.size, item.height)).collect(),
            Value::Mapping(entries) => entries.iter().map(|entry| (entry.value.size, entry.value.height)).collect(),
        };
        let size = 1 + children.iter().map(|(size, _)| size).sum::<usize>();
        let height = 1 + children.iter().map(|(_, height)| *height).max().unwrap_or(0);
        Self { span, value, size, height }
    }

    /// Whether there is nothing: `~`, `null` or an empty value.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The field `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Whether the JSON pointer `pointer` leads to a node.
    pub fn has(&self, pointer: &str) -> bool {
        self.walk(pointer).2
    }

    /// Where the JSON pointer `pointer` leads, or as far as it goes: the span of the key there and that of the value.
    pub fn find(&self, pointer: &str) -> (Range<usize>, Range<usize>) {
        let (key, value, _) = self.walk(pointer);
        (key, value)
    }

    fn walk(&self, pointer: &str) -> (Range<usize>, Range<usize>, bool) {
        let mut node = self;
        let mut key = self.span.clone();
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &node.value {
                Value::Mapping(_) => node.get(&part).map(|entry| (entry.key_span.clone(), &entry.value)),
                Value::Sequence(items) => part.parse().ok().and_then(|at: usize| items.get(at)).map(|item| (item.span.clone(), item)),
                Value::Scalar { .. } => None,
            };
            match next {
                Some((span, child)) => (key, node) = (span, child),
                None => return (key, node.span.clone(), false),
            }
        }
        (key, node.span.clone(), true)
    }
}

/// A collection that is not closed yet.
enum Open {
    Sequence(Vec<Node>),
    Mapping(Fields),
}

struct Frame {
    start: usize,
    anchor: usize,
    open: Open,
}

/// Builds the documents of one file.
struct Builder<'a> {
    source: &'a Source,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, Node>,
    aliased: usize,
    anchored: usize,
    root: Option<Node>,
    findings: Vec<Finding>,
}

/// Every document of the file that is well-formed, and what is wrong with the others.
pub(super) fn parse(source: &Source) -> (Vec<Node>, Vec<Finding>) {
    let mut parser = Parser::new_from_str_with_options(source.text(), options! { emit_unresolved_aliases: true, emit_comments: false });
    let mut builder =
        Builder { source, stack: Vec::new(), anchors: BTreeMap::new(), aliased: 0, anchored: 0, root: None, findings: Vec::new() };
    let mut documents = Vec::new();
    let mut started = 0;
    while let Some(next) = parser.next_event() {
        let refused = match next {
            Ok((Event::StreamEnd, _)) => break,
            Ok((Event::DocumentStart(..), span)) => {
                started += 1;
                if started > MAX_DOCUMENTS {
                    let finding = Finding::error(code::TOO_MANY_DOCUMENTS, format!("more than {MAX_DOCUMENTS} documents in one file"));
                    return (Vec::new(), vec![finding.at(source.place(bytes(&span))).fix("split the file")]);
                }
                builder.begin();
                false
            }
            Ok((Event::DocumentEnd, _)) => {
                documents.extend(builder.root.take());
                false
            }
            Ok((event, span)) => builder.event(event, &span).is_err(),
            Err(error) => {
                builder.findings.push(syntax(source, &error));
                true
            }
        };
        if refused && !skip_document(&mut parser, &mut builder) {
            break;
        }
    }
    (documents, builder.findings)
}

/// Goes on after the broken document; false at the end of the file.
fn skip_document<'a>(parser: &mut Parser<'a, StrInput<'a>>, builder: &mut Builder<'_>) -> bool {
    builder.begin();
    parser.proceed_next_document().unwrap_or(false)
}

fn bytes(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or(0..0)
}

fn syntax(source: &Source, error: &ScanError) -> Finding {
    let at = error.marker().byte_offset().unwrap_or(source.text().len());
    let text = source.text();
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent = text[line..].find(|c| c != ' ' && c != '\t').map_or(text.len(), |end| line + end);
    let by_kind = match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabInPlainScalar => {
            text[at..].find('\t').map(|tab| at + tab)
        }
        _ => None,
    };
    if let Some(tab) = text[line..indent].find('\t').map(|tab| line + tab).or(by_kind) {
        let finding = Finding::error(code::TAB, "a tab, where YAML wants spaces").at(source.place(tab..tab + 1));
        return finding.expected("spaces").fix("indent with spaces");
    }
    Finding::error(code::SYNTAX, format!("not YAML: {}", error.info())).at(source.place(at..at + 1))
}

/// The document cannot be built any further.
struct Refused;

impl Builder<'_> {
    fn begin(&mut self) {
        self.stack.clear();
        self.anchors.clear();
        self.root = None;
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Refused> {
        let at = bytes(span);
        if let Some(tag) = event.tag() {
            let finding = Finding::error(code::TAG, format!("the tag `{}` is not supported", tag.original()));
            self.findings
                .push(finding.at(self.source.place(span.tag_span().map_or_else(|| at.clone(), |tag| bytes(&tag)))).fix("leave it out"));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.complete(Node::new(at, value), anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.open(&at, anchor, Open::Sequence(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => {
                self.open(&at, anchor, Open::Mapping(Fields::default()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Frame { start, anchor, open }) = self.stack.pop() {
                    let value = match open {
                        Open::Sequence(items) => Value::Sequence(items),
                        Open::Mapping(fields) => Value::Mapping(fields.entries),
                    };
                    self.complete(Node::new(start..at.end.max(start), value), anchor)?;
                }
            }
            Event::Alias(id) => self.alias(id, at)?,
            Event::UnresolvedAlias(name) => {
                let finding = Finding::error(code::ANCHOR, format!("no anchor `&{name}` stands above"));
                self.findings.push(finding.at(self.source.place(at)));
                return Err(Refused);
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, at: &Range<usize>, anchor: usize, open: Open) -> Result<(), Refused> {
        self.limit_depth(1, at)?;
        self.stack.push(Frame { start: at.start, anchor, open });
        Ok(())
    }

    fn limit_depth(&mut self, height: usize, at: &Range<usize>) -> Result<(), Refused> {
        if self.stack.len() + height <= MAX_DEPTH {
            return Ok(());
        }
        let finding = Finding::error(code::TOO_DEEP, format!("nested deeper than {MAX_DEPTH} levels"));
        self.findings.push(finding.at(self.source.place(at.clone())));
        Err(Refused)
    }

    fn alias(&mut self, id: usize, at: Range<usize>) -> Result<(), Refused> {
        let Some(target) = self.anchors.get(&id) else {
            self.findings.push(Finding::error(code::ANCHOR, "an alias inside the node that it stands for").at(self.source.place(at)));
            return Err(Refused);
        };
        self.aliased = self.aliased.saturating_add(target.size);
        if self.aliased > MAX_ALIASED {
            let finding = Finding::error(code::TOO_MANY_ALIASES, format!("aliases would add more than {MAX_ALIASED} nodes to this file"));
            self.findings.push(finding.at(self.source.place(at)).fix("write the values out"));
            return Err(Refused);
        }
        let height = target.height;
        // The copy keeps the places of the original: that is where a mistake in it is corrected.
        let node = target.clone();
        self.limit_depth(height, &at)?;
        self.complete(node, 0)
    }

    /// Puts a whole node where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Refused> {
        if anchor != 0 {
            self.anchored = self.anchored.saturating_add(node.size);
            if self.anchored > MAX_ANCHORED {
                let finding = Finding::error(code::TOO_MANY_ALIASES, format!("more than {MAX_ANCHORED} nodes under anchors"));
                self.findings.push(finding.at(self.source.place(node.span)).fix("write the values out"));
                return Err(Refused);
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::Sequence(items)) => items.push(node),
            Some(Open::Mapping(mapping)) => {
                if let Err(finding) = mapping.add(self.source, node) {
                    self.findings.push(*finding);
                    // A field without a name spoils the order of names and values; a second one of a name does not.
                    if mapping.is_nameless {
                        return Err(Refused);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A mapping that is not closed yet.
#[derive(Default)]
struct Fields {
    entries: Vec<Entry>,
    /// Where in `entries` each name stands.
    places: BTreeMap<String, usize>,
    /// A name that still waits for its value.
    key: Option<(String, Range<usize>)>,
    /// Whether a name was no scalar.
    is_nameless: bool,
}

impl Fields {
    /// Takes the next node: a name, or the value of the last name.
    fn add(&mut self, source: &Source, node: Node) -> Result<(), Box<Finding>> {
        let Some((key, key_span)) = self.key.take() else {
            let Value::Scalar { text, .. } = node.value else {
                self.is_nameless = true;
                let finding = Finding::error(code::SYNTAX, "a field is named by a list or a mapping");
                return Err(Box::new(finding.at(source.place(node.span)).expected("a name")));
            };
            self.key = Some((text, node.span));
            return Ok(());
        };
        if let Some(first) = self.places.get(&key) {
            let first = source.place(self.entries[*first].key_span.clone());
            let finding = Finding::error(code::DUPLICATE_KEY, format!("`{}` is here twice", shorten(&key)));
            return Err(Box::new(finding.at(source.place(key_span)).fix("leave one of them out").related("the first one", first)));
        }
        self.places.insert(key.clone(), self.entries.len());
        self.entries.push(Entry { key, key_span, value: node });
        Ok(())
    }
}
