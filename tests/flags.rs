//! A flag in a flagd definition file is brought to its safe variant, as flagd's own library resolves it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use backstop::core::input::{Observation, Outcome};
use backstop::core::spec::{FlagAction, FlagFile, FlagState, FlagTarget};
use backstop::world::flags::{ensure, probe};

/// Everybody who pays gets the new path, by rule; the default is the new path too.
const DEFINITION: &str = r#"{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "new-checkout": {
      "state": "ENABLED",
      "variants": {"on": true, "off": false},
      "defaultVariant": "on",
      "targeting": {"if": [{"==": [{"var": "plan"}, "paying"]}, "on", "off"]}
    },
    "banner": {"state": "DISABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on"}
  },
  "metadata": {"owner": "shop"}
}
"#;

fn target(path: &Path) -> FlagTarget {
    FlagTarget { file: FlagFile { path: path.display().to_string() }, allowed_namespaces: vec![] }
}

fn turn_off(flag: &str) -> FlagAction {
    FlagAction { use_: "shop".into(), flag: flag.into(), to: FlagState::Variant("off".into()) }
}

fn done(changed: bool) -> Outcome {
    Outcome::Done { changed, observed: Observation::Nothing }
}

fn folder_with(definition: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flags.json");
    fs::write(&file, definition).unwrap();
    (folder, file)
}

