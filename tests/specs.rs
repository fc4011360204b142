//! Specifications: the shipped ones, and every way to get one wrong.

#[path = "golden/mod.rs"]
mod golden;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstop::spec::{CheckReport, Loaded, Severity, check, load, load_text};
use golden::{golden, root};

fn findings(report: &CheckReport) -> String {
    report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n") + "\n"
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is there").map(|entry| entry.expect("an entry can be read").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn shipped_specifications_have_no_errors_and_no_warnings() {
    let report = check(&[root().join("rollouts")]);
    assert!(report.is_ok() && report.count(Severity::Warning) == 0, "{}", findings(&report));
    assert_eq!(report.insights.len(), 6, "a guard per strategy, of processes and on Kubernetes");
    golden(&root().join("tests/golden/rollouts.txt"), &report.insights.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))
        .unwrap();
}

/// What the API server is given; a change here is a change of what every cluster accepts.
#[test]
fn custom_resources_are_as_before() {
    let text = backstop::spec::write::documents(&backstop::spec::crd::definitions());
    golden(&root().join("tests/golden/crds.yaml"), &text).unwrap();
}

/// What a cluster is given; a change here is a change of somebody's rights.
#[test]
fn an_installation_is_as_before() {
    let install = backstop::spec::install::Install {
        namespace: "backstop-system".into(),
        namespaces: vec!["shop".into()],
        image: format!("registry.example/backstop@sha256:{}", "9".repeat(64)),
        replicas: 2,
        log_volume: Some("1Gi".into()),
    };
    // The definitions have a golden file of their own.
    let mut objects = install.objects().unwrap();
    objects.retain(|one| one["kind"] != "CustomResourceDefinition");
    golden(&root().join("tests/golden/install.yaml"), &backstop::spec::write::documents(&objects)).unwrap();
}

#[test]
fn the_documentation_tells_the_rights_that_are_asked_for() {
    let path = root().join("ARCHITECTURE.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- rights -->\n").expect("ARCHITECTURE.md has a table of rights");
    let (_, after) = rest.split_once("<!-- /rights -->").expect("the table ends");
    let right = format!("{before}<!-- rights -->\n{}<!-- /rights -->{after}", backstop::spec::install::access::markdown());
    golden(&path, &right).unwrap();
}

