//! Runs the rows of `faults`, each with its own server and client, plain and over TLS, and collects
//! the results.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokenwire::testing::{MockServer, OnAccept, TlsIdentity};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Error, Limits, StreamReport, StreamToken, Timeouts,
    Timer, TokenId,
};

#[path = "certificates.rs"]
mod certificates;

use super::faults::{Does, Fault, MAX_ERROR_BODY_BYTES, MAX_EVENT_BYTES, Over, SHORT, TOKENS, Tokens, good};

/// A limit that only a hanging test reaches. Every row ends much earlier.
pub const LONG: Duration = Duration::from_secs(60);
/// The credentials of a client: its API key, and the value of its custom headers.
#[derive(Clone, Copy)]
pub struct Keys {
    pub api: &'static str,
    pub header: &'static str,
}

/// The keys of the clients in the matrix.
pub const KEYS: Keys =
    Keys { api: "sk-CanaryBird0/aB+9zKeyOfTheMatrix", header: "hk-YellowFeather7/qW+3inTheHeader" };
/// The keys of the clients whose servers echo the request.
pub const ECHOED: Keys =
    Keys { api: "sk-ParrotTalks4/cD+8zSaysItAgain", header: r#"hk-Grey"W\ng5/eF+2SaysItAgain"# };
/// The number of rows that run at the same time. Most rows only wait for a timer.
const SIDE_BY_SIDE: usize = 16;

/// The last item of a stream.
#[derive(Debug)]
pub enum Last {
    Done,
    Error(Error),
    /// The channel was closed without an outcome.
    Nothing,
    /// The stream did not end, or an item arrived after its end.
    Wrong(&'static str),
}

/// The result of one run.
pub struct Outcome {
    pub tokens: Vec<(String, Option<TokenId>)>,
    pub last: Last,
    pub report: StreamReport,
    pub took: Duration,
    /// All text that the run can print.
    pub shown: String,
}

// ---- one stream ----

/// Returns timers that never expire during a test, except for the timer that the row tests.
pub fn timeouts(short: Option<Timer>) -> Timeouts {
    timeouts_of(short, SHORT)
}

fn timeouts_of(short: Option<Timer>, limit: Duration) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let at = |timer| Some(if short == Some(timer) { limit } else { LONG });
    timeouts.connect = at(Timer::Connect);
    timeouts.first_token = at(Timer::FirstToken);
    timeouts.chunk = at(Timer::Chunk);
    timeouts.content = at(Timer::Content);
    timeouts.after_finish = at(Timer::AfterFinish);
    timeouts.deadline = at(Timer::Deadline);
    timeouts.write = at(Timer::Write);
    timeouts.drain = LONG;
    timeouts
}

/// Returns the client for a row. Only this function defines its settings.
pub fn client(url: &str, timeouts: Timeouts, keys: Keys) -> ApiClientBuilder {
    let mut limits = Limits::default();
    limits.max_event_bytes = MAX_EVENT_BYTES;
    limits.max_error_body_bytes = MAX_ERROR_BODY_BYTES;
    // A second stream starts after the connection of the first one is back in the pool.
    limits.max_streams = 1;
    let authority = certificates().0.clone();
    let client = ApiClient::builder(url).retries(0).api_key(keys.api).header("x-api-key", keys.header);
    client.ca_pem(authority).limits(limits).timeouts(timeouts)
}

/// Reads one stream to its end and collects everything that the crate displays or records about it.
pub fn stream(client: &ApiClient, prompt_bytes: usize, keys: Keys) -> Outcome {
    let request =
        CompletionRequest::text("p".repeat(prompt_bytes)).header("x-route-key", keys.header).record();
    let mut shown = format!("{client:?} {request:?}");
    let (receiver, guard) = client.stream(request).expect("the request can be sent");
    let began = Instant::now();
    let (mut tokens, mut last) = (Vec::new(), Last::Nothing);
    loop {
        let item = receiver.recv_timeout(LONG);
        if !matches!(last, Last::Nothing) {
            if !item.is_err_and(|error| error.is_disconnected()) {
                last = Last::Wrong("an item follows the last item");
            }
            break;
        }
        match item {
            Ok(StreamToken::Token { text, id }) => tokens.push((text, id)),
            Ok(StreamToken::Done { .. }) => last = Last::Done,
            Ok(StreamToken::Error(error)) => last = Last::Error(error),
            Ok(_) => last = Last::Wrong("an item of an unknown kind"),
            Err(error) if error.is_disconnected() => break,
            Err(_) => {
                guard.cancel();
                last = Last::Wrong("it hangs");
                break;
            }
        }
    }
    let took = began.elapsed();
    let _ = write!(shown, "{guard:?} {:?}", guard.canceller());
    let report = guard.join();
    let _ = write!(shown, "{report:?} {client:?}");
    if let Last::Error(error) = &last {
        let _ = write!(shown, "{error} {error:?} {error:#?} {}", error.message());
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(shown, "{error} {error:?}");
            cause = error.source();
        }
    }
    if let Some(recording) = &report.recording {
        let _ = write!(shown, "{} {recording:?}", recording.to_jsonl());
        shown += &String::from_utf8_lossy(&recording.response_bytes());
    }
    Outcome { tokens, last, report, took, shown }
}

