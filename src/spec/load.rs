//! Files and folders to documents, with every error of every file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::code;
use super::document::{self, Kind, Spec};
use super::finding::{Finding, Severity};
use super::paths;
use super::source::{Place, Source};
use super::yaml::{self, Entry, Node};
use crate::core::actor::Actor;
use crate::core::policy::{self, GuardPolicy, Policy, Weaker};
use crate::core::spec::{FlagTarget, GuardSource, GuardedRollout, Metadata};

/// Largest file, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Most errors that are told of one file.
const MAX_FINDINGS: usize = 100;

/// Everything that was read. Documents with errors are missing, and their errors are in `findings`.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Guards by `namespace/name`; shared, for whoever takes care of one holds it as long as it counts.
    pub rollouts: BTreeMap<String, (Metadata, Arc<GuardedRollout>)>,
    /// Policies by name.
    pub policies: BTreeMap<String, GuardPolicy>,
    /// Sources by name.
    pub sources: BTreeMap<String, GuardSource>,
    /// Flag targets by name.
    pub flags: BTreeMap<String, FlagTarget>,
    /// What is wrong with the text, and references that lead nowhere. What the documents mean is `lint`'s.
    pub findings: Vec<Finding>,
    origins: BTreeMap<(Kind, String), Origin>,
    /// Documents that are there but have errors: no reference to them dangles.
    broken: BTreeSet<(String, String)>,
}

/// Where a document was written.
#[derive(Debug, Clone)]
struct Origin {
    source: Arc<Source>,
    node: Arc<Node>,
}

impl Origin {
    fn place(&self, pointer: &str, key: bool) -> Place {
        let (name, value) = self.node.find(pointer);
        let span: Range<usize> = if key { name } else { value };
        self.source.place(span)
    }
}

/// Which document, for the places of its fields.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its key: `namespace/name` of a guard, else the name.
    pub key: &'a str,
}

impl Loaded {
    /// Documents that were accepted before, without their files: what a store kept of them.
    pub fn kept(
        rollouts: BTreeMap<String, (Metadata, Arc<GuardedRollout>)>,
        policies: BTreeMap<String, GuardPolicy>,
        sources: BTreeMap<String, GuardSource>,
        flags: BTreeMap<String, FlagTarget>,
    ) -> Self {
        Self { rollouts, policies, sources, flags, ..Self::default() }
    }

    /// Whether these are the same documents, wherever they were written.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.rollouts == other.rollouts && self.policies == other.policies && self.sources == other.sources && self.flags == other.flags
    }

    /// The place of a value, by JSON pointer from the document's root (`/spec/strategy/canary/steps/0/weight`), or of the
    /// nearest thing above it that was written.
    pub fn place(&self, at: At<'_>, pointer: &str) -> Option<Place> {
        self.origin(at).map(|origin| origin.place(pointer, false))
    }

    /// The place of a field's name.
    pub fn key_place(&self, at: At<'_>, pointer: &str) -> Option<Place> {
        self.origin(at).map(|origin| origin.place(pointer, true))
    }

    /// Whether the field was written, rather than taken from a default.
    pub fn is_written(&self, at: At<'_>, pointer: &str) -> bool {
        self.origin(at).is_some_and(|origin| origin.node.has(pointer))
    }

    /// Whether a document of this kind and name is there, with or without errors.
    pub(super) fn is_there(&self, kind: Kind, name: &str) -> bool {
        self.origins.contains_key(&(kind, name.to_owned())) || self.broken.contains(&(kind.name().to_owned(), name.to_owned()))
    }

    /// Whether any finding is an error: nothing of such a set is used.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Every document without errors, by kind and key.
    pub fn keys(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.origins.keys().map(|(kind, key)| (*kind, key.as_str()))
    }

    fn origin(&self, at: At<'_>) -> Option<&Origin> {
        self.origins.get(&(at.kind, at.key.to_owned()))
    }

    /// What applies to the guard `key` when `actor` deploys; `None` if there is no such guard.
    pub fn policy(&self, key: &str, actor: &Actor) -> Option<Policy> {
        let (metadata, rollout) = self.rollouts.get(key)?;
        let matching = policy::matching(&self.policies, metadata, actor);
        Some(policy::merge(matching.into_iter().map(|(_, policy)| policy), self.policies.get(&rollout.attestation.policy)))
    }

    /// In what the guard `key` is weaker than the policies that apply when `actor` deploys: reasons to refuse.
    pub fn weaker(&self, key: &str, actor: &Actor) -> Vec<Weaker> {
        let Some((metadata, rollout)) = self.rollouts.get(key) else { return Vec::new() };
        let matching = policy::matching(&self.policies, metadata, actor).into_iter();
        matching.flat_map(|(name, policy)| policy::weaker(name, policy, rollout)).collect()
    }

    /// Number of documents without errors.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    fn insert(&mut self, source: &Arc<Source>, node: Node, metadata: Metadata, spec: Spec) {
        let (kind, key) = match &spec {
            Spec::Rollout(_) => (Kind::GuardedRollout, metadata.key()),
            Spec::Policy(_) => (Kind::GuardPolicy, metadata.name.clone()),
            Spec::Source(_) => (Kind::GuardSource, metadata.name.clone()),
            Spec::Flag(_) => (Kind::FlagTarget, metadata.name.clone()),
        };
        let origin = Origin { source: Arc::clone(source), node: Arc::new(node) };
        if kind != Kind::GuardedRollout && metadata.namespace.is_some() {
            let finding = Finding::error(code::BAD_NAME, format!("a {kind} has no namespace: it is for all of them"));
            self.findings.push(finding.at(origin.place("/metadata/namespace", true)).fix("leave it out"));
        }
        if let Some(first) = self.origins.get(&(kind, key.clone())) {
            let finding = Finding::error(code::DUPLICATE_NAME, format!("a second {kind} `{key}`"));
            let finding = finding.at(origin.place("/metadata/name", false)).related("the first", first.place("/metadata/name", false));
            self.findings.push(finding.fix("rename one, or leave it out"));
            return;
        }
        match spec {
            Spec::Rollout(spec) => drop(self.rollouts.insert(key.clone(), (metadata, Arc::new(*spec)))),
            Spec::Policy(spec) => drop(self.policies.insert(key.clone(), *spec)),
            Spec::Source(spec) => drop(self.sources.insert(key.clone(), *spec)),
            Spec::Flag(spec) => drop(self.flags.insert(key.clone(), *spec)),
        }
        self.origins.insert((kind, key), origin);
    }
}

