//! Prints how many instructions each stage needs for an event or a token, counted by callgrind:
//! `cargo run --release --no-default-features --example instructions`. It needs `valgrind`.
//!
//! Each row runs twice in its own process under callgrind, the second time with more work. The
//! difference, divided by the additional work, is the cost without startup and setup. Other work on
//! the machine does not change a count, but a different compiler does change it. A different
//! processor changes a count a little, because the C library and `memchr` select their code by its
//! features.
//!
//! With `--write`, it replaces the table in `docs/speed.md`. Arguments that are not options select
//! rows by name.

#[path = "../benches/common/mod.rs"]
mod common;

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::{env, fs};

use common::Stream;
use tokenwire::{
    ApiClient, BodyDecoder, CompletionRequest, Dialect, Limits, ResponseParser, SseParser, Step, StreamToken,
};

/// The line before the table.
const TABLE_BEGIN: &str = "<!-- table -->\n";

/// One measured stage.
struct Row {
    name: String,
    /// The unit in the table: an event or a token.
    unit: &'static str,
    goal: Option<u64>,
    /// The number of units in the first and in the second run. `run` defines the unit.
    work: (usize, usize),
    /// The number of events or tokens in one unit.
    each: usize,
    run: Run,
}

enum Run {
    Here(Box<dyn Fn(usize)>),
    /// Uses a server in another process, at this port.
    WithServer(fn(u16, usize)),
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--run", name, work, port] => run(name, work.parse()?, port.parse()?),
        ["--serve", tokens] => serve(tokens.parse()?)?,
        _ => {
            let chosen: Vec<_> = words.iter().filter(|word| !word.starts_with("--")).collect();
            let is_chosen =
                |row: &Row| chosen.is_empty() || chosen.iter().any(|word| row.name.contains(**word));
            let mut table = "| what | instructions | per | goal |\n| --- | --- | --- | --- |\n".to_owned();
            print!("{table}");
            for row in rows().iter().filter(|row| is_chosen(row)) {
                let goal = row.goal.map_or_else(String::new, |goal| format!("<= {goal}"));
                let line = format!("| {} | {:.0} | {} | {goal} |\n", row.name, row.measure()?, row.unit);
                print!("{line}");
                table += &line;
            }
            if words.contains(&"--write") {
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/speed.md");
                let page = fs::read_to_string(path)?;
                let head = page.split(TABLE_BEGIN).next().unwrap_or_default();
                fs::write(path, format!("{head}{TABLE_BEGIN}\n{table}"))?;
            }
        }
    }
    Ok(())
}

// The rows

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (read_bytes, goal) in [(1, 25_000), (1460, 350), (65_536, 300)] {
        let stream = common::vllm();
        rows.push(Row {
            name: format!("event parser, reads of {read_bytes} B"),
            unit: "event",
            goal: Some(goal),
            work: if read_bytes == 1 { (2, 4) } else { (20, 60) },
            each: stream.events.len(),
            run: Run::Here(Box::new(move |passes| parse_events(&stream, read_bytes, passes))),
        });
    }
    for (name, stream, goal) in [
        ("vLLM completions", common::vllm(), 1500),
        ("vLLM completions, learning off", common::vllm(), 7500),
        ("vLLM chat", common::vllm_chat(), 1500),
        ("vLLM chat, learning off", common::vllm_chat(), 7500),
        ("llama.cpp native", common::llama_cpp(), 1500),
        ("llama.cpp native, learning off", common::llama_cpp(), 7500),
    ] {
        let learning = goal == 1500;
        rows.push(Row {
            name: format!("event to token: {name}"),
            unit: "token",
            goal: Some(goal),
            work: (20, 40),
            each: stream.events.len(),
            run: Run::Here(Box::new(move |passes| decode(&stream, learning, passes))),
        });
    }
    for (place, before, goal) in [
        ("content", "", 600),
        ("a JSON call (hermes)", "<tool_call>\n{\"name\": \"write\", \"arguments\": {\"text\": \"", 1500),
        ("a tagged call (qwen3_xml)", "<tool_call>\n<function=write>\n<parameter=text>\n", 1500),
    ] {
        for tokens in [1_000, 10_000, 100_000, 1_000_000] {
            let dialect = if place.contains("xml") { "qwen3_xml" } else { "hermes" };
            rows.push(Row {
                name: format!("response parser in {place}, {tokens} tokens"),
                unit: "token",
                goal: Some(goal),
                work: (0, tokens),
                each: 1,
                run: Run::Here(Box::new(move |tokens| parse_response(dialect, before, tokens))),
            });
        }
    }
    for (name, batch) in [("token by token", 1), ("32 tokens at a time", 32)] {
        rows.push(Row {
            name: format!("channel, both ends: {name}"),
            unit: "token",
            goal: None,
            work: (100, 200),
            each: 320,
            run: Run::Here(Box::new(move |passes| send(batch, passes))),
        });
    }
    rows.push(Row {
        name: "whole client, one HTTP chunk per event".to_owned(),
        unit: "token",
        goal: Some(4000),
        work: (10_000, 30_000),
        each: 1,
        run: Run::WithServer(stream_over_loopback),
    });
    rows
}