/// Runs a row, plain or over TLS. On a busy machine, the row's short timer can expire before the
/// expected bytes arrive. Therefore, a row that ends in the wrong way runs again with longer
/// timers, and its last result counts.
pub fn run(fault: &Fault, tls: bool, keys: Keys) -> Outcome {
    let longer: &[u32] = if fault.timer.is_some() { &[1, 8] } else { &[] };
    let tries = longer.iter().map(|times| run_once(fault, tls, keys, SHORT * *times));
    let passed = tries.into_iter().find(|outcome| fault.verdict(outcome).is_ok());
    passed.unwrap_or_else(|| run_once(fault, tls, keys, SHORT * 32))
}

fn run_once(fault: &Fault, tls: bool, keys: Keys, short: Duration) -> Outcome {
    let mut builder = MockServer::builder();
    if tls != matches!(fault.server, Does::OtherScheme) {
        builder = builder.tls(certificates().1.clone());
    }
    let mut scripts = vec![good()];
    match &fault.server {
        Does::Answer(script) => scripts = vec![script.clone()],
        // The third script answers a repeated request.
        Does::SecondAnswer(script) => scripts = vec![good(), script.clone(), good()],
        Does::Accept(how) => {
            let how: OnAccept = *how;
            builder = builder.on_accept(move |_| how);
        }
        Does::Read(piece, pause) => builder = builder.reads_slowly(*piece, *pause),
        Does::Refuse | Does::OtherScheme | Does::Untrusted => {}
    }
    let server = builder.scripted(scripts).expect("a server");
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/v1", server.addr());
    let mut builder = client(&url, timeouts_of(fault.timer, short), keys);
    if matches!(fault.server, Does::Untrusted) {
        builder = builder.ca_pem(certificates::certificates().0);
    }
    let shown = format!("{builder:?}");
    let client = builder.build().expect("a client");
    let server = (!matches!(fault.server, Does::Refuse)).then_some(server);
    if matches!(fault.server, Does::SecondAnswer(_)) {
        stream(&client, fault.prompt_bytes, keys);
    }
    let mut outcome = stream(&client, fault.prompt_bytes, keys);
    outcome.shown += &shown;
    drop(server);
    outcome
}

/// Runs `jobs` on `threads` threads and returns the results in order.
pub fn side_by_side<T: Send>(threads: usize, jobs: Vec<Box<dyn FnOnce() -> T + Send + '_>>) -> Vec<T> {
    let count = jobs.len();
    let jobs: Vec<_> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    let results: Vec<_> = (0..count).map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(n).and_then(|job| job.lock().expect("no panic").take()) else {
                        return;
                    };
                    let result = job();
                    *results[n].lock().expect("no panic") = Some(result);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|result| result.into_inner().expect("no panic").expect("the job has run"))
        .collect()
}

/// Returns a certificate authority (PEM) and the identity of a server, created once.
pub fn certificates() -> &'static (String, TlsIdentity) {
    static MADE: OnceLock<(String, TlsIdentity)> = OnceLock::new();
    MADE.get_or_init(certificates::certificates)
}

// ---- the table ----

/// A row and its results, plain and over TLS.
pub struct Ran {
    pub fault: Fault,
    pub plain: Option<Outcome>,
    pub tls: Option<Outcome>,
}

