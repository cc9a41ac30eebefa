//! The server that all clients are measured against: chat chunks in vLLM's shape, an HTTP chunk per event, from plain threads.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};

/// How the tokens come.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As fast as they are taken, several chunks to a write.
    Blast(usize),
    /// One by one, each with the time of its writing in its text.
    Every(Duration, usize),
}

pub const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
const WRITE_BYTES: usize = 16 << 10;

/// The texts of the tokens, in turn.
const WORDS: [&str; 8] = [" the", " answer", " is", " forty", "-two", ",", " she", " said"];

/// One event, as its data.
pub fn data(n: usize, text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-bdc5c031c50c38cb","object":"chat.completion.chunk","created":1795361208,"model":"tiny-qwen3","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null,"token_ids":[{}]}}]}}"#,
        1000 + n % 100_000
    )
}

pub fn word(n: usize) -> &'static str {
    WORDS[n % WORDS.len()]
}

/// The end: finish reason, terminator.
pub fn last() -> String {
    let finish = data(0, "").replace(r#""finish_reason":null"#, r#""finish_reason":"length""#);
    chunk(&finish) + &chunk("[DONE]") + "0\r\n\r\n"
}

pub fn chunk(data: &str) -> String {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Starts a server that gives every request the same. It lives as long as the program.
pub fn start(pace: Pace) -> io::Result<SocketAddr> {
    let (listener, addr) = listen()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::Builder::new().stack_size(128 << 10).spawn(move || serve(stream, pace)).ok();
        }
    });
    Ok(addr)
}

/// On a port of its own.
pub fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // A thousand streams come at once.
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

fn serve(mut stream: TcpStream, pace: Pace) -> io::Result<()> {
    stream.set_nodelay(true)?;
    read_request(&mut stream)?;
    stream.write_all(HEAD.as_bytes())?;
    match pace {
        Pace::Blast(tokens) => {
            let mut out = String::with_capacity(WRITE_BYTES + 512);
            for n in 0..tokens {
                out += &chunk(&data(n, word(n)));
                if out.len() >= WRITE_BYTES {
                    stream.write_all(out.as_bytes())?;
                    out.clear();
                }
            }
            stream.write_all(out.as_bytes())?;
        }
        Pace::Every(gap, tokens) => {
            let began = Instant::now();
            for n in 0..tokens {
                thread::sleep((began + gap * n as u32).saturating_duration_since(Instant::now()));
                stream.write_all(chunk(&data(n, &now_nanos().to_string())).as_bytes())?;
            }
        }
    }
    stream.write_all(last().as_bytes())
}

/// The system's clock, which server and client have in common.
pub fn now_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

pub fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    let (mut request, mut buf) = (Vec::new(), [0; 8192]);
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&buf[..n]);
        let Some(head) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or_default();
        if request.len() >= head + 4 + length {
            return Ok(());
        }
    }
}
