//! The command line on a terminal, as a person sees it: a pseudo-terminal that util-linux's `script` makes.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bed;
use crate::rig::{House, SERVICE, Shape, until};

/// Types `typed` to the command line on a terminal: exit code and what stood there.
fn on_a_terminal(house: &House, arguments: &str, typed: &str, patience: Duration) -> (i32, String) {
    let line = format!("{} --data-dir {} {arguments}", env!("CARGO_BIN_EXE_backstop"), house.dir().display());
    let mut child = Command::new("timeout")
        .args([&format!("{}s", patience.as_secs()), "script", "--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("`script` starts");
    let mut keyboard = child.stdin.take().expect("a keyboard");
    keyboard.write_all(typed.as_bytes()).expect("it takes what is typed");
    // The keyboard stays open: an end of input would be a key that nobody pressed.
    let output = child.wait_with_output().expect("it ends");
    drop(keyboard);
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_sees_the_plan_first_and_types_the_name() {
    bed::require!("script");
    let mut house = House::start(Shape::canary()).await;
    let (v1, v2) = (house.release("v1", &[]), house.release("v2", &[]));
    house.settle(&v1).await;
    house.settle(&v2).await;
    house.stop_controller().await;
    let short = Duration::from_secs(30);

    let (code, seen) = on_a_terminal(&house, "revert checkout --reason 'it is slow'", "chekcout\n", short);
    assert_eq!(code, 2, "{seen}");
    let (plan, rest) = seen.split_once("Type `checkout` to revert it:").unwrap_or_else(|| panic!("asked: {seen}"));
    assert!(plan.contains("v1") && plan.contains('\u{1b}'), "the plan comes first, in colour: {plan}");
    assert!(rest.contains("nothing was changed"), "{rest}");
    assert_eq!(house.host_view(SERVICE).await.observed.current.as_ref(), Some(&v2.id));

    let (code, seen) = on_a_terminal(&house, "revert checkout --reason 'it is slow'", "checkout\n", Duration::from_mins(1));
    assert_eq!(code, 0, "{seen}");
    assert_eq!(house.host_view(SERVICE).await.observed.current.as_ref(), Some(&v1.id), "{seen}");

    let mut controller = Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(["--data-dir".as_ref(), house.dir().as_os_str(), "run".as_ref(), "--specs".as_ref()])
        .arg(house.dir().join("rollouts"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the controller starts");
    until("the controller answers", || std::os::unix::net::UnixStream::connect(house.dir().join("backstop.sock")).is_ok()).await;
    let (_, seen) = on_a_terminal(&house, "status checkout --watch", "", Duration::from_secs(4));
    controller.kill().and_then(|()| controller.wait()).expect("it ends");
    assert!(seen.contains("\u{1b}[H") && seen.contains("\u{1b}[J"), "the picture is drawn in place: {seen}");
    assert!(seen.contains("Reverted") && seen.contains("v1"), "{seen}");
    house.end().await;
}