/// Runs all rows.
pub fn run_all(faults: Vec<Fault>, keys: Keys) -> Vec<Ran> {
    let mut jobs: Vec<Box<dyn FnOnce() -> Outcome + Send + '_>> = Vec::new();
    for fault in &faults {
        if fault.over != Over::Tls {
            jobs.push(Box::new(|| run(fault, false, keys)));
        }
        if fault.over != Over::Plain {
            jobs.push(Box::new(|| run(fault, true, keys)));
        }
    }
    let mut outcomes = side_by_side(SIDE_BY_SIDE, jobs).into_iter();
    faults
        .into_iter()
        .map(|fault| {
            let plain = (fault.over != Over::Tls).then(|| outcomes.next().expect("the row has run"));
            let tls = (fault.over != Over::Plain).then(|| outcomes.next().expect("the row has run"));
            Ran { fault, plain, tls }
        })
        .collect()
}

impl Ran {
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        let (plain, tls) = (self.plain.as_ref(), self.tls.as_ref());
        plain.map(|run| ("plain", run)).into_iter().chain(tls.map(|run| ("TLS", run)))
    }

    /// Returns how long the run continued after the expiry of the timer that had to end it.
    pub fn over(&self, run: &Outcome) -> Duration {
        run.took.saturating_sub(if self.fault.timer.is_some() { SHORT } else { Duration::ZERO })
    }
}

impl Fault {
    /// Returns a description of the fault if the run has the wrong result.
    pub fn verdict(&self, run: &Outcome) -> Result<(), String> {
        let Self { ends, tokens, head, status, says, .. } = self;
        let check = |right: bool, what: &str| if right { Ok(()) } else { Err(what.to_owned()) };
        let whole = TOKENS.iter().cycle().map(|(id, text)| ((*text).to_owned(), Some(*id)));
        check(
            run.tokens.iter().cloned().eq(whole.take(run.tokens.len())),
            "the tokens are not an exact prefix",
        )?;
        match tokens {
            Tokens::Exactly(n) => check(run.tokens.len() == *n, &format!("{} tokens", run.tokens.len()))?,
            Tokens::Many => check(!run.tokens.is_empty(), "no tokens")?,
        }
        match (ends, &run.last) {
            (None, Last::Done) => check(run.report.error.is_none(), "an error in the report"),
            (Some(kind), Last::Error(error)) => {
                let at = error.progress();
                check(error.kind() == *kind, &format!("{:?}", error.kind()))?;
                check(
                    at.is_some_and(|at| at.tokens == run.tokens.len() as u64),
                    "the progress of the error is wrong",
                )?;
                check(
                    run.report.error.as_ref().is_some_and(|e| e.kind() == *kind),
                    "the report contains another error",
                )?;
                check(error.to_string().contains(says), &format!("wrong error text: {error}"))?;
                check(
                    status.is_none() || error.status() == *status,
                    &format!("status {:?}", error.status()),
                )?;
                let id = head.then_some(super::faults::REQUEST_ID);
                check(error.request_id() == id, &format!("request id {:?}", error.request_id()))
            }
            (_, last) => Err(format!("{last:?}")),
        }
    }
}

/// The beginning of the table.
pub const TABLE_BEGIN: &str = "| fault |";

/// Returns the table in the form of the documentation. Its last two columns are measured. They
/// contain the time from the timer, or from the start, to the end of a run.
pub fn table(rows: &[Ran]) -> String {
    let mut out = format!(
        "{TABLE_BEGIN} ends as | tokens | timer | plain, ms | TLS, ms |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let ends = match row.fault.ends {
            None => "`Done`".to_owned(),
            Some(tokenwire::ErrorKind::Limit(limit)) => format!("`limit`: `{}`", limit.as_str()),
            Some(kind) => format!("`{}`", kind.as_str()),
        };
        let tokens = match row.fault.tokens {
            Tokens::Exactly(n) => n.to_string(),
            Tokens::Many => "all that arrived".to_owned(),
        };
        let timer = row.fault.timer.map_or_else(String::new, |timer| format!("`{}`", timer.as_str()));
        let after = |run: &Option<Outcome>| {
            run.as_ref().map_or("-".to_owned(), |run| row.over(run).as_millis().to_string())
        };
        let _ = writeln!(
            out,
            "| {} | {ends} | {tokens} | {timer} | {} | {} |",
            row.fault.name,
            after(&row.plain),
            after(&row.tls)
        );
    }
    out
}