#[test]
fn every_broken_file_gives_its_golden_errors() {
    let files = yaml_files("tests/golden/broken");
    assert!(files.len() >= 30, "only {} files", files.len());
    let mut wrong = String::new();
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let report = match String::from_utf8(bytes) {
            Ok(text) => CheckReport::of(&load_text(&name, &text, file.parent().unwrap())),
            // Only a file can hold what is no text; its place is shown by its full path.
            Err(_) => check(&[&file]),
        };
        assert!(!report.is_ok() || report.count(Severity::Warning) > 0, "{name} is not broken");
        let text = findings(&report).replace(&file.display().to_string(), &name);
        if let Err(difference) = golden(&file.with_extension("txt"), &text) {
            writeln!(wrong, "{difference}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What is named like a specification is read, or said: a policy behind a broken link is not lost without a word.
#[test]
fn what_cannot_be_read_in_a_folder_is_an_error() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::copy(root().join("tests/golden/broken/too-short.yaml"), at("read.yaml")).unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    fs::write(at(".hidden.yaml"), "kind: [").unwrap();
    std::os::unix::fs::symlink("read.yaml", at("link.yml")).unwrap();
    let unreadable = || {
        let report = check(&[folder.path()]);
        let findings = report.findings.iter().filter(|finding| finding.code == "SP001");
        findings.map(|finding| (finding.severity, finding.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(unreadable(), []);
    std::os::unix::fs::symlink("nowhere.yaml", at("dangling.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yml", at("loop.yml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.yaml")).status().unwrap().success());
    let found = unreadable();
    assert!(found.iter().all(|(severity, _)| *severity == Severity::Error));
    for (name, why) in [("dangling.yaml", "No such file"), ("loop.yml", "symbolic link"), ("pipe.yaml", "neither a file")] {
        assert!(found.iter().any(|(_, message)| message.contains(name) && message.contains(why)), "{name}: {found:?}");
    }
    fs::remove_file(at("read.yaml")).unwrap();
    fs::remove_file(at("link.yml")).unwrap();
    assert_eq!(unreadable().len(), 3, "and nothing is said to be missing");
}

/// Such documents are refused since, and a store may have kept them.
#[test]
fn kept_spans_beyond_all_bounds_overflow_nothing() {
    let ever = "18446744073709551615s";
    let spec = serde_json::json!({
        "workload": {"process": {"listen": "127.0.0.1:0", "artifacts": {"registry": {}}}}, "arms": {"by": "route"}, "source": "fleet",
        "objectives": [{"name": "availability", "good": "99%", "ratio": {"bad": "requests{code=\"500\"}", "total": "requests"}}],
        "alsoBreachOn": [{"all": [{"objective": "availability", "bad": ">5%", "over": ever}], "for": ever}],
        "strategy": {"canary": {"candidate": {"warmUp": ever}, "steps": [{"weight": "5%", "bake": ever}]}},
        "watch": {"for": ever}, "recovery": {"deadline": ever}, "retreat": {"for": ever}, "attestation": {"policy": "release"},
    });
    let metadata = serde_json::from_value(serde_json::json!({"name": "checkout", "namespace": "shop"})).unwrap();
    let rollouts = [("shop/checkout".to_owned(), (metadata, std::sync::Arc::new(serde_json::from_value(spec).unwrap())))];
    for interval in ["1s", ever] {
        let source = serde_json::json!({"prometheus": {"url": "http://127.0.0.1:9090", "scrapeInterval": interval}});
        let sources = [("fleet".to_owned(), serde_json::from_value(source).unwrap())];
        let loaded = Loaded::kept(rollouts.clone().into(), BTreeMap::new(), sources.into(), BTreeMap::new());
        assert_eq!(CheckReport::of(&loaded).insights.len(), 1);
    }
}

/// A folder for files that are generated.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// The codes of the findings about a text, and how long it took to find them.
fn codes(text: &str) -> (Vec<&'static str>, Duration) {
    #[allow(clippy::disallowed_methods)] // a test measures
    let start = std::time::Instant::now();
    let report = CheckReport::of(&load_text("generated.yaml", text, root()));
    (report.findings.iter().map(|finding| finding.code).collect(), start.elapsed())
}

#[test]
fn a_file_of_ten_megabytes_is_refused_unread() {
    let folder = folder();
    let path = folder.path().join("large.yaml");
    fs::write(&path, "a: 1\n".repeat(2_000_000)).unwrap();
    let report = check(&[&path]);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].code, "SP002");
    assert!(report.findings[0].message.contains("1 MiB"), "{}", report.findings[0]);
}

#[test]
fn a_yaml_bomb_is_refused_quickly() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..20 {
        let before = level - 1;
        writeln!(bomb, "a{level}: &a{level} [{}]", vec![format!("*a{before}"); 9].join(",")).unwrap();
    }
    let (codes, took) = codes(&bomb);
    assert_eq!(codes, ["SP007"]);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn nested_anchors_do_not_multiply_memory() {
    let inner = "x, ".repeat(100_000);
    let mut text = String::new();
    for level in 0..60 {
        write!(text, "&a{level} [").unwrap();
    }
    let (codes, took) = codes(&format!("{text}{inner}{}", "]".repeat(60)));
    assert_eq!(codes, ["SP007"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn more_than_a_hundred_documents_are_refused() {
    let (codes, _) = codes(&"--- {}\n".repeat(101));
    assert!(codes.contains(&"SP008"), "{codes:?}");
}

#[test]
fn findings_of_one_file_are_limited_and_counted() {
    let fields = (0..50_000).map(|index| format!("  field{index}: 1")).collect::<Vec<_>>().join("\n");
    let text = format!("apiVersion: backstop.dev/v1alpha1\nkind: FlagTarget\nmetadata: {{name: a}}\nspec:\n{fields}");
    let (codes, took) = codes(&text);
    assert_eq!((codes.len(), codes.last()), (101, Some(&"SP022")));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn files_that_are_not_there_and_folders_without_files_are_told() {
    let folder = folder();
    let report = check(&[folder.path().join("missing.yaml"), folder.path().to_owned()]);
    assert_eq!(report.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["SP001", "SP001"]);
    assert!(!report.is_ok());
}

#[test]
fn a_broken_document_does_not_hide_the_others_nor_dangle() {
    let text = fs::read_to_string(root().join("rollouts/policy.yaml")).unwrap();
    let guard = fs::read_to_string(root().join("rollouts/blue-green-process.yaml")).unwrap();
    let broken = text.replacen("bake: 1m", "bake: soon", 1);
    let report = CheckReport::of(&load_text("one.yaml", &format!("{broken}\n---\n{guard}"), root()));
    assert_eq!(report.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["SP018"], "{}", findings(&report));
    assert_eq!(report.insights.len(), 1);
}

#[test]
fn a_key_beside_its_policy_is_read_and_paths_become_absolute() {
    let folder = folder();
    let text = fs::read_to_string(root().join("rollouts/policy.yaml")).unwrap();
    let start = text.find("-----BEGIN").unwrap();
    let end = text.find("-----END PUBLIC KEY-----").unwrap() + "-----END PUBLIC KEY-----".len();
    let pem = text[start..end].lines().map(str::trim).collect::<Vec<_>>().join("\n");
    fs::write(folder.path().join("build.pub"), &pem).unwrap();
    let data = text[..start].rfind("data: |").unwrap();
    fs::write(folder.path().join("policy.yaml"), format!("{}file: build.pub{}", &text[..data], &text[end..])).unwrap();
    let flag = "apiVersion: backstop.dev/v1alpha1\nkind: FlagTarget\nmetadata: {name: f}\nspec: {file: {path: flags/a.json}}\n";
    fs::write(folder.path().join("flag.yml"), flag).unwrap();
    let loaded = load(&[folder.path()]);
    assert!(CheckReport::of(&loaded).is_ok(), "{:?}", loaded.findings);
    let key = &loaded.policies["release"].attestation.as_ref().unwrap().authorities[0].key;
    assert_eq!((key.data.as_deref(), key.file.as_deref()), (Some(pem.as_str()), None));
    assert_eq!(Path::new(&loaded.flags["f"].file.path), folder.path().join("flags/a.json"));
}

#[test]
fn the_report_is_json_with_places() {
    let text = "apiVersion: backstop.dev/v1alpha1\nkind: FlagTarget\nmetadata: {name: a}\nspec: {file: {paht: x}}\n";
    let report = serde_json::to_value(CheckReport::of(&load_text("f.yaml", text, root()))).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(report["ok"], false);
    assert_eq!((&finding["code"], &finding["severity"]), (&"SP013".into(), &"error".into()));
    assert_eq!(finding["place"]["line"], 4);
    assert_eq!(finding["place"]["column"], 15);
    assert_eq!(finding["place"]["excerpt"], "spec: {file: {paht: x}}");
    assert_eq!(finding["fix"], "did you mean `path`?");
}

#[test]
fn no_finding_shows_a_secret() {
    let report = check(&[root().join("tests/golden/broken/sources.yaml"), root().join("tests/golden/broken/policy-keys.yaml")]);
    let shown = report.render(false) + &serde_json::to_string(&report).unwrap();
    for secret in ["hunter2", "c2VjcmV0", "MIGHAgEA"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

#[test]
fn policies_apply_by_who_deploys() {
    use backstop::core::actor::{Actor, ActorKind};
    let loaded = load(&[root().join("rollouts")]);
    let by = |kind| loaded.policy("shop/checkout", &Actor { kind, ..Actor::default() }).unwrap();
    assert_eq!(by(ActorKind::Human).deployments_per_hour, None);
    assert_eq!(by(ActorKind::Agent).deployments_per_hour, Some(6));
    assert_eq!((by(ActorKind::Human).restores_per_hour, by(ActorKind::Agent).restores_per_hour), (3, 2));
    assert_eq!(by(ActorKind::Agent).attestation.authorities.len(), 1);
    assert!(loaded.weaker("shop/checkout", &Actor::default()).is_empty());
}

#[test]
fn colour_is_only_there_when_asked_for_and_names_cannot_bring_it() {
    let text = fs::read_to_string(root().join("rollouts/blue-green-process.yaml")).unwrap();
    let text = text.replace("name: catalog", "name: \"cata\\e[31mlog\"").replace("attestation:", "\"\\e[2J\": 1\n  attestation:");
    let guard = text.replace("  \"\\e[2J\": 1\n", "");
    for text in [text, guard] {
        let report = CheckReport::of(&load_text("f.yaml", &text, root()));
        assert!(!report.is_ok());
        assert!(!report.render(false).contains('\u{1b}'), "{}", report.render(false));
        assert!(report.render(true).contains('\u{1b}'));
    }
}

#[test]
fn a_policy_may_only_deny_unless_a_guard_relies_on_it() {
    let digest = "0123456789abcdef".repeat(4);
    let deny = format!(
        "apiVersion: backstop.dev/v1alpha1\nkind: GuardPolicy\nmetadata: {{name: deny}}\n\
         spec: {{attestation: {{authorities: [], require: [], deny: {{digests: ['sha256:{digest}']}}}}}}\n"
    );
    let (found, _) = codes(&deny);
    assert!(found.is_empty(), "{found:?}");
    let guard = fs::read_to_string(root().join("rollouts/blue-green-process.yaml")).unwrap();
    let (found, _) = codes(&format!("{deny}---\n{}", guard.replace("policy: release", "policy: deny")));
    assert_eq!(found, ["LN025"]);
}

#[test]
fn a_file_that_is_named_twice_is_read_once() {
    let folder = root().join("rollouts");
    let report = check(&[folder.clone(), folder.join("policy.yaml"), folder.join("../rollouts/sources.yaml")]);
    assert!(report.is_ok(), "{}", findings(&report));
}

#[test]
fn flags_of_shipped_guards_are_in_the_shipped_flag_file() {
    let loaded = load(&[root().join("rollouts")]);
    let mut seen = 0;
    for (_, rollout) in loaded.rollouts.values() {
        for action in &rollout.revert.flags {
            let backstop::core::spec::FlagState::Variant(variant) = &action.to;
            let text = fs::read_to_string(&loaded.flags[&action.use_].file.path).unwrap();
            let file: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(file["flags"][&action.flag]["variants"].get(variant).is_some(), "{}", action.flag);
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

mod random {
    use super::*;
    use backstop::core::spec::{GuardedRollout, OnDeadline, Percent, Rule, Step, Strategy};
    use backstop::core::time::Span;
    use proptest::prelude::*;

    fn shipped() -> GuardedRollout {
        load(&[root().join("rollouts")]).rollouts["shop/checkout"].1.as_ref().clone()
    }

    prop_compose! {
        fn rollout()(
            name in "\\PC{0,20}",
            good in 0_u32..=100_000,
            weights in prop::collection::vec((1_u32..=1000, 0_u64..=100_000_000, prop::option::of(0_u64..=100_000)), 0..6),
            sticky in any::<bool>(),
            quantile in prop::option::of(0.0_f64..1.0),
            on_deadline in prop::option::of(prop_oneof![Just(OnDeadline::Wait), Just(OnDeadline::PromoteOnHealth)]),
            alert in "\\PC{0,20}",
        ) -> GuardedRollout {
            let mut rollout = shipped();
            rollout.objectives[0].name = name;
            rollout.objectives[0].good = Percent::new(f64::from(good) / 1000.0);
            rollout.arms.sticky = sticky;
            rollout.also_breach_on[0].all[1].quantile = quantile;
            rollout.also_breach_on.push(Rule { for_: None, ..rollout.also_breach_on[1].clone() });
            rollout.also_breach_on[2].alert.iter_mut().for_each(|rule| rule.matchers.push(alert.clone()));
            if let Strategy::Canary(canary) = &mut rollout.strategy {
                canary.on_deadline = on_deadline;
                canary.steps = weights.into_iter().map(|(weight, bake, deadline)| Step {
                    weight: Percent::new(f64::from(weight) / 10.0),
                    bake: Span(Duration::from_millis(bake)),
                    deadline: deadline.map(Span::seconds),
                }).collect();
            }
            rollout
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_printed_is_read_back(rollout in rollout()) {
            let document = serde_json::json!({
                "apiVersion": "backstop.dev/v1alpha1",
                "kind": "GuardedRollout",
                "metadata": {"name": "checkout", "namespace": "shop"},
                "spec": rollout,
            });
            let yaml = serde_saphyr::to_string(&document).unwrap();
            let loaded = load_text("printed.yaml", &yaml, root());
            prop_assert_eq!(loaded.rollouts.get("shop/checkout").map(|(_, read)| &**read), Some(&rollout), "{}", yaml);
            let loaded = load_text("printed.json", &document.to_string(), root());
            prop_assert_eq!(loaded.rollouts.get("shop/checkout").map(|(_, read)| &**read), Some(&rollout), "as JSON");
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}|[ \\-:{}\\[\\]&*a\"'\n\t#|>%!?,]{0,80}") {
            let report = CheckReport::of(&load_text("text.yaml", &text, root()));
            prop_assert!(!report.is_ok());
            prop_assert!(report.render(true).len() >= report.summary().len());
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), length in 0_usize..8, patch in "\\PC{0,4}|[\n\t :\"{}&*]{1,4}") {
            let mut text: Vec<char> = fs::read_to_string(root().join("rollouts/canary-process.yaml")).unwrap().chars().collect();
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, patch.chars());
            let report = CheckReport::of(&load_text("damaged.yaml", &text.iter().collect::<String>(), root()));
            for finding in &report.findings {
                let lines = finding.render(false);
                prop_assert!(lines.lines().all(|line| line.chars().count() < 700), "{}", lines);
            }
        }
    }
}
