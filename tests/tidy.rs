//! What a reviewer would have to look for by hand: shape, words, sizes and promises of the tree.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use backstop::core::reason::Reason;

/// Lines of a file: asked for, and tolerated.
const FILE_LINES: (usize, usize) = (500, 700);
/// Lines of a function.
const FUNCTION_LINES: usize = 70;
/// Words that name nothing.
const EMPTY_WORDS: [&str; 9] = ["manager", "handler", "processor", "helper", "util", "managers", "handlers", "helpers", "utils"];
/// A module may use those of its own and of lower rank.
const RANKS: [(&str, u8); 8] = [("core", 0), ("spec", 1), ("world", 1), ("host", 1), ("shell", 2), ("sim", 3), ("api", 3), ("cli", 4)];

/// A source file: its path from the repository's root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The top module, if the file lies in one of [`RANKS`].
    fn rank(&self) -> Option<u8> {
        let module = self.path.strip_prefix("src/")?.split(['/', '.']).next()?;
        rank(module)
    }

    /// Numbered lines.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Numbered lines without comments and without what stands in plain string literals.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, without_strings_and_comment(line)))
    }
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

fn without_strings_and_comment(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => drop(characters.next()),
            '"' if !code.ends_with('\'') => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if !in_string => code.push(character),
            _ => {}
        }
    }
    code
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![bed::repository(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(bed::repository("")).unwrap().to_string_lossy().into_owned();
                found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn everything() -> Vec<Source> {
    ["src", "tests"].into_iter().flat_map(sources).collect()
}

fn none_found(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The crate's modules that a line names: `crate::world::x`, `crate::{core, world::x}`.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + word.len()..];
        let parts: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => top_level_parts(list),
            None => vec![rest],
        };
        for part in parts {
            let name: String = part.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            named.insert(name);
        }
    }
    named
}

/// The parts of a brace list between commas that stand in no inner braces, up to the list's end.
fn top_level_parts(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[begin..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[begin..]);
    parts
}

#[test]
fn imports_point_one_way() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let Some(own) = source.rank() else { continue };
        // A `use` may span lines: look at whole statements, and remember on which line each begins.
        let (mut statement, mut first) = (String::new(), 0);
        for (number, code) in source.code() {
            if statement.is_empty() {
                first = number;
            }
            statement.push_str(code.trim());
            if statement.contains("crate::{") && !statement.ends_with(';') {
                continue;
            }
            for name in modules_named(&statement) {
                if rank(&name).is_some_and(|other| other > own) {
                    findings.push(format!("{}:{first}: `{name}` stands above this module", source.path));
                }
            }
            statement.clear();
        }
    }
    none_found(&findings);
}

#[test]
fn the_import_check_sees_lists() {
    let named = |code| modules_named(code).into_iter().collect::<Vec<_>>();
    assert_eq!(named("use crate::shell::lanes;"), ["shell"]);
    assert_eq!(named("use crate::{core::{spec, work}, api::page};"), ["api", "core"]);
    assert_eq!(named("let x = crate::cli::run(crate::core::y);"), ["cli", "core"]);
    assert_eq!(named("$crate::cli::run"), Vec::<String>::new());
}