/// Parses the events of `stream`. A file is read directly into the parser's buffer, like a socket.
/// Single bytes are fed from memory, because system calls would dominate the count.
fn parse_events(stream: &Stream, read_bytes: usize, passes: usize) {
    let mut parser = SseParser::new();
    let mut data_bytes = 0;
    let mut take = |parser: &mut SseParser| {
        while let Some(event) = parser.next_event().expect("a valid stream") {
            data_bytes += event.data.len();
        }
    };
    if read_bytes == 1 {
        let body = stream.body();
        for _ in 0..passes {
            for byte in body.chunks_exact(1) {
                parser.feed(byte);
                take(&mut parser);
            }
        }
    } else {
        let mut file = stream.file(passes);
        loop {
            let len = file.read(&mut parser.space(read_bytes)[..read_bytes]).expect("a file");
            if len == 0 {
                break;
            }
            parser.filled(len);
            take(&mut parser);
        }
    }
    assert_eq!(data_bytes, passes * (stream.body().len() - stream.events.len() * "data: \n\n".len()));
}

/// Decodes the body of `stream` in reads of 1,460 bytes.
fn decode(stream: &Stream, learning: bool, passes: usize) {
    let mut decoder = BodyDecoder::new(stream.wire).learning(learning);
    let mut tokens = 0;
    let mut sink = |_, token| tokens += usize::from(matches!(token, StreamToken::Token { id: Some(_), .. }));
    let mut file = stream.file(passes);
    loop {
        let len = file.read(&mut decoder.space(1460)[..1460]).expect("a file");
        if len == 0 {
            break;
        }
        decoder.filled(len);
        while decoder.decode_event(&mut sink).expect("a valid stream") == Step::Event {}
    }
    assert_eq!(tokens, passes * stream.events.len());
}

fn parse_response(dialect: &str, before: &str, tokens: usize) {
    let added =
        [("<tool_call>", 151_657), ("</tool_call>", 151_658), ("<think>", 151_667), ("</think>", 151_668)];
    let mut limits = Limits::default();
    limits.max_arguments_bytes = 64 << 20;
    let dialect = Dialect::by_name(dialect).expect("a known dialect");
    let mut parser = ResponseParser::new(dialect).markers(added).limits(&limits);
    match before.strip_prefix("<tool_call>") {
        Some(rest) => {
            parser.push("<tool_call>", Some(151_657));
            parser.push(rest, Some(7));
        }
        None => drop(parser.push(before, Some(7))),
    }
    let words = common::words();
    for (text, id) in words.iter().cycle().take(tokens) {
        assert!(parser.push(text, Some(*id)).is_empty());
    }
    // The end of the response is not measured.
    std::mem::forget(parser);
}

