//! The server for all measurements. Plain threads send chat chunks in vLLM's shape, one event per
//! HTTP chunk.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};

/// The pace at which the tokens are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// The server sends as fast as the client reads, with several chunks per write.
    Blast(usize),
    /// The server sends one token at a time. The text of each token is the time of its writing.
    Every(Duration, usize),
}

pub const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
const WRITE_BYTES: usize = 16 << 10;

/// The texts of the tokens, used in turn.
const WORDS: [&str; 8] = [" the", " answer", " is", " forty", "-two", ",", " she", " said"];

/// Returns the data of one event.
pub fn data(n: usize, text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-bdc5c031c50c38cb","object":"chat.completion.chunk","created":1795361208,"model":"tiny-qwen3","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null,"token_ids":[{}]}}]}}"#,
        1000 + n % 100_000
    )
}

pub fn word(n: usize) -> &'static str {
    WORDS[n % WORDS.len()]
}

/// Returns the end of the stream: the finish reason and the terminator.
pub fn last() -> String {
    let finish = data(0, "").replace(r#""finish_reason":null"#, r#""finish_reason":"length""#);
    chunk(&finish) + &chunk("[DONE]") + "0\r\n\r\n"
}

pub fn chunk(data: &str) -> String {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Starts a server that sends the same response to every request. It runs until the program ends.
pub fn start(pace: Pace) -> io::Result<SocketAddr> {
    let (listener, addr) = listen()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::Builder::new().stack_size(128 << 10).spawn(move || serve(stream, pace)).ok();
        }
    });
    Ok(addr)
}

/// Listens on a free port.
pub fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // The default backlog is too small for a thousand streams that connect together.
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

/// Returns the time of the system's clock, which the server and the client share.
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