#[test]
fn names_say_something() {
    const BEFORE_NAMES: [&str; 9] = ["fn ", "struct ", "enum ", "trait ", "type ", "mod ", "const ", "static ", "macro_rules! "];
    let mut findings = Vec::new();
    for source in everything() {
        for word in words(&source.path) {
            if EMPTY_WORDS.contains(&word.as_str()) {
                findings.push(format!("{}: a file name with `{word}`", source.path));
            }
        }
        for (number, code) in source.code() {
            for before in BEFORE_NAMES {
                for (at, _) in code.match_indices(before) {
                    let name: String = code[at + before.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if let Some(word) = words(&name).into_iter().find(|word| EMPTY_WORDS.contains(&word.as_str())) {
                        findings.push(format!("{}:{number}: `{name}`: `{word}` names nothing", source.path));
                    }
                }
            }
        }
    }
    none_found(&findings);
}

/// `TokenManager_x` → token, manager, x.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        if !character.is_alphanumeric() || character.is_uppercase() {
            words.push(String::new());
        }
        if character.is_alphanumeric() {
            words.last_mut().unwrap().extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn core_iterates_in_order_and_never_leaves() {
    const FORBIDDEN: [&str; 9] =
        ["HashMap", "HashSet", "tokio", "std::fs", "std::env", "std::net", "std::process", "SystemTime", "Instant::now"];
    let mut findings = Vec::new();
    for source in sources("src/core") {
        for (number, code) in source.code() {
            if let Some(word) = FORBIDDEN.iter().find(|word| code.contains(**word)) {
                findings.push(format!("{}:{number}: `{word}` has no place in core", source.path));
            }
        }
    }
    none_found(&findings);
}

#[test]
fn core_compiles_alone() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("core-alone");
    let manifest = bed::repository("tests/core-alone/Cargo.toml");
    let output = cargo(&["check", "--offline", "--locked", "--manifest-path"], &[&manifest, Path::new("--target-dir"), &target]);
    assert!(
        output.status.success(),
        "src/core needs more than its dependencies (after an update of Cargo.lock: copy it to tests/core-alone/ and run \
         `cargo check --offline` there):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ours = locked(&bed::repository("Cargo.lock"));
    let alone = locked(&bed::repository("tests/core-alone/Cargo.lock"));
    let other: Vec<_> = alone.difference(&ours).filter(|package| !package.starts_with("core-alone ")).collect();
    assert!(other.is_empty(), "tests/core-alone/Cargo.lock has versions that Cargo.lock has not: {other:?}");
}

fn cargo(arguments: &[&str], paths: &[&Path]) -> Output {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    Command::new(cargo).current_dir(bed::repository("")).args(arguments).args(paths).output().expect("cargo starts")
}

/// `name version` of each package in a lock file.
fn locked(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let value = |line: Option<&str>| line.and_then(|line| line.split('"').nth(1)).unwrap_or_default().to_owned();
    text.split("[[package]]\n")
        .skip(1)
        .map(|package| {
            let mut lines = package.lines();
            format!("{} {}", value(lines.next()), value(lines.next()))
        })
        .collect()
}

#[test]
fn one_cryptography_library() {
    let output = cargo(&["tree", "--offline", "--locked", "--invert", "ring", "--edges", "normal,build,dev"], &[]);
    assert!(output.stdout.is_empty(), "`ring` came in beside aws-lc-rs:\n{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn files_and_functions_are_short() {
    let mut findings = Vec::new();
    for source in everything() {
        let count = source.text.lines().count();
        if count > FILE_LINES.1 {
            findings.push(format!("{}: {count} lines, at most {}: split it by an idea", source.path, FILE_LINES.1));
        } else if count > FILE_LINES.0 {
            eprintln!("note: {} has {count} lines; {} are enough", source.path, FILE_LINES.0);
        }
        for (name, number, length) in functions(&source) {
            if length > FUNCTION_LINES {
                findings.push(format!("{}:{number}: `{name}` has {length} lines, at most {FUNCTION_LINES}", source.path));
            }
        }
    }
    none_found(&findings);
}

/// Name, first line and length of each function. The tree is formatted: the closing brace stands below its `fn`.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut open: Vec<(String, usize, usize)> = Vec::new();
    for (number, line) in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let code = without_strings_and_comment(line);
        let signature = code.trim();
        if is_signature(signature) && !signature.ends_with('}') && !signature.ends_with(';') {
            let name = signature.split("fn ").nth(1).unwrap_or_default();
            open.push((name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(), number, indent));
        } else if signature.starts_with(')') && signature.ends_with(';') {
            // A trait's method without a body.
            open.pop_if(|(_, _, own)| *own == indent);
        } else if line.trim_end() == format!("{:indent$}}}", "")
            && let Some((name, first, _)) = open.pop_if(|(_, _, own)| *own == indent)
        {
            found.push((name, first, number + 1 - first));
        }
    }
    found
}

/// Whether a line begins a function: `fn` after nothing but qualifiers.
fn is_signature(line: &str) -> bool {
    const QUALIFIERS: [&str; 5] = ["pub", "pub(crate)", "pub(super)", "async", "const"];
    line.split_once("fn ").is_some_and(|(before, _)| before.split_whitespace().all(|word| QUALIFIERS.contains(&word)))
}

