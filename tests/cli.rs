//! The command line as people and programs see it: texts against golden files, and the real program against a controller.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;

use backstop::api::wire::Standing;
use backstop::cli::status::{detail, overview, verdict_line};
use backstop::cli::text::Paint;
use backstop::cli::{Cli, Ended, ended, plan_text};
use backstop::core::input::{Observed, Parts};
use backstop::core::machine::verbs;
use backstop::core::preview::{RevertPlan, View};
use backstop::core::reason::{Counts, Reason};
use backstop::core::state::{Phase, PhaseKind, Revert, State, Target};
use backstop::core::time::Mono;
use backstop::shell::standalone::{Controller, Setup};
use backstop::world::store::Store;
use clap::CommandFactory as _;
use fake::{Fake, KEY, at, guard, on_trial, release, resting, serving, waiting};
use reqwest::StatusCode;
use tokio::net::UnixListener;

fn golden(name: &str, text: &str) {
    insta::with_settings!({snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, text);
    });
}

fn standing(state: &State, observed: &Observed) -> Standing {
    let guard = guard();
    let plan = RevertPlan::of(&guard.key, &guard.uid, &guard.spec, state, observed);
    Standing { view: View::of_state(KEY, state, observed), plan, notes: Vec::new() }
}

/// v43 at 25 %, with what the judge knows.
fn judged() -> Standing {
    let (state, observed) = on_trial();
    let mut at = standing(&state, &observed);
    at.view.waiting = Some(waiting());
    let counts = Counts {
        candidate_bad: 3.0,
        candidate_total: 420.0,
        stable_bad: 6.0,
        stable_total: 1260.0,
        objective_evidence: -1.25,
        baseline_evidence: Some(0.4),
        intervals: 42,
    };
    let objective = serde_json::json!({
        "name": "availability", "counts": counts, "alarm": 6.9, "health": 1.0, "healthy": 3.0, "missing": 180, "onset": null,
    });
    at.view.objectives = vec![serde_json::from_value(objective).unwrap()];
    at
}

fn reverting(phase: fn(Box<Revert>) -> Phase) -> Standing {
    let (mut state, observed) = on_trial();
    let counts = Counts { candidate_bad: 30.0, candidate_total: 420.0, stable_total: 1260.0, ..Counts::default() };
    let revert = Revert {
        id: "rv-3f9a1c2b4d5e".into(),
        generation: 4,
        under: Some(release("v43")),
        reason: Reason::Breach { objective: "availability".into(), counts },
        by: None,
        since: at(300),
        until: Mono(600_000),
        parts: Parts::All,
        only: None,
        break_glass: false,
        target: Target::Chosen(release("v41").id),
        skipped: vec![(release("v42").id, Reason::LedgerUntrusted { what: "its signature is another key's".into() })],
        traffic_back: Some(Mono(300_012)),
        flags_safe: Some(Mono(300_030)),
        release_back: None,
    };
    state.phase = phase(Box::new(revert));
    standing(&state, &observed)
}

const PLAIN: fn() -> Paint = || Paint::new(false);