/// Sends and receives on one thread, so that neither end waits. The count includes creating and
/// dropping the tokens.
fn send(batch: usize, passes: usize) {
    let words = common::words();
    let token = |n: usize| {
        let (text, id) = &words[n % words.len()];
        StreamToken::Token { text: text.clone(), id: Some(*id) }
    };
    let (one, ones) = crossbeam_channel::unbounded();
    let (many, manies) = crossbeam_channel::unbounded();
    for _ in 0..passes {
        for n in (0..320).step_by(batch) {
            if batch == 1 {
                one.send(token(n)).expect("the receiver is alive");
            } else {
                many.send((n..n + batch).map(token).collect::<Vec<_>>()).expect("the receiver is alive");
            }
        }
        assert_eq!(ones.try_iter().count() + manies.try_iter().flatten().count(), 320);
    }
}

fn stream_over_loopback(port: u16, tokens: usize) {
    let client = ApiClient::builder(format!("http://127.0.0.1:{port}/v1")).build().expect("a client");
    let (receiver, guard) = client.stream(CompletionRequest::ids([9707])).expect("a stream");
    let mut came = 0;
    for item in &receiver {
        match item {
            StreamToken::Token { id: Some(_), .. } => came += 1,
            StreamToken::Done { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(came, tokens);
    assert!(guard.join().error.is_none());
}

// Under callgrind

fn run(name: &str, work: usize, port: u16) {
    let row = rows().into_iter().find(|row| row.name == name).expect("a row of this name");
    match row.run {
        Run::Here(run) => run(work),
        Run::WithServer(run) => run(port, work),
    }
}

impl Row {
    fn measure(&self) -> Result<f64, Box<dyn Error>> {
        let (less, more) = (self.count(self.work.0)?, self.count(self.work.1)?);
        Ok((more as f64 - less as f64) / ((self.work.1 - self.work.0) * self.each) as f64)
    }

    /// Counts the instructions of one run.
    fn count(&self, work: usize) -> Result<u64, Box<dyn Error>> {
        let mut server = None;
        let mut port = 0;
        if let Run::WithServer(_) = self.run {
            let mut child = Command::new(env::current_exe()?)
                .args(["--serve", &work.to_string()])
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
            port = line.trim().parse()?;
            server = Some(child);
        }
        let ran = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(env::current_exe()?)
            .args(["--run", &self.name, &work.to_string(), &port.to_string()])
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        if let Some(mut server) = server {
            server.kill()?;
            server.wait()?;
        }
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let count = said.lines().find_map(|line| line.split("Collected :").nth(1)).map(str::trim);
        match count {
            Some(count) if ran.status.success() => Ok(count.parse()?),
            _ => Err(said.into()),
        }
    }
}

// The server

/// Answers one request with this number of tokens, as fast as the client reads them. Each event is
/// in its own HTTP chunk.
fn serve(tokens: usize) -> Result<(), Box<dyn Error>> {
    let stream = common::vllm_chat();
    let mut body =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let end = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#.to_owned() + "\n\n";
    let events = stream.events.iter().cycle().take(tokens).map(String::as_str);
    for event in events.chain([end.as_str(), "data: [DONE]\n\n"]) {
        write!(body, "{:x}\r\n{event}\r\n", event.len())?;
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (mut socket, _) = listener.accept()?;
    read_request(&mut socket)?;
    socket.write_all(&body)?;
    // The client closes the connection.
    socket.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn read_request(socket: &mut impl Read) -> Result<(), Box<dyn Error>> {
    let mut request = BufReader::new(socket);
    let mut body_bytes = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body_bytes = length.trim().parse()?;
        }
    }
    request.read_exact(&mut vec![0; body_bytes])?;
    Ok(())
}
