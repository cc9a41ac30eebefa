//! Runs a real vllm-router with scripted workers. `TOKENWIRE_ROUTER` is the path of its program;
//! `.ci/run` installs it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::json;
use tokenwire::testing::{MockServer, Request, Script};

/// Runs the router until its standard input ends. The input ends whenever the test process ends,
/// even if the process is killed. A Ctrl-C for the whole group must not end this shell earlier.
const LAUNCH: &str =
    r#"trap '' INT TERM; "$@" </dev/null & router=$!; cat >/dev/null; kill -9 $router; wait"#;

/// The longest time that the router may take to start. It usually needs a second, and more on a
/// busy machine.
const MAX_START: Duration = Duration::from_secs(60);

/// The router of one test. Its process ends when the router is dropped, or with the test's process.
pub struct Router {
    pub url: String,
    launcher: Child,
}

impl Router {
    /// Starts a router and blocks until it serves these workers, which must be running. `args` are
    /// added to its command line. Tests that call this are ignored by default, so a missing
    /// variable is a failure.
    pub fn start(workers: &[&MockServer], args: &[&str]) -> Self {
        let program = env::var("TOKENWIRE_ROUTER").expect("TOKENWIRE_ROUTER is the path of vllm-router");
        assert!(Path::new(&program).exists(), "TOKENWIRE_ROUTER: no {program}");
        let [port, metrics_port] = free_ports();
        let urls: Vec<String> = workers.iter().map(|worker| worker.url()).collect();
        let (log, name) = log_file(port);
        let launcher = Command::new("sh")
            .args(["-c", LAUNCH, "sh", &program, "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--prometheus-port", &metrics_port.to_string(), "--worker-startup-check-interval", "1"])
            .args(args)
            .arg("--worker-urls")
            .args(&urls)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let router = Self { url: format!("http://127.0.0.1:{port}"), launcher };
        let began = Instant::now();
        // The list of workers distinguishes the router from another server that might have taken
        // the port.
        while !urls.iter().all(|url| router.get("/list_workers").contains(url)) {
            let log = || fs::read_to_string(&name).unwrap_or_default();
            assert!(began.elapsed() < MAX_START, "{program} did not start: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        router
    }

    /// Returns the response, head and body. Returns an empty string if the router is unreachable.
    pub fn get(&self, path: &str) -> String {
        let host = self.url.trim_start_matches("http://");
        let mut answer = String::new();
        if let Ok(mut socket) = TcpStream::connect(host) {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            // While the router starts or ends, it may break off a response. The bytes that arrived
            // are then the response.
            let _ = socket.write_all(head.as_bytes());
            let _ = socket.read_to_string(&mut answer);
        }
        answer
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        drop(self.launcher.stdin.take());
        let _ = self.launcher.wait();
    }
}

/// The paths of completions.
const COMPLETIONS: [&str; 3] = ["/v1/completions", "/v1/chat/completions", "/inference/v1/generate"];

/// Starts a healthy worker that serves the model `m` as vLLM does and answers each completion with
/// `script`. It has no other endpoints, although the router requests some (for example, the ids of
/// a chat, to find its prefix).
pub fn worker(script: impl Fn(&Request) -> Script + Send + Sync + 'static) -> MockServer {
    let models = json!({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]});
    let start = MockServer::start(move |request| match request.path.as_str() {
        path if COMPLETIONS.contains(&path) => script(request),
        "/v1/models" => Script::status(200).json(&models),
        "/health" => Script::status(200),
        _ => Script::status(404).json(r#"{"detail":"Not Found"}"#),
    });
    start.unwrap()
}

/// Returns the completions that a worker received.
pub fn completions(worker: &MockServer) -> Vec<Request> {
    let requests = worker.requests().into_iter();
    requests.filter(|request| COMPLETIONS.contains(&request.path.as_str())).collect()
}

/// Returns free ports. Another process could still take one before the router does.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn log_file(port: u16) -> (File, PathBuf) {
    let name = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("router-{port}.log"));
    (File::create(&name).unwrap(), name)
}