#[test]
fn function_lengths_are_seen() {
    let text = "impl A {\n    pub(crate) async fn long(\n        a: u8,\n    ) -> u8 {\n        {\n        }\n        a\n    }\n\n    fn short() {}\n}\n";
    let source = Source { path: "a.rs".into(), text: text.into() };
    assert_eq!(functions(&source), [("long".to_owned(), 2, 7)]);
}

#[test]
fn every_module_says_what_it_is() {
    let findings: Vec<_> = everything()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}: begins without `//!`", source.path))
        .collect();
    none_found(&findings);
}

#[test]
fn nothing_is_left_for_later_or_bound_to_this_machine() {
    // Written apart, so that this file does not find itself.
    let later = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("unimplemented", "!"), concat!("todo", "!")];
    let mut places = vec![env!("CARGO_MANIFEST_DIR").to_owned()];
    places.extend(std::env::var_os("HOME").map(|home| format!("{}/", home.to_string_lossy())).filter(|home| home.len() > 2));
    let mut findings = Vec::new();
    for source in everything() {
        for (number, line) in source.lines() {
            if let Some(word) = later.iter().find(|word| line.contains(**word)) {
                findings.push(format!("{}:{number}: `{word}`", source.path));
            }
            if let Some(place) = places.iter().find(|place| line.contains(place.as_str())) {
                findings.push(format!("{}:{number}: `{place}` is a place on this machine", source.path));
            }
        }
    }
    none_found(&findings);
}

#[test]
fn reason_codes_are_unique_and_explained() {
    let mut seen = BTreeMap::new();
    for (code, name, meaning) in Reason::TABLE {
        let digits = code.strip_prefix("BS").unwrap_or_default();
        assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{name}: `{code}` is not BS and three digits");
        assert!(meaning.trim().ends_with('.'), "{code} {name}: `{}` is no sentence", meaning.trim());
        if let Some(other) = seen.insert(code, name) {
            panic!("{code} means both {other} and {name}");
        }
    }
    assert!(seen.keys().is_sorted() && Reason::TABLE.is_sorted_by_key(|(code, ..)| *code), "the table is out of order");
}

#[test]
fn the_licence_is_apache_2() {
    let text = fs::read_to_string(bed::repository("LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004") && text.contains("END OF TERMS AND CONDITIONS"));
    assert!(fs::read_to_string(bed::repository("Cargo.toml")).unwrap().contains("license = \"Apache-2.0\""));
}

#[test]
fn the_readme_s_commands_exist() {
    let Ok(text) = fs::read_to_string(bed::repository("README.md")) else {
        return bed::skip("the_readme_s_commands_exist", "README.md");
    };
    let mut findings = Vec::new();
    for (number, line) in commands(&text) {
        let mut words = line.split_whitespace().skip_while(|word| word.contains('=') && !word.starts_with('-'));
        let Some(program) = words.next() else { continue };
        if program.rsplit('/').next() == Some("backstop") {
            let verb: Vec<&str> = words.take_while(|word| !word.starts_with('-')).take(1).collect();
            if !verb.is_empty() && !knows(&verb) {
                findings.push(format!("README.md:{number}: `backstop {}` does not exist", verb.join(" ")));
            }
        } else if program.contains('/') && !program.starts_with(['/', '~', '$']) && !program.starts_with("target/") {
            let file = bed::repository(program);
            if !file.exists() {
                findings.push(format!("README.md:{number}: `{program}` does not exist"));
            }
        }
    }
    none_found(&findings);
}

/// Numbered commands of a page: lines of `console` blocks that begin with `$ `, and of `sh` and `bash` blocks.
fn commands(page: &str) -> Vec<(usize, &str)> {
    let (mut found, mut block) = (Vec::new(), None);
    for (index, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language.trim()),
            (Some(_), Some(_)) => block = None,
            (None, Some("console")) => found.extend(line.strip_prefix("$ ").map(|command| (index + 1, command))),
            (None, Some("sh" | "bash" | "shell")) if !line.starts_with('#') => found.push((index + 1, line)),
            _ => {}
        }
    }
    found
}

/// Whether the command line knows this verb: `VERB --help` fails for others.
fn knows(verb: &[&str]) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_backstop")).args(verb).arg("--help").output().expect("backstop starts");
    output.status.success()
}
