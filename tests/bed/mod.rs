//! Real servers for integration tests: included by each as `#[path = "bed/mod.rs"] mod bed;`.
//!
//! A test names what it needs with [`require!`]; where that is missing it is skipped and says so, or fails if
//! `BACKSTOP_TESTS_STRICT=1`. Everything listens on 127.0.0.1, lives in a temporary folder and ends with its guard.

#![allow(dead_code, unused_imports, unused_macros, unreachable_pub, reason = "each test uses the part that it needs")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use backstop::world::clock;

/// How long a server may take to answer for the first time; generous, as test machines are busy.
const START: Duration = Duration::from_secs(30);

/// Where a tool is: in `$BACKSTOP_TEST_BIN`, else on the path.
pub fn tool(name: &str) -> Option<PathBuf> {
    let first = std::env::var_os("BACKSTOP_TEST_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    first.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Where an npm package is that `tests/run` has installed beside the tools.
pub fn node_package(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("BACKSTOP_TEST_BIN")?).join("node_modules").join(name);
    folder.is_dir().then_some(folder)
}

/// Whether tests that take minutes were asked for.
pub fn long() -> bool {
    is_set("BACKSTOP_TESTS_LONG")
}

/// Says that a test cannot run here, past the capture of test output; panics where nothing may be skipped.
pub fn skip(test: &str, missing: &str) {
    assert!(!is_set("BACKSTOP_TESTS_STRICT"), "{test} needs {missing}, and BACKSTOP_TESTS_STRICT=1 allows no skipped test");
    let _ = writeln!(io::stderr(), "skipped: {test} needs {missing}");
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "1")
}

/// The path of a tool, or the end of this test: `let promtool = bed::require!("promtool");`.
macro_rules! require {
    ($name:expr) => {
        match $crate::bed::tool($name) {
            Some(path) => path,
            None => return $crate::bed::skip(::std::thread::current().name().unwrap_or("a test"), $name),
        }
    };
}
pub(crate) use require;

/// A port on 127.0.0.1 that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("the loopback has free ports").port()
}

/// Asks every 20 ms until there is an answer, at most for `limit`.
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = clock::instant();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if begin.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// One plain HTTP GET on the loopback: status and body.
///
/// Blocking and without a client library, so that it serves in tests with and without a runtime.
pub fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // In one packet: the second would wait for the other side to acknowledge the first.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.to_owned()))?, body.to_owned()))
}

/// A process that ends with this guard; its own folder goes with it. On a failing test its log is printed.
pub struct Server {
    name: &'static str,
    child: Child,
    /// Where it listens.
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts `command` in a fresh folder and waits until `path` on `port` answers 2xx or 3xx. `prepare` fills the folder and adds arguments.
    pub fn start(
        name: &'static str,
        program: &Path,
        port: u16,
        path: &str,
        prepare: impl FnOnce(&Path, &mut Command) -> io::Result<()>,
    ) -> Self {
        Self::start_until(name, program, port, || get(port, path).is_ok_and(|(status, _)| (200..400).contains(&status)), prepare)
    }

    /// Starts `command` in a fresh folder and waits until `ready` says so. `port` is where it listens, for [`url`](Self::url).
    pub fn start_until(
        name: &'static str,
        program: &Path,
        port: u16,
        ready: impl Fn() -> bool,
        prepare: impl FnOnce(&Path, &mut Command) -> io::Result<()>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("backstop-").tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut command = Command::new(program);
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        prepare(folder.path(), &mut command).expect("the server's files");
        let child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let mut server = Self { name, child, port, folder };
        let answered = eventually(START, || {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("{name} ended at once: {status}");
            }
            ready().then_some(())
        });
        assert!(answered.is_some(), "{name} on port {port} is not ready within {START:?}");
        server
    }

    /// Base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Process id, for signals that a test sends itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it now, as a crash would; the folder stays until the guard goes.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of {} on port {} ---\n{}---", self.name, self.port, self.log());
        }
    }
}

/// A real Prometheus.
pub struct Prometheus;

impl Prometheus {
    /// Starts it with this configuration, ready to answer queries. Needs the tool `prometheus`.
    pub fn start(config: &str) -> Server {
        let port = free_port();
        Server::start("prometheus", &found("prometheus"), port, "/-/ready", |folder, command| {
            fs::write(folder.join("prometheus.yml"), config)?;
            command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.enable-lifecycle"]);
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            Ok(())
        })
    }
}

/// A real Alertmanager.
pub struct Alertmanager;

impl Alertmanager {
    /// Starts it with this configuration, without its gossip port. Needs the tool `prometheus-alertmanager`.
    pub fn start(config: &str) -> Server {
        let port = free_port();
        Server::start("alertmanager", &found("prometheus-alertmanager"), port, "/-/ready", |folder, command| {
            fs::write(folder.join("alertmanager.yml"), config)?;
            command.args(["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="]);
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            Ok(())
        })
    }
}

/// A real registry (the CNCF distribution), without the referrers API: clients use the fallback tag.
pub struct Registry;

impl Registry {
    /// Starts an empty one that allows deletes. Needs the tool `docker-registry`.
    pub fn start() -> Server {
        let port = free_port();
        Server::start("registry", &found("docker-registry"), port, "/v2/", |folder, command| {
            let config = format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"127.0.0.1:{port}\"}}\n",
                folder.join("data").display()
            );
            fs::write(folder.join("registry.yml"), config)?;
            command.args(["serve", "registry.yml"]).env("OTEL_TRACES_EXPORTER", "none");
            Ok(())
        })
    }
}

fn found(name: &str) -> PathBuf {
    tool(name).unwrap_or_else(|| panic!("call bed::require!({name:?}) first"))
}

/// Runs a tool to its end: output on success, panics with what it said otherwise.
pub fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("the tool starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {}\n{said}", program.display(), output.status);
    said
}

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