#[test]
fn every_verb_has_help_with_examples() {
    let mut all = String::new();
    let root = Cli::command().term_width(100);
    let mut commands: Vec<clap::Command> = vec![root.clone()];
    commands.extend(root.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
    for mut command in commands {
        let help = command.clone().term_width(100).render_long_help().to_string();
        if command.get_name() != "backstop" {
            assert!(help.contains("Examples:\n  backstop "), "`{}` has no examples", command.get_name());
        }
        let _ = writeln!(all, "==== {}\n{help}", command.get_name());
        command.build();
    }
    golden("help", &all);
    Cli::command().debug_assert();
}

#[test]
fn status_says_where_it_stands_and_why() {
    let judged = judged();
    assert_eq!(verdict_line(&judged.view), "Advancing 20% · stage 2 of 3 · BS022 `availability` needs 180 more good requests");
    golden("status-judged", &detail(&judged, PLAIN(), at(400).wall));
    golden("status-reverting", &detail(&reverting(Phase::Reverting), PLAIN(), at(310).wall));
    golden("status-resting", &detail(&standing(&resting(), &serving()), PLAIN(), at(400).wall));
    let views = [judged.view, reverting(Phase::Reverting).view, standing(&resting(), &serving()).view];
    golden("status-overview", &overview(&views, PLAIN()));
}

#[test]
fn what_agents_wrote_does_not_steer_the_terminal() {
    let text = detail(&judged(), PLAIN(), at(400).wall) + &plan_text(&judged(), Parts::All, None, PLAIN());
    assert!(text.contains("bump the tax table") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn colour_is_only_where_it_is_wanted() {
    let text = detail(&judged(), Paint::new(true), at(400).wall);
    let plain = text.replace("\u{1b}[0m", "");
    assert!(plain.len() < text.len());
    let aligned = |text: &str| text.lines().filter(|line| line.contains("traffic")).count();
    assert_eq!(aligned(&text), aligned(&detail(&judged(), PLAIN(), at(400).wall)));
}

#[test]
fn the_plan_comes_before_the_revert() {
    golden("plan-trial", &plan_text(&judged(), Parts::All, None, PLAIN()));
    golden("plan-idle", &plan_text(&standing(&resting(), &serving()), Parts::All, None, PLAIN()));
    golden("plan-flags", &plan_text(&judged(), Parts::Flags, None, PLAIN()));
    golden("plan-attach", &plan_text(&reverting(Phase::Recovering), Parts::All, None, PLAIN()));
}

#[test]
fn the_end_of_a_revert_is_told_apart() {
    let end = |at: &Standing| ended(&at.view, "rv-3f9a1c2b4d5e", 4);
    assert_eq!(end(&reverting(Phase::Reverting)), None);
    assert_eq!(end(&reverting(Phase::Recovering)), None);
    assert_eq!(end(&reverting(Phase::Reverted)), Some(Ended::Recovered));
    let stuck = |reason: Reason| {
        let mut at = reverting(Phase::Reverting);
        at.view.phase = PhaseKind::Stuck;
        at.view.reason = Some(reason);
        at
    };
    assert_eq!(end(&stuck(Reason::NoTarget {})), Some(Ended::Partly));
    assert_eq!(end(&stuck(Reason::NotRecovered { what: "no better".into() })), Some(Ended::Stuck));
    let mut newer = judged();
    newer.view.generation = 5;
    assert_eq!(end(&newer), Some(Ended::Superseded));
}

/// The table of verbs in ARCHITECTURE.md is the one that the machine obeys.
#[test]
fn the_table_of_verbs_is_true() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(file).unwrap();
    let block = text.split_once("<!-- verbs -->\n").and_then(|(_, rest)| rest.split_once("<!-- /verbs -->")).map(|(block, _)| block);
    assert_eq!(block.unwrap().trim(), verbs::table().trim(), "put this between the `verbs` markers:\n{}", verbs::table());
}

// --------------------------------------------------------------------------------------------- the program

async fn backstop(dir: &Path, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(args).arg("--data-dir").arg(dir).stdin(std::process::Stdio::null()).kill_on_drop(true);
    for name in ["BACKSTOP_DATA_DIR", "BACKSTOP_SERVER", "BACKSTOP_ACTOR", "NO_COLOR"] {
        command.env_remove(name);
    }
    tokio::time::timeout(std::time::Duration::from_secs(20), command.output()).await.expect("it ends").unwrap()
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_asks_first_then_tells_how_it_goes() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let dir = fake.dir.path();
    let (code, out, _) = texts(&backstop(dir, &["revert", "checkout", "--dry-run"]).await);
    assert_eq!(code, 10, "{out}");
    assert!(out.contains("takes out") && out.contains("v42") && out.contains("v41"), "{out}");
    let (code, _, err) = texts(&backstop(dir, &["revert", "checkout"]).await);
    assert_eq!(code, 2);
    assert!(err.contains("error: nobody can be asked") && err.contains("hint: add `--yes`"), "{err}");
    let (code, out, err) = texts(&backstop(dir, &["revert", "--yes", "--reason", "INC-42"]).await);
    assert_eq!(code, 0, "{out}{err}");
    for says in ["flags are safe", "traffic is back", "the release is restored", "shop/checkout is back, and held"] {
        assert!(out.contains(says), "{says}: {out}");
    }
    // Held: the same command finds nothing to do, in both kinds.
    assert_eq!(texts(&backstop(dir, &["revert", "checkout", "--dry-run"]).await).0, 0);
    let (code, out, _) = texts(&backstop(dir, &["revert", "checkout", "--json"]).await);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ended"], &value["view"]["phase"]), (0, &"recovered".into(), &"Reverted".into()));
    let (code, out, err) = texts(&backstop(dir, &["lift", "checkout", "--reason", "INC-42 is over"]).await);
    assert_eq!((code, out.contains("BS090 lift by human uid:")), (0, true), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_end_with_5_and_say_why() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let dir = fake.dir.path();
    let deploy = ["deploy", "--env", "FEATURE=on", "--label", "v43", "--actor", "agent:bot@1", "--rationale", "a test"];
    let (code, out, err) = texts(&backstop(dir, &deploy).await);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("shop/checkout: v43") && out.contains("goes on trial"), "{out}");
    // The claim lowered the rights: this is no person any more.
    let (code, out, err) = texts(&backstop(dir, &["resume", "checkout", "--actor", "agent:bot@1", "--json"]).await);
    assert_eq!(code, 5);
    assert!(err.starts_with("error: BS056 not allowed: `resume` needs a person"), "{err}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["error"]["code"], "BS056");
    let (code, _, err) = texts(&backstop(dir, &["freeze", "--all"]).await);
    assert_eq!(code, 0, "{err}");
    let image = format!("checkout@sha256:{}", "0".repeat(64));
    let (code, _, err) = texts(&backstop(dir, &["deploy", "--image", &image]).await);
    assert_eq!((code, err.as_str()), (5, "error: BS051 a freeze is on\n"));
    assert_eq!(texts(&backstop(dir, &["thaw", "--all"]).await).0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_end_with_2_and_a_missing_controller_with_4() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let dir = fake.dir.path();
    for args in [
        &["status", "cart"][..],
        &["freeze"],
        &["disarm", "checkout", "--for", "25h"],
        &["lift", "checkout"],
        &["revert", "checkout", "--to", "v99", "--yes"],
        &["revert", "checkout", "--traffic-only", "--flag-only"],
        &["revert", "checkout", "--break-glass", "--yes"],
        &["deploy", "checkout"],
        &["explain", "BS999"],
        &["pause", "checkout", "--actor", "robot"],
    ] {
        let (code, out, err) = texts(&backstop(dir, args).await);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.starts_with("error: "), "{args:?}: {err}");
    }
    assert_eq!(texts(&backstop(dir, &["ready"]).await).0, 0);
    let nowhere = tempfile::tempdir().unwrap();
    let (code, _, err) = texts(&backstop(nowhere.path(), &["pause", "checkout"]).await);
    assert_eq!(code, 4);
    assert!(err.starts_with("error: the controller does not answer\ncause: ") && err.contains("\nhint: "), "{err}");
}

/// Has a controller keep the shipped documents of `shop/checkout` in this folder, and end. Copies: a revert sets their flags.
async fn keep_store(dir: &Path) {
    let (shipped, rollouts) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("rollouts"), dir.join("rollouts"));
    std::fs::create_dir_all(rollouts.join("flags")).unwrap();
    for file in ["canary-process.yaml", "policy.yaml", "sources.yaml", "flags/shop.flagd.json"] {
        std::fs::copy(shipped.join(file), rollouts.join(file)).unwrap();
    }
    let setup = Setup {
        data_dir: dir.to_owned(),
        specs: ["canary-process.yaml", "policy.yaml", "sources.yaml"].map(|name| rollouts.join(name)).into(),
        host_socket: dir.join("host/host.sock"),
        content: dir.join("host/content"),
        docker_config: None,
        webhook: None,
    };
    Controller::start(&setup).await.unwrap_or_else(|error| panic!("{error:?}")).stop().await;
}

async fn is_frozen(dir: &Path, key: &str) -> bool {
    let store = Store::open(&dir.join("store"), &dir.join("spool")).unwrap();
    store.load(key).await.unwrap().is_some_and(|state| state.overlays.frozen.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_there_and_of_no_help_is_done_without() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let dir = fake.dir.path();
    keep_store(dir).await;
    // The rollout's task is gone: whoever asks gets a 503.
    fake.handle.connect(KEY.into(), fake::line(1).0);
    let (code, _, err) = texts(&backstop(dir, &["freeze", "checkout", "--reason", "INC-42"]).await);
    assert_eq!((code, err.contains("is not looked after now") && err.contains("acting directly")), (0, true), "{err}");
    assert!(is_frozen(dir, KEY).await);
    let (code, out, err) = texts(&backstop(dir, &["revert", "checkout", "--yes", "--timeout", "3s"]).await);
    assert!(code != 4 && err.contains("acting directly"), "{code}: {out}{err}");
    // What loosens is not done without it.
    let (code, _, err) = texts(&backstop(dir, &["thaw", "checkout"]).await);
    assert_eq!((code, err.contains("acting directly")), (4, false), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stands_in_a_controllers_place_stops_no_freeze() {
    let answers = [(502, "bad gateway"), (503, "not now"), (504, "too late"), (200, "a proxy's page")];
    for (status, body) in answers {
        let dir = tempfile::tempdir().unwrap();
        keep_store(dir.path()).await;
        let answer = move || async move { (StatusCode::from_u16(status).unwrap(), body) };
        let socket = UnixListener::bind(dir.path().join("backstop.sock")).unwrap();
        tokio::spawn(async move { axum::serve(socket, axum::Router::new().fallback(answer)).await });
        let (code, out, err) = texts(&backstop(dir.path(), &["freeze", "--all"]).await);
        assert_eq!((code, err.contains("acting directly")), (0, true), "{status}: {out}{err}");
        assert!(is_frozen(dir.path(), "*").await, "{status}");
    }
    // A refusal is one.
    let dir = tempfile::tempdir().unwrap();
    keep_store(dir.path()).await;
    let socket = UnixListener::bind(dir.path().join("backstop.sock")).unwrap();
    tokio::spawn(async move { axum::serve(socket, axum::Router::new().fallback(|| async { StatusCode::FORBIDDEN })).await });
    assert_eq!(texts(&backstop(dir.path(), &["freeze", "--all"]).await).0, 5);
    assert!(!is_frozen(dir.path(), "*").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_all_there_is_on_standard_output() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let dir = fake.dir.path();
    for args in [
        &["status", "--json"][..],
        &["status", "checkout", "--json"],
        &["ready", "--json"],
        &["pause", "--json"],
        &["explain", "BS001", "--json"],
    ] {
        let (code, out, err) = texts(&backstop(dir, args).await);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_line_that_makes_no_sense_is_told_as_json_too() {
    let nowhere = tempfile::tempdir().unwrap();
    let dir = nowhere.path();
    for (args, says) in [
        (&["frobnicate", "--json"][..], "unrecognized subcommand 'frobnicate'"),
        (&["--json", "freeze"], "required arguments were not provided: <SERVICE|--namespace <NAMESPACE>|--all>"),
        (&["status", "--json", "--wacth"], "unexpected argument '--wacth' found"),
        (&["changes", "--since", "500000000000y", "--json"], "longer than 100 years"),
        (&["revert", "--timeout", "18446744073709551615s", "--json"], "longer than 100 years"),
        (&["disarm", "checkout", "--for", "18446744073709551615s 1000ms", "--json"], "number is too large"),
    ] {
        let (code, out, err) = texts(&backstop(dir, args).await);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"));
        let error = &value["error"];
        assert_eq!((code, &error["exit"], &error["code"]), (2, &2.into(), &serde_json::Value::Null), "{args:?}: {err}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says) && !message.starts_with("error:"), "{args:?}: {message}");
        assert!(err.starts_with("error: ") && error["hints"].as_array().is_some_and(|hints| !hints.is_empty()), "{args:?}: {out}");
    }
    let (code, out, _) = texts(&backstop(dir, &["status", "--wacth"]).await);
    assert_eq!((code, out.as_str()), (2, ""));
    for asked in ["--help", "--version"] {
        let (code, out, err) = texts(&backstop(dir, &[asked, "--json"]).await);
        assert_eq!((code, out.starts_with('{'), out.contains("backstop"), err.as_str()), (0, false, true, ""), "{asked}");
    }
}

/// The real controller of one guard, whose documents are in the file `documents.yaml`; it has no host.
async fn controller(dir: &Path) -> tokio::process::Child {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/broken/bad-duration.yaml")).unwrap();
    let specs = dir.join("documents.yaml");
    std::fs::write(&specs, text.replace("2 minutos", "2m")).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.arg("run").arg("--specs").arg(&specs).arg("--data-dir").arg(dir).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    while texts(&backstop(dir, &["status"]).await).1.lines().filter(|line| line.contains("shop/checkout")).count() != 1 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_was_never_deployed_is_there_without_the_controller() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    controller(dir).await.kill().await.unwrap();
    let (code, out, err) = texts(&backstop(dir, &["status"]).await);
    assert_eq!((code, out.contains("shop/checkout"), err.contains("the controller does not answer")), (0, true, true), "{out}{err}");
    let (code, out, err) = texts(&backstop(dir, &["ready"]).await);
    assert_eq!((code, out.contains("shop/checkout")), (1, true), "{out}{err}");
    let (_, out, err) = texts(&backstop(dir, &["revert", "checkout", "--dry-run"]).await);
    assert!(!err.contains("there is no rollout") && out.contains("shop/checkout"), "{out}{err}");
    let (code, out, err) = texts(&backstop(dir, &["freeze", "--namespace", "shop", "--json"]).await);
    assert_eq!((code, out.contains("\"rollouts\": 1") || out.contains("\"rollouts\":1")), (0, true), "{out}{err}");
    let (code, out, err) = texts(&backstop(dir, &["freeze", "checkout"]).await);
    assert_eq!((code, out.contains("shop/checkout")), (0, true), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_reading_documents_hears_that_it_is_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let specs = folder.path().join("documents.yaml");
    let mut child = controller(folder.path()).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    // Whoever reads a pipe waits for whoever writes, and the other way round.
    let text = std::fs::read(&specs).unwrap();
    std::fs::remove_file(&specs).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&specs).status().unwrap().success());
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let opened = tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(specs)).await.unwrap().unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    std::io::Write::write_all(&mut { opened }, &text).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), child.wait()).await.expect("it ends");
    assert!(ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_the_loopback_address() {
    let fake = Fake::start(resting(), serving(), "human").await;
    let (dir, nowhere) = (fake.dir.path(), tempfile::tempdir().unwrap());
    let token = dir.join("token");
    std::fs::write(&token, "alice-token\n").unwrap();
    let args = ["status", "--server", &fake.url, "--token-file", token.to_str().unwrap()];
    let (code, out, err) = texts(&backstop(nowhere.path(), &args).await);
    assert_eq!((code, out.contains("shop/checkout")), (0, true), "{err}");
    std::fs::write(&token, "guess").unwrap();
    assert_eq!(texts(&backstop(nowhere.path(), &args).await).0, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_story_is_played_under_the_guard_that_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (folder, rollouts) = (tempfile::tempdir().unwrap(), root.join("rollouts"));
    let story = folder.path().join("own.story");
    // The shipped guard goes from 5 % to 20 %; the guard that stories are played under by default begins with 20 %.
    let text = "story A step of our own\n\ntraffic 200/s\nv1 is known good\nperson ann deploys v2\nwait until traffic on v2 STEP\n\
                person ann reverts\nexpect accepted\nexpect traffic on v1 within 1s\n";
    let first = first_step(&rollouts.join("canary-process.yaml"));
    std::fs::write(&story, text.replace("STEP", &first)).unwrap();
    let (story, rollouts) = (story.to_str().unwrap(), rollouts.to_str().unwrap());
    let under = ["simulate", "--story", story, rollouts, "--guard", "shop/checkout"];
    let (code, out, err) = texts(&backstop(folder.path(), &under).await);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = texts(&backstop(folder.path(), &under[..3]).await);
    assert_eq!(code, 1, "the default guard has other steps: {out}{err}");
    assert!(format!("{out}{err}").contains("line 6"), "{out}{err}");
}

/// The weight of the first step that a canary's file names.
fn first_step(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let (_, steps) = text.split_once("weight: ").expect("a canary has steps");
    steps.split([',', '\n', ' ', '}']).next().unwrap().to_owned()
}
