//! Stories: every shipped one ends well, with the transcript that is kept; every way to get a line wrong is told with its
//! place, what was expected and how to say it.

#[path = "golden/mod.rs"]
mod golden;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use backstop::sim::story::{self, Story};
use golden::{golden, root};

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is there").map(|entry| entry.expect("an entry can be read").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "story")).collect();
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_name().expect("a file has a name").to_string_lossy().into_owned()
}

#[test]
fn every_shipped_story_ends_well_and_as_before() {
    let mut wrong = String::new();
    for file in files("examples") {
        let text = fs::read_to_string(&file).expect("a story can be read");
        let story = match Story::parse(&name(&file), &text) {
            Ok(story) => story,
            Err(findings) => panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")),
        };
        let play = || story::run(&story, story.guard(), story.policy());
        let transcript = play();
        assert_eq!(transcript.lines, play().lines, "{}: two runs differ", name(&file));
        if let Some(failure) = &transcript.failure {
            writeln!(wrong, "{transcript}\nin {}: {failure}\n", name(&file)).expect("a text can be written");
            continue;
        }
        let golden_file = root().join("tests/golden/stories").join(name(&file)).with_extension("txt");
        if let Err(difference) = golden(&golden_file, &transcript.to_string()) {
            writeln!(wrong, "{difference}").expect("a text can be written");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}\nrun again with BACKSTOP_UPDATE_GOLDEN=1 if this is right");
}

#[test]
fn every_line_that_cannot_be_played_is_told_with_place_and_fix() {
    let text = fs::read_to_string(root().join("tests/golden/stories/broken.story")).expect("the broken story can be read");
    let findings = Story::parse("broken.story", &text).expect_err("it is broken");
    assert!(findings.iter().all(|finding| finding.place.is_some() && finding.expected.is_some()), "{findings:?}");
    let told = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n") + "\n";
    golden(&root().join("tests/golden/stories/broken.txt"), &told).expect("the findings are as before");
}

#[test]
fn stories_without_an_end_are_not_read() {
    for (text, what) in [
        ("# nothing\n".to_owned(), "says nothing"),
        ("wait 1s\n".repeat(501), "more than 500"),
        ("#".repeat(70_000), "70000 bytes"),
        ("wait 5h\n".repeat(5), "takes 1day 1h in all"),
    ] {
        let findings = Story::parse("long.story", &text).expect_err("it is not read");
        assert!(findings[0].message.contains(what), "{findings:?}");
    }
}

#[test]
fn an_expectation_that_is_not_met_is_told_with_its_line_and_what_was_seen() {
    let text = "v1 is known good\nagent bot deploys v2\n\nexpect traffic on v2 within 1s\nexpect phase Idle\n";
    let story = Story::parse("unmet.story", text).expect("it can be played");
    let transcript = story::run(&story, story.guard(), story.policy());
    let failure = transcript.failure.clone().expect("it is not met");
    assert!(failure.contains("line 4: expected `traffic on v2` within 1s\nseen instead: traffic: v2 20%, v1 80%; Advancing"), "{failure}");
    assert!(!transcript.to_string().contains("expect phase Idle"), "nothing is played after that");
}