#[tokio::test]
async fn flagd_gives_everybody_the_safe_variant() {
    let node = bed::require!("node");
    let Some(package) = bed::node_package("@openfeature/flagd-core") else {
        return bed::skip("flagd_gives_everybody_the_safe_variant", "the npm package @openfeature/flagd-core");
    };
    let modules = package.ancestors().find(|folder| folder.ends_with("node_modules")).unwrap().to_owned();
    let (_folder, file) = folder_with(DEFINITION);
    let resolve = |flag: &str| {
        let output = Command::new(&node)
            .arg(bed::repository("tests/bed/flagd.cjs"))
            .args([file.as_os_str(), flag.as_ref()])
            .args([r#"{"targetingKey": "u1", "plan": "paying"}"#, "{}"])
            .env("NODE_PATH", &modules)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<serde_json::Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().map(|line| line["value"].as_bool().unwrap()).collect::<Vec<_>>()
    };

    // Before: the rule decides. A disabled flag gives the caller's default, here `true`: the bad path.
    assert_eq!(resolve("new-checkout"), [true, false]);
    assert_eq!(resolve("banner"), [true, true]);
    for flag in ["new-checkout", "banner"] {
        assert_eq!(ensure(&target(&file), &turn_off(flag)).await, done(true));
        assert_eq!(resolve(flag), [false, false], "{flag}");
        assert_eq!(ensure(&target(&file), &turn_off(flag)).await, done(false));
    }
}

#[tokio::test]
async fn everything_else_stays() {
    let (folder, file) = folder_with(DEFINITION);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    // As a ConfigMap is mounted: a link to a link.
    fs::create_dir(folder.path().join("mounted")).unwrap();
    let link = folder.path().join("mounted/flags.json");
    symlink("../flags.json", &link).unwrap();

    assert_eq!(probe(&target(&link), &turn_off("new-checkout")).await, done(true));
    assert_eq!(fs::read_to_string(&file).unwrap(), DEFINITION);
    assert_eq!(ensure(&target(&link), &turn_off("new-checkout")).await, done(true));

    let expected = DEFINITION
        .replace("\"defaultVariant\": \"on\",\n", "\"defaultVariant\": \"off\"\n")
        .replace("      \"targeting\": {\"if\": [{\"==\": [{\"var\": \"plan\"}, \"paying\"]}, \"on\", \"off\"]}\n", "");
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file is left");
}

#[tokio::test]
async fn flags_of_one_file_set_at_once_all_stick() {
    let flags: serde_json::Map<String, serde_json::Value> = (0..8)
        .map(|n| (format!("f{n}"), serde_json::json!({"state": "ENABLED", "variants": {"on": 1, "off": 0}, "defaultVariant": "on"})))
        .collect();
    let (_folder, file) = folder_with(&serde_json::json!({"flags": flags}).to_string());
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (target, action) = (target(&file), turn_off(&format!("f{n}")));
            tokio::spawn(async move {
                for _ in 0..50 {
                    match ensure(&target, &action).await {
                        Outcome::Transient { .. } => {}
                        other => return other,
                    }
                }
                panic!("never done")
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), done(true));
    }
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!((text.matches("\"defaultVariant\":\"off\"").count(), text.matches("\"on\",").count()), (8, 0), "{text}");
}

#[tokio::test]
async fn a_file_left_by_a_crash_is_no_obstacle() {
    let (folder, file) = folder_with(DEFINITION);
    let stale = folder.path().join(".flags.json.backstop");
    fs::write(&stale, "{\"fla").unwrap();
    assert_eq!(ensure(&target(&file), &turn_off("banner")).await, done(true));
    assert!(!stale.exists());
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let (folder, file) = folder_with(DEFINITION);
    let outcome = |outcome: Outcome| match outcome {
        Outcome::Invalid(what) => ("invalid", what),
        Outcome::Transient { what, .. } => ("transient", what),
        Outcome::Denied(what) => ("denied", what),
        other => panic!("{other:?}"),
    };
    let check = async |path: &Path, flag: &str, kind: &str, part: &str| {
        for result in [probe(&target(path), &turn_off(flag)).await, ensure(&target(path), &turn_off(flag)).await] {
            let (got, what) = outcome(result);
            assert!(got == kind && what.contains(part), "{got}: {what}");
        }
    };
    check(&file, "gone", "invalid", "no flag `gone`; there are `banner`, `new-checkout`").await;
    check(&folder.path().join("missing.json"), "banner", "transient", "cannot find").await;
    let yaml = folder.path().join("flags.yaml");
    fs::write(&yaml, "flags: {}").unwrap();
    check(&yaml, "banner", "invalid", "name a `.json` file").await;
    let folder_named_json = folder.path().join("folder.json");
    fs::create_dir(&folder_named_json).unwrap();
    check(&folder_named_json, "banner", "invalid", "not a regular file").await;

    // Half a document is waited for while it is fresh, and an error once it is not.
    fs::write(&file, &DEFINITION[..100]).unwrap();
    check(&file, "banner", "transient", "written just now").await;
    let old = fs::File::options().write(true).open(&file).unwrap();
    old.set_modified(std::time::UNIX_EPOCH).unwrap();
    check(&file, "banner", "invalid", "not a JSON document").await;

    let large = folder.path().join("large.json");
    fs::File::create(&large).unwrap().set_len((16 << 20) + 1).unwrap();
    check(&large, "banner", "invalid", "larger than 16 MiB").await;
}

#[tokio::test]
async fn without_permission_it_is_denied() {
    let (folder, file) = folder_with(DEFINITION);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.path().join("may-write"), "").is_ok() {
        // Root is stopped by no mode: the same test once more, without the capability that lets it through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(std::env::var_os("BACKSTOP_TESTS_NESTED").is_none(), "the capability was not dropped");
        let setpriv = bed::require!("setpriv");
        let mut again = Command::new(setpriv);
        again.arg("--bounding-set=-dac_override").arg(std::env::current_exe().unwrap()).env("BACKSTOP_TESTS_NESTED", "1");
        let output = again.args(["--exact", "without_permission_it_is_denied"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    for outcome in [probe(&target(&file), &turn_off("banner")).await, ensure(&target(&file), &turn_off("banner")).await] {
        assert!(matches!(&outcome, Outcome::Denied(what) if what.contains("Permission denied")), "{outcome:?}");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), DEFINITION);
}
