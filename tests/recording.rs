//! Tests of the recorded exchanges of real servers. Each recording loads and matches its README. It
//! stays equal after a round trip through this crate's format and, with the feature `testing`, over
//! a socket.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::fixture::{self, from_llama, from_vllm};
use tokenwire::recording::{BodyEnd, BodyState, Recording};

/// Returns the name and the recording of every fixture of one server.
fn load_all(server: &str, suffix: &str) -> Vec<(String, Recording)> {
    let folder = common::data(server);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("no fixtures in {folder:?}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut bases: Vec<_> = names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect();
    bases.sort();
    let load = |base: String| {
        let recording = fixture::load(folder.join(format!("{base}{suffix}")));
        let recording = recording.unwrap_or_else(|error| panic!("{base}: {error}"));
        (base, recording)
    };
    bases.into_iter().map(load).collect()
}

fn vllm() -> Vec<(String, Recording)> {
    load_all("vllm", ".response.http")
}

fn llama() -> Vec<(String, Recording)> {
    load_all("llama.cpp", ".raw")
}

/// Returns the table in the README: the name in the first column, and the other columns.
fn table(server: &str) -> HashMap<String, Vec<String>> {
    let text = std::fs::read_to_string(common::data(server).join("README.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].clone(), cells[1..].to_vec())).collect()
}

/// Splits a body at blank lines.
fn events(body: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(body).unwrap();
    text.split("\n\n").map(str::trim).filter(|event| !event.is_empty()).collect()
}

#[test]
fn vllm_recordings_match_their_table() {
    let (table, recordings) = (table("vllm"), vllm());
    assert!(recordings.len() >= 94, "only {} recordings", recordings.len());
    let (mut counted, mut cut) = (0, 0);
    for (name, recording) in &recordings {
        let row = &table[name];
        let [_, request, status, event_count, _, _, body_state, ..] = &row[..] else {
            panic!("{name}: {row:?}")
        };
        let sent = recording.request();
        assert_eq!(format!("{} {}", sent.method, sent.path), *request, "{name}");
        assert_eq!(recording.status().unwrap().to_string(), *status, "{name}");
        let body = recording.response_body();
        let state = if body_state == "CUT" { BodyState::Cut } else { BodyState::Complete };
        assert_eq!(body.state, state, "{name}");
        cut += usize::from(state == BodyState::Cut);
        if let Ok(count) = event_count.parse::<usize>() {
            assert_eq!(events(&body.bytes).len(), count, "{name}");
            counted += 1;
        }
        if sent.method == "POST" && name != "error-400-bad-json" {
            assert!(sent.json().is_object(), "{name}: the body of the request is not JSON");
        }
    }
    assert!(counted >= 60 && cut >= 4, "{counted} with events, {cut} cut");
}

#[test]
fn llama_recordings_match_their_table() {
    let (table, recordings) = (table("llama.cpp"), llama());
    assert!(recordings.len() >= 87, "only {} recordings", recordings.len());
    let mut streams = 0;
    for (name, recording) in &recordings {
        let row = &table[name];
        let sent = recording.request();
        assert_eq!(format!("{} {}", sent.method, sent.path).trim(), row[0], "{name}");
        assert_eq!(recording.status().unwrap().to_string(), row[1][..3], "{name}");
        let body = recording.response_body();
        let broke_off = ["killed-in-stream", "terminated-in-stream", "client-cut"].contains(&name.as_str());
        assert_eq!(body.state == BodyState::Cut, broke_off, "{name}");
        let is_stream =
            recording.response_headers().contains(&("Content-Type".into(), "text/event-stream".into()));
        if is_stream {
            // The README table does not list the events. Only a complete stream from a path under
            // `/v1/` ends with `[DONE]`.
            let events = events(&body.bytes);
            assert!(events.iter().all(|event| event.starts_with("data: ") || *event == ":"), "{name}");
            let done = events.last() == Some(&"data: [DONE]");
            assert_eq!(done, sent.path.starts_with("/v1/") && !broke_off, "{name}");
            streams += 1;
        }
    }
    assert!(streams >= 40, "{streams} streams");
}

/// Compares a few outcomes and times with values that a person read from the files.
#[test]
fn outcomes_and_times_match_the_files() {
    let all: HashMap<_, _> = vllm().into_iter().chain(llama()).collect();
    let ms = |millis: f64| Some(Duration::from_micros((millis * 1000.0).round() as u64));
    let cases = [
        ("completion-usage", BodyEnd::Closed, ms(66.28), 3, ms(16.13)),
        ("break-server-terminated", BodyEnd::Silent, ms(60996.18), 12, None),
        ("break-server-terminated-keepalive", BodyEnd::ClientClosed, ms(11441.87), 18, None),
        ("completion-length", BodyEnd::Complete, None, 1, Some(Duration::ZERO)),
        ("killed-in-stream", BodyEnd::Closed, ms(77.3), 6, ms(3.88)),
        ("client-cut", BodyEnd::ClientClosed, ms(64.2), 7, ms(1.059)),
        ("completions-max-tokens-1", BodyEnd::Complete, ms(10.7), 3, ms(0.646)),
        ("loading-503", BodyEnd::Complete, None, 1, Some(Duration::ZERO)),
    ];
    for (name, end, ended_at, pieces, first) in cases {
        let recording = &all[name];
        assert_eq!((recording.end(), recording.ended_at()), (end, ended_at), "{name}");
        assert_eq!(recording.pieces().len(), pieces, "{name}");
        if first.is_some() {
            assert_eq!(Some(recording.pieces()[0].at), first, "{name}");
        }
    }
}

#[test]
fn every_recording_is_equal_after_a_round_trip_and_contains_no_key() {
    let folder = std::env::temp_dir().join(format!("tokenwire-recording-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("recording.jsonl");
    for (name, recording) in vllm().into_iter().chain(llama()) {
        let text = recording.to_jsonl();
        assert!(!text.contains("sk-test-key"), "{name}");
        assert_eq!(recording.request().header("authorization"), None, "{name}");
        assert_eq!(Recording::from_jsonl(text.as_bytes()).unwrap(), recording, "{name}");
        recording.save(&file).unwrap();
        assert_eq!(Recording::load(&file).unwrap(), recording, "{name}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_missing_or_foreign_file_is_an_error() {
    let folder = common::data("vllm");
    for name in ["nothing", "README.md", "models.request.http", "models.response.http"] {
        let error = Recording::load(folder.join(name)).unwrap_err();
        assert_eq!(error.kind(), tokenwire::ErrorKind::InvalidInput, "{name}");
    }
}

#[cfg(feature = "testing")]
#[test]
fn every_raw_response_replayed_over_a_socket_is_byte_equal() {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;

    use tokenwire::testing::{MockServer, Script};

    for (name, recording) in vllm().into_iter().chain(llama()) {
        let server = MockServer::scripted([Script::replay(&recording, 0.0)]).unwrap();
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let wire = recording.response_bytes();
        let mut got = vec![0; wire.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == wire, "{name}");
        let closes = recording.response_headers().iter().any(|(header, value)| {
            header.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        });
        let ends = match recording.end() {
            BodyEnd::Closed => true,
            BodyEnd::Complete => closes,
            _ => false,
        };
        if !ends {
            stream.set_nonblocking(true).unwrap();
        }
        let more = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(
            more,
            if ends { Ok(0) } else { Err(ErrorKind::WouldBlock) },
            "{name}: {:?}",
            recording.end()
        );
    }
}

// ---- the formats of the fixtures ----

const RAW: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";

#[test]
fn times_that_do_not_match_the_bytes_are_rejected() {
    let llama: &[&str] =
        &["0.1 0 10\n", "0.1 0 99\n", "0.1 1 40\n", "-1 0 40\n", "NaN 0 40\n", "x\n", "0.1 0 40\n0.2 40 2\n"];
    for times in llama {
        assert!(from_llama(None, RAW, Some(times.as_bytes())).is_err(), "{times:?}");
    }
    let vllm: &[&str] = &[
        "t\n0.1\t10\n",
        "t\n0.1\t99\n",
        "t\n0.1 40\n",
        "t\nx\t40\n",
        "t\n0.1\tbang\n",
        "",
        "t\n1\t18446744073709551615\n",
    ];
    for times in vllm {
        assert!(from_vllm(None, RAW, Some(times.as_bytes())).is_err(), "{times:?}");
    }
}

#[test]
fn every_word_for_an_outcome_is_parsed() {
    let cases = [
        ("10.7 complete, connection left open by the server so far", BodyEnd::Complete, 10_700),
        (
            "10.7 complete, connection left open by the server so far; used again: HTTP/1.1 200 OK",
            BodyEnd::Complete,
            10_700,
        ),
        (
            "134.6 complete, connection left open by the server so far; used again: closed at once",
            BodyEnd::Closed,
            134_600,
        ),
        ("77.3 closed by the server", BodyEnd::Closed, 77_300),
        ("64.2 closed by the client after 1740 bytes", BodyEnd::ClientClosed, 64_200),
        ("3.1 reset: Connection reset by peer", BodyEnd::Reset, 3_100),
        ("gave up after 2000.5 ms", BodyEnd::Silent, 2_000_500),
    ];
    for (words, end, micros) in cases {
        let times = format!("0.25 0 {}\nend: {words}\n", RAW.len());
        let recording = from_llama(None, RAW, Some(times.as_bytes())).unwrap();
        assert_eq!(recording.end(), end, "{words}");
        assert_eq!(recording.ended_at(), Some(Duration::from_micros(micros)), "{words}");
        assert_eq!(recording.pieces()[0].at, Duration::from_micros(250));
    }
    for (word, end) in
        [("eof", BodyEnd::Closed), ("timeout", BodyEnd::Silent), ("closed by client", BodyEnd::ClientClosed)]
    {
        let timing = format!("title\n0.25\t{}\n9.5\t{word}\n", RAW.len());
        let recording = from_vllm(None, RAW, Some(timing.as_bytes())).unwrap();
        assert_eq!((recording.end(), recording.ended_at()), (end, Some(Duration::from_micros(9_500))));
    }
}

#[test]
fn without_times_the_framing_shows_the_outcome() {
    assert_eq!(from_llama(None, RAW, None).unwrap().end(), BodyEnd::Complete);
    assert_eq!(from_vllm(None, &RAW[..RAW.len() - 1], None).unwrap().end(), BodyEnd::Unknown);
}
