//! The program from outside: memory when idle, time to ready, time to the first output.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstop::world::clock;

use super::process::resident;
use super::table::{Against, Table, quantile};

/// Starts of each kind.
const STARTS: usize = 10;
/// Calls of the command line.
const CALLS: usize = 30;
/// How long a program is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

const BACKSTOP: &str = env!("CARGO_BIN_EXE_backstop");

/// Controller, host and command line.
pub(crate) fn measure(spec: &str, dir: &Path, table: &mut Table) {
    let specs = dir.join("rollouts");
    std::fs::create_dir_all(&specs).expect("a folder");
    std::fs::write(specs.join("checkout.yaml"), spec).expect("a specification");
    let specs = specs.display().to_string();
    let controller = started(&["run", "--specs", &specs], dir, "backstop.sock");
    let host = started(&["host"], dir, "host/host.sock");
    table.section("The program (release build)");
    table.row("controller: memory, idle", controller.memory, "MB", Against::Budget(25.0));
    table.row("controller: beside a peer", controller.memory, "MB", Against::Other("Argo Rollouts", 75.0));
    table.row("controller: beside a peer", controller.memory, "MB", Against::Other("Flagger", 53.0));
    table.row("host: memory, idle", host.memory, "MB", Against::Budget(25.0));
    table.row("controller: start to ready, median", controller.ready, "ms", Against::Budget(300.0));
    table.row("host: start to ready, median", host.ready, "ms", Against::Budget(300.0));
    table.row("command line: first output of `--help`, median", first_output(&["--help"], dir), "ms", Against::Budget(50.0));
    table.row("command line: first output of `status`, median", first_output(&["status"], dir), "ms", Against::Budget(50.0));
    table.print_last();
}

struct Started {
    ready: f64,
    memory: f64,
}

/// Starts a server again and again, each on a fresh folder; the last one is left alone for a while.
fn started(arguments: &[&str], dir: &Path, socket: &str) -> Started {
    let mut ready = Vec::new();
    let mut memory = f64::NAN;
    for number in 0..STARTS {
        let data = dir.join(format!("{}-{number}", arguments[0]));
        let mut command = Command::new(BACKSTOP);
        command.args(arguments).arg("--data-dir").arg(&data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = clock::instant();
        let mut child = command.spawn().expect("backstop starts");
        while !answers(&data.join(socket)) {
            assert!(start.elapsed() < PATIENCE, "`backstop {}` does not answer", arguments.join(" "));
            std::thread::sleep(Duration::from_micros(500));
        }
        ready.push(start.elapsed().as_secs_f64() * 1000.0);
        if number + 1 == STARTS {
            std::thread::sleep(IDLE);
            memory = resident(child.id());
        }
        end(&mut child);
    }
    Started { ready: quantile(&mut ready, 0.5), memory }
}

/// Whether a server answers an HTTP request on its socket.
fn answers(socket: &Path) -> bool {
    use std::io::Write as _;
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut status = [0; 12];
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: backstop\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_exact(&mut status)).is_ok()
}

/// Time until a command's first byte on standard output or error, which must come.
fn first_output(arguments: &[&str], dir: &Path) -> f64 {
    let mut times: Vec<f64> = (0..CALLS)
        .map(|_| {
            let (mut output, both) = std::io::pipe().expect("a pipe");
            let mut command = Command::new(BACKSTOP);
            command.args(arguments).arg("--data-dir").arg(dir.join("run-0")).stdin(Stdio::null());
            command.stdout(both.try_clone().expect("a pipe")).stderr(both);
            let start = clock::instant();
            let mut child = command.spawn().expect("backstop starts");
            drop(command);
            let mut byte = [0];
            output.read_exact(&mut byte).expect("some output");
            let time = start.elapsed().as_secs_f64() * 1000.0;
            drop(output);
            let _ = child.wait();
            time
        })
        .collect();
    quantile(&mut times, 0.5)
}

/// Tells a program that we started to end, and waits for that.
pub(crate) fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = child.wait();
}
