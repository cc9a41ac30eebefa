//! Runs the program with arguments and standard input, and returns its output and exit code.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A limit that only a hanging program reaches. Every run here takes less than a hundredth of it.
pub const HANGS: Duration = Duration::from_secs(60);

pub const KEY: &str = "sk-canary-5db1";

/// The output and the exit code of the program.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
        self.out.lines().map(parse).collect()
    }

    /// Returns the tokens as (text, id).
    pub fn tokens(&self) -> Vec<Value> {
        let lines = self.lines();
        lines.iter().filter(|line| line.get("text").is_some()).map(|l| json!([l["text"], l["id"]])).collect()
    }

    pub fn last(&self) -> Value {
        self.lines().pop().unwrap_or_default()
    }
}

pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    command.args(args).env_remove("RUST_LOG").env("KEY_VARIABLE", KEY);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn run(args: &[&str], input: &[u8]) -> Ran {
    let mut child = program(args).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let ran = ended(child);
    writer.join().unwrap();
    ran
}

pub fn ended(mut child: Child) -> Ran {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take().unwrap());
    let out = thread::spawn(move || {
        let mut text = String::new();
        out.as_mut().map(|out| out.read_to_string(&mut text));
        text
    });
    let err = thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let code = wait(&mut child);
    Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

pub fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + HANGS;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the program hangs");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// Returns whether `actual` contains everything in `expected`.
pub fn has(actual: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(fields) => fields.iter().all(|(key, value)| match actual.get(key) {
            Some(actual) => has(actual, value),
            None => false,
        }),
        other => actual == other,
    }
}