/// Reads files and folders (`*.yaml` and `*.yml` directly in them, by name), and checks what they refer to.
///
/// Paths in a document are relative to its file; they are absolute in the result. Keys in files are read.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        match files(path.as_ref(), &mut loaded.findings) {
            // A file that is named twice, or beside its folder, is read once.
            Ok(files) => files.iter().filter(|file| seen.insert(identity(file))).for_each(|file| read(&mut loaded, file)),
            Err(finding) => loaded.findings.push(*finding),
        }
    }
    finish(loaded)
}

fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn finish(mut loaded: Loaded) -> Loaded {
    super::references::check(&mut loaded);
    loaded.findings.sort_by_cached_key(Finding::order);
    loaded.findings.dedup();
    loaded
}

/// Reads one text as if it were the file `name` in the folder `base`.
pub fn load_text(name: &str, text: &str, base: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    documents(&mut loaded, Source::new(name, text), base);
    finish(loaded)
}

fn unreadable(path: &Path, error: &io::Error) -> Box<Finding> {
    Box::new(Finding::error(code::UNREADABLE, format!("cannot read {}: {error}", path.display())))
}

/// The files that a path stands for. What is named like one in a folder and cannot be read as one goes to `findings`: a policy is
/// not lost with the file that its link led to.
fn files(path: &Path, findings: &mut Vec<Finding>) -> Result<Vec<PathBuf>, Box<Finding>> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut files, before) = (Vec::new(), findings.len());
    for entry in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let file = entry.map_err(|error| unreadable(path, &error))?.path();
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let is_hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_yaml || is_hidden {
            continue;
        }
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => files.push(file),
            Ok(metadata) if metadata.is_dir() => {}
            // To open a pipe would be to wait for whoever writes to it.
            Ok(_) => findings.push(*unreadable(&file, &io::Error::other("it is neither a file nor a folder"))),
            Err(error) => findings.push(*unreadable(&file, &error)),
        }
    }
    if files.is_empty() && findings.len() == before {
        let finding = Finding::error(code::UNREADABLE, format!("there is no specification in {}", path.display()));
        return Err(Box::new(finding.expected("files named `*.yaml` or `*.yml`")));
    }
    files.sort();
    Ok(files)
}

/// The text of a file, within the limits.
fn text(path: &Path) -> Result<String, Box<Finding>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        let finding = Finding::error(code::TOO_LARGE, format!("{} is larger than 1 MiB", path.display()));
        return Err(Box::new(finding.fix("split it, and keep data out of it")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[good];
        let source = Source::new(path.display().to_string(), String::from_utf8_lossy(error.as_bytes()));
        let finding = Finding::error(code::ENCODING, format!("the byte 0x{byte:02x} is not UTF-8"));
        Box::new(finding.at(source.place(good..good + 1)).fix("save the file as UTF-8"))
    })
}

fn read(loaded: &mut Loaded, path: &Path) {
    match text(path) {
        Ok(text) => {
            let base = path.parent().unwrap_or(Path::new(""));
            documents(loaded, Source::new(path.display().to_string(), text), base);
        }
        Err(finding) => loaded.findings.push(*finding),
    }
}

fn documents(loaded: &mut Loaded, source: Source, base: &Path) {
    let source = Arc::new(source);
    let (nodes, mut findings) = yaml::parse(&source);
    if nodes.is_empty() && findings.is_empty() {
        findings.push(Finding::error(code::EMPTY, "the file holds no document").at(source.place(0..0)));
    }
    for node in nodes {
        if let Some((metadata, mut spec)) = document::read(&source, &node, &mut findings) {
            paths::resolve(&source, &node, &mut spec, base, &mut findings);
            loaded.insert(&source, node, metadata, spec);
        } else {
            let text = |entry: Option<&Entry>| entry.and_then(|entry| entry.value.text()).map(str::to_owned);
            let name = node.get("metadata").and_then(|entry| text(entry.value.get("name")));
            loaded.broken.extend(text(node.get("kind")).zip(name));
        }
    }
    findings.sort_by_cached_key(Finding::order);
    if findings.len() > MAX_FINDINGS {
        let more = findings.split_off(MAX_FINDINGS);
        let mut last = Finding::error(code::MORE, format!("{} more findings in this file are not shown", more.len()));
        last.place.clone_from(&more[0].place);
        last.severity = more.iter().map(|finding| finding.severity).min().unwrap_or(last.severity);
        findings.push(last);
    }
    loaded.findings.append(&mut findings);
}
