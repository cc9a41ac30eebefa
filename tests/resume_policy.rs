//! Tests which broken streams are resumed, how often, and how many requests the resumes cost a
//! server.
#![cfg(feature = "testing")]

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use checks::each_row;
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tokenwire::recording::Request;
use tokenwire::testing::{Cut, Framing, Gate, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, ErrorKind, FinishReason, IdsExact, Inexact,
    MAX_RESUMES, NotResumable, Outcome, ResumePolicy, RetryPolicy, SamplingParams, SavedRequest, StreamGuard,
    StreamReport, StreamToken, Timeouts, Timer, TokenId,
};

/// A generous limit. Only a broken test waits for it.
const LONG: Duration = Duration::from_secs(30);

// ---- servers and clients ----

/// Returns one event of `/v1/completions`.
fn event(text: &str, ids: &[TokenId], finish: Option<&str>) -> String {
    json!({"choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": finish}]}).to_string()
}

/// Sends two tokens, then closes the connection.
fn broken() -> Script {
    Script::events([event(" a", &[7], None), event(" b", &[8], None)]).close()
}

/// Sends the rest of the stream.
fn rest() -> Script {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}).to_string();
    Script::events([event(" c", &[9], None), event(" d", &[10], Some("stop")), usage, "[DONE]".to_owned()])
}

/// Returns a policy without waits and with a large budget.
fn retry() -> RetryPolicy {
    let mut retry = RetryPolicy::default();
    (retry.max_retries, retry.min_wait, retry.budget) = (5, Duration::ZERO, 1000);
    retry
}

fn client(server: &MockServer) -> ApiClientBuilder {
    ApiClient::builder(server.url()).retry(retry()).resumes(3)
}

fn greedy() -> SamplingParams {
    SamplingParams::default().temperature(0.0).max_tokens(100)
}

fn request() -> CompletionRequest {
    CompletionRequest::ids([1, 2]).sampling(greedy())
}

/// Reads the ids and the text to the end, and returns them with the report.
fn read((tokens, guard): (Receiver<StreamToken>, StreamGuard)) -> (Vec<TokenId>, String, StreamReport) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        match tokens.recv_timeout(LONG) {
            Ok(StreamToken::Token { text: piece, id }) => {
                ids.extend(id);
                text += &piece;
            }
            Ok(_) => {}
            Err(error) if error.is_disconnected() => break,
            Err(error) => panic!("{error}"),
        }
    }
    (ids, text, guard.join())
}

fn stream(client: ApiClientBuilder, request: CompletionRequest) -> (Vec<TokenId>, String, StreamReport) {
    read(client.build().unwrap().stream(request).unwrap())
}

// ---- the resumed request ----

#[test]
fn a_resume_sends_prompt_and_received_ids_with_lower_limits_and_no_other_change() {
    let server = MockServer::scripted([broken(), broken(), rest()]).unwrap();
    let asked = request()
        .sampling(greedy().min_tokens(3).top_p(0.5).seed(4).logit_bias(vec![(5, 1.0)]))
        .request_id("mine")
        .priority(3)
        .cache_salt("s")
        .extra("own", json!({"a": 1}));
    let (ids, text, report) = stream(client(&server), asked);
    assert_eq!((ids, text.as_str()), (vec![7, 8, 7, 8, 9, 10], " a b a b c d"));
    assert_eq!((report.ending, report.ids_exact), (Outcome::Complete, IdsExact::Yes));
    assert_eq!(report.finish, Some(FinishReason::Stop));
    let requests = server.requests();
    let sent: Vec<Value> = requests.iter().map(Request::json).collect();
    let mut expected = sent[0].clone();
    for (n, ids) in [(1, json!([1, 2, 7, 8])), (2, json!([1, 2, 7, 8, 7, 8]))] {
        expected["prompt"] = ids;
        expected["max_tokens"] = (100 - 2 * n).into();
        expected["min_tokens"] = [1, 0][n - 1].into();
        assert_eq!(sent[n], expected);
    }
    let names: Vec<_> = requests.iter().map(|request| request.header("x-request-id").unwrap()).collect();
    assert_eq!(names, ["mine", "mine-1", "mine-2"]);
    let told: Vec<_> = report.resumes.iter().map(|r| (r.at_id, r.after, r.requests, r.text_exact)).collect();
    assert_eq!(told, [(2, ErrorKind::Incomplete, 1, true), (4, ErrorKind::Incomplete, 1, true)]);
    // For the last request, the server reported 4 prompt tokens and 2 completion tokens. The 4 ids
    // that were received earlier count as completion tokens.
    let usage = report.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (0, 6));
    assert_eq!((report.tokens, report.retries, report.not_resumed), (6, 0, None));
    let bytes = [broken(), broken(), rest()].map(|script| {
        let server = MockServer::scripted([script]).unwrap();
        stream(client(&server).resumes(0), request()).2.bytes
    });
    assert_eq!((report.events, report.bytes), (8, bytes.iter().sum()));
    assert_eq!(report.inter_token.map(|times| times.max > Duration::ZERO), Some(true));
}

#[test]
fn a_client_without_a_resume_setting_never_resumes() {
    let server = MockServer::scripted([broken(), rest()]).unwrap();
    let (ids, _, report) = stream(ApiClient::builder(server.url()).retry(retry()), request());
    assert_eq!((ids, report.ending), (vec![7, 8], Outcome::Failed));
    assert_eq!((report.resumes.len(), report.not_resumed, server.requests().len()), (0, None, 1));
    assert!(report.error.unwrap().is_resumable());
}

// ---- streams that are not resumed ----

struct Row {
    why: NotResumable,
    request: CompletionRequest,
    wire: Endpoint,
    script: Script,
}

fn rows() -> Vec<Row> {
    let row = |why, request| Row { why, request, wire: Endpoint::Auto, script: broken() };
    let sampled = |sampling| request().sampling(sampling);
    let with = |key: &str, value: Value| request().extra(key, value);
    let text = json!({"choices": [{"index": 0, "text": " a"}]}).to_string();
    let chat = json!({"choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": [7]}]}).to_string();
    let native = |text: &str, id: TokenId, predicted: u32| {
        json!({"content": text, "tokens": [id], "stop": false, "tokens_predicted": predicted}).to_string()
    };
    let lost = Inexact::LostInCharacter { received: 1, counted: 2 };
    let mut rows = vec![
        row(NotResumable::TextPrompt, CompletionRequest::text("Hi").sampling(greedy())),
        Row {
            wire: Endpoint::Chat,
            script: Script::events([chat]).close(),
            ..row(NotResumable::Endpoint, CompletionRequest::text("Hi").sampling(greedy()))
        },
        Row {
            script: Script::events([text.clone()]).close(),
            ..row(NotResumable::InexactIds(Inexact::NoIds), request())
        },
        Row {
            script: Script::events([event(" a", &[7], None), text]).close(),
            ..row(NotResumable::InexactIds(Inexact::TextWithoutId), request())
        },
        Row {
            wire: Endpoint::LlamaCpp,
            script: Script::events([native("é", 7, 2)]).close(),
            ..row(NotResumable::InexactIds(lost), request())
        },
        Row {
            wire: Endpoint::LlamaCpp,
            script: Script::events([native("a", 7, 1), native("", 8, 2)]).close(),
            ..row(NotResumable::MayHaveEnded, sampled(greedy().temperature(1.0)))
        },
        Row { script: broken().header("x-litellm-model-id", "x"), ..row(NotResumable::LiteLlm, request()) },
        row(NotResumable::SeveralChoices, with("n_cmpl", 2.into())),
        row(NotResumable::Echo, with("echo", true.into())),
        row(NotResumable::StructuredOutput, request().structured_output(json!({"regex": "a+"}))),
        row(NotResumable::StructuredOutput, with("response_format", json!({"type": "json_object"}))),
        row(NotResumable::StructuredOutput, with("sampling_params", json!({"regex": "a+"}))),
        row(NotResumable::Penalty, sampled(greedy().presence_penalty(0.5))),
        row(NotResumable::Penalty, sampled(greedy().frequency_penalty(-0.5))),
        row(NotResumable::Penalty, sampled(greedy().repetition_penalty(1.1))),
        row(NotResumable::Penalty, with("repeat_penalty", 1.1.into())),
        row(NotResumable::StopStrings, sampled(greedy().stop(vec!["###".to_owned()]))),
        row(NotResumable::StopStrings, with("stop", json!(["###"]))),
        row(NotResumable::Field("max_tokens"), with("max_tokens", 5.into())),
        row(NotResumable::Field("prompt"), with("prompt", "Hi".into())),
        row(NotResumable::Field("use_beam_search"), with("use_beam_search", true.into())),
        row(NotResumable::Field("thinking_token_budget"), with("thinking_token_budget", 9.into())),
        row(NotResumable::Field("truncate_prompt_tokens"), with("truncate_prompt_tokens", 9.into())),
        row(NotResumable::Field("vllm_xargs"), with("vllm_xargs", json!({"a": 1}))),
    ];
    // Fields with a neutral value do not prevent a resume. The server always breaks off, so the
    // stream resumes until the limit is used up.
    let nothing = greedy().presence_penalty(0.0).frequency_penalty(0.0).repetition_penalty(1.0);
    let nothing =
        sampled(nothing).extra("echo", false).extra("n", 1).extra("stop", json!([])).extra("mirostat", 0);
    rows.push(row(NotResumable::UsedUp, nothing.extra("response_format", Value::Null)));
    rows
}

#[test]
fn a_stream_that_cannot_be_resumed_exactly_ends_with_its_error_and_a_reason() {
    each_row(rows(), |Row { why, request, wire, script }| {
        let server = MockServer::scripted([script.clone()]).unwrap();
        let (ids, text, report) = stream(client(&server).endpoint(wire), request.clone());
        let sent = if why == NotResumable::UsedUp { 4 } else { 1 };
        assert_eq!((report.not_resumed, report.ending), (Some(why), Outcome::Failed), "{why}: {report:?}");
        assert_eq!((server.requests().len(), report.resumes.len()), (sent, sent - 1), "{why}");
        let error = report.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Incomplete, "{why}");
        assert_eq!(error.progress().unwrap().tokens, report.tokens, "{why}");
        assert!(!ids.is_empty() || !text.is_empty(), "{why}");

        // With `allow_inexact_resume`, the ids arrive, and no other setting is needed.
        let server = MockServer::scripted([script, rest()]).unwrap();
        let (ids, _, report) = stream(client(&server).endpoint(wire), request.allow_inexact_resume());
        let is_own = matches!(why, NotResumable::Field("max_tokens" | "prompt"));
        let accepted = match why {
            NotResumable::StructuredOutput | NotResumable::Penalty | NotResumable::StopStrings => true,
            NotResumable::Field(_) => !is_own,
            NotResumable::UsedUp => true,
            _ => false,
        };
        assert_eq!(report.ending == Outcome::Complete, accepted, "{why}: {report:?}");
        assert_eq!(server.requests().len(), if accepted { 2 } else { 1 }, "{why}");
        assert!(!accepted || ids == [7, 8, 9, 10], "{why}: {ids:?}");
        // The meaning of stop strings in an extra field is unknown.
        let holds_back = why == NotResumable::StopStrings && report.resumes.iter().any(|r| !r.text_exact);
        assert!(!holds_back || accepted);
    });
}

#[test]
fn a_resent_saved_request_is_not_resumed() {
    let folder = std::env::temp_dir().join(format!("tokenwire-resume-{}", std::process::id()));
    let server = MockServer::scripted([broken()]).unwrap();
    let saving = client(&server).resumes(2).save_failed(&folder).build().unwrap();
    let (.., report) = read(saving.stream(request().request_id("mine")).unwrap());
    // The original request was saved once, after all attempts had failed.
    assert_eq!((report.not_resumed, server.requests().len()), (Some(NotResumable::UsedUp), 3));
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let saved = SavedRequest::load(&files[0]).unwrap();
    assert_eq!(saved.body(), server.requests()[0].body);
    assert_eq!(saved.failure().progress.tokens, 6);
    assert_eq!(report.error.unwrap().saved_path(), Some(files[0].as_path()));

    let (.., report) = read(saving.resend(&saved).unwrap());
    assert_eq!((report.not_resumed, server.requests().len()), (Some(NotResumable::Resent), 4));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn errors_of_the_request_or_the_consumer_do_not_resume_a_stream() {
    let started = || Script::events([event(" a", &[7], None)]);
    let error = |code: u16| json!({"error": {"message": "m", "code": code}}).to_string();
    let timeouts = |deadline| {
        let mut timeouts = Timeouts::default();
        (timeouts.deadline, timeouts.chunk) = (deadline, Some(LONG));
        timeouts
    };
    let soon = Some(Duration::from_millis(300));
    let rows = [
        (started().event(&error(400)), None, ErrorKind::Server),
        (started().event(&error(429)), None, ErrorKind::Server),
        (started().event(&event("x", &[7, 8], None).replace('8', "-8")), None, ErrorKind::Protocol),
        (started().hang(LONG), soon, ErrorKind::Timeout(Timer::Deadline)),
        // After the finish reason, nothing is missing.
        (Script::events([event(" a", &[7], Some("stop")), error(500)]), None, ErrorKind::Server),
    ];
    each_row(rows, |(script, deadline, kind)| {
        let server = MockServer::scripted([script]).unwrap();
        let (.., report) = stream(client(&server).timeouts(timeouts(deadline)), request());
        assert_eq!(report.error.map(|error| error.kind()), Some(kind));
        assert_eq!(
            (report.not_resumed, report.resumes.len(), server.requests().len()),
            (None, 0, 1),
            "{kind:?}"
        );
    });
}

// ---- how a stream resumes ----

#[test]
fn a_stream_broken_in_any_way_is_resumed() {
    let started = || Script::events([event(" a", &[7], None), event(" b", &[8], None)]);
    let mut timeouts = Timeouts::default();
    (timeouts.chunk, timeouts.content) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
    let named = json!({"error": {"message": "m", "type": "server_error"}}).to_string();
    let rows = [
        (started().close(), ErrorKind::Incomplete),
        (started().reset(), ErrorKind::Incomplete),
        (started(), ErrorKind::Incomplete),
        (started().hang(LONG), ErrorKind::Timeout(Timer::Chunk)),
        (started().repeat(": ping\n\n", 1000, Duration::from_millis(20)), ErrorKind::Timeout(Timer::Content)),
        (started().event(&json!({"error": {"message": "m", "code": 500}}).to_string()), ErrorKind::Server),
        (started().event(&named), ErrorKind::Server),
        (started().event(&json!({"error": "no name"}).to_string()), ErrorKind::Server),
        (started().event(&event("", &[], Some("error"))), ErrorKind::Server),
    ];
    each_row(rows, |(script, kind)| {
        let server = MockServer::scripted([script, rest()]).unwrap();
        let (ids, text, report) = stream(client(&server).timeouts(timeouts), request());
        assert_eq!((ids, text.as_str()), (vec![7, 8, 9, 10], " a b c d"), "{kind:?}: {report:?}");
        assert_eq!(report.resumes[0].after, kind);
        assert_eq!(report.ids_exact, IdsExact::Yes);
    });
}

#[test]
fn a_resume_that_fails_before_its_first_token_is_repeated_without_the_original_request() {
    let busy = || Script::status(503).json(r#"{"error":{"message":"loading"}}"#);
    let first_event = || Script::events([json!({"error": {"message": "m", "code": 503}}).to_string()]);
    let mut timeouts = Timeouts::default();
    timeouts.first_token = Some(Duration::from_secs(1));
    // responses, outcome, number of requests for the break
    let rows = [
        (vec![broken(), busy(), rest()], Outcome::Complete, 2),
        // The resumed request has its own first-token timer.
        (vec![broken(), Script::new().hang(LONG), rest()], Outcome::Complete, 2),
        (vec![broken(), first_event(), busy(), rest()], Outcome::Complete, 3),
        (vec![broken(), Script::new(), rest()], Outcome::Complete, 2),
        (vec![broken(), busy()], Outcome::Failed, 3),
        // The resumed request itself is invalid, for example because the longer prompt is too long.
        (vec![broken(), Script::status(400).json(r#"{"error":"too long"}"#)], Outcome::Failed, 1),
    ];
    each_row(rows, |(scripts, ending, requests)| {
        let server = MockServer::scripted(scripts).unwrap();
        let (ids, _, report) = stream(client(&server).timeouts(timeouts), request());
        assert_eq!(report.ending, ending, "{report:?}");
        assert_eq!((report.resumes.len(), report.resumes[0].requests), (1, requests), "{report:?}");
        assert_eq!(report.resumes[0].took.is_some(), ending == Outcome::Complete);
        assert_eq!(ids.len(), if ending == Outcome::Complete { 4 } else { 2 });
        let sent = server.requests();
        assert_eq!(sent.len(), 1 + requests as usize);
        assert!(sent[1..].iter().all(|request| request.json()["prompt"] == json!([1, 2, 7, 8])));
        assert!(ending == Outcome::Complete || report.error.unwrap().progress().unwrap().tokens == 2);
    });
}

#[test]
fn a_broken_stream_with_all_its_ids_is_complete_without_another_request() {
    let rows = [
        (greedy().max_tokens(2), FinishReason::Length),
        (greedy().stop_token_ids(vec![8]), FinishReason::Stop),
    ];
    each_row(rows, |(sampling, finish)| {
        let server = MockServer::scripted([broken()]).unwrap();
        let (ids, _, report) = stream(client(&server), request().sampling(sampling));
        assert_eq!((ids, report.ending), (vec![7, 8], Outcome::Complete), "{report:?}");
        assert_eq!((report.finish, report.usage, report.error.is_none()), (Some(finish), None, true));
        // The server has not sent the number of ids.
        assert_eq!(report.ids_exact, IdsExact::Unknown);
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn a_server_that_does_not_repeat_the_last_id_gets_a_prompt_with_that_id() {
    let cut = || Script::events([event(" a", &[7], None), event("", &[8], None)]).close();
    let whole =
        || Script::events([event("the whole prompt é", &[9], None), event(" d", &[10], Some("stop"))]);
    // The first script sends another id and continues. The second one sends another id and ends.
    // The third one ends without an id.
    let others = [
        Script::events([event("b", &[5], None)]).hang(LONG),
        Script::events([event("b", &[5], Some("length"))]),
        Script::events([event("", &[], Some("stop"))]),
    ];
    for other in others {
        let server = MockServer::scripted([cut(), other, whole()]).unwrap();
        let (ids, text, report) = stream(client(&server), request());
        assert_eq!((ids, text.as_str()), (vec![7, 8, 9, 10], " a\u{fffd} d"), "{report:?}");
        let prompts: Vec<_> =
            server.requests().iter().map(|request| request.json()["prompt"].clone()).collect();
        assert_eq!(prompts, [json!([1, 2]), json!([1, 2, 7]), json!([1, 2, 7, 8])]);
        let resume = &report.resumes[0];
        assert_eq!((resume.requests, resume.ids_again, resume.text_exact), (2, 0, false));
        assert_eq!((report.finish, report.ending), (Some(FinishReason::Stop), Outcome::Complete));
    }
}

#[test]
fn a_stop_string_across_the_break_ends_the_stream_and_disconnects() {
    let event = |text: &str, ids: &[TokenId]| {
        let meta = json!({"prompt_tokens": 2, "completion_tokens": ids.len(), "finish_reason": null});
        json!({"text": text, "output_ids": ids, "meta_info": meta}).to_string()
    };
    let cut = Script::events([event("a", &[7]), event("a#", &[7, 8])]).close();
    let next = Script::events([event("## b", &[9]), event("## b c", &[9, 10])]).hang(LONG);
    let server = MockServer::scripted([cut, next]).unwrap();
    let asked = request().sampling(greedy().stop(vec!["###".to_owned()]));
    let (ids, text, report) = stream(client(&server).endpoint(Endpoint::SgLang), asked);
    assert_eq!((ids, text.as_str()), (vec![7, 8, 9], "a#"));
    assert_eq!((report.ending, report.finish), (Outcome::Complete, Some(FinishReason::Stop)));
    assert_eq!(report.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some((2, 3)));
    assert_eq!(report.ids_exact, IdsExact::Unknown);
    assert!(server.wait_for_disconnects(1, LONG));
}

// ---- no resume after a cancel or beyond the deadline ----

#[test]
fn nothing_is_sent_after_a_cancel_in_any_state_of_the_stream() {
    let mut slow = retry();
    // Each wait is random, between zero and a maximum. With such a long maximum, no wait ends
    // during the test.
    (slow.min_wait, slow.max_wait) = (LONG * 100_000, LONG * 100_000);
    let rows = [
        // The cancel happens in three states: during the wait before the resume, before the head of
        // the resumed response, and after its first token.
        (vec![broken()], slow, 1),
        (vec![broken(), Script::new().hang(LONG)], retry(), 2),
        (vec![broken(), Script::events([event(" c", &[9], None)]).hang(LONG)], retry(), 2),
    ];
    each_row(rows, |(scripts, policy, requests)| {
        let server = MockServer::scripted(scripts).unwrap();
        let client = client(&server).retry(policy).build().unwrap();
        let (tokens, guard) = client.stream(request()).unwrap();
        let expected = 2 + usize::from(requests == 2);
        for _ in 0..2 {
            tokens.recv_timeout(LONG).unwrap();
        }
        assert!(server.wait_for_requests(requests, LONG));
        let _ = tokens.recv_timeout(Duration::from_millis(100));
        let began = Instant::now();
        guard.cancel();
        assert!(tokens.recv_timeout(LONG).is_err_and(|error| error.is_disconnected()));
        let report = guard.join();
        assert_eq!((report.ending, report.not_resumed), (Outcome::Cancelled, None));
        assert!(report.tokens >= 2 && report.tokens as usize <= expected, "{report:?}");
        assert!(began.elapsed() < LONG / 2, "the cancel waited for the pause");
        thread::sleep(Duration::from_millis(50));
        assert_eq!(server.requests().len(), requests);
    });
}

#[test]
fn the_deadline_covers_all_attempts() {
    let mut timeouts = Timeouts::default();
    timeouts.deadline = Some(LONG);
    let late = Script::status(503).header("Retry-After", "3600");
    let server = MockServer::scripted([broken(), late]).unwrap();
    let mut retry = retry();
    retry.max_server_wait = Duration::from_secs(7200);
    let (.., report) = stream(client(&server).retry(retry).timeouts(timeouts), request());
    assert_eq!((report.not_resumed, server.requests().len()), (Some(NotResumable::Deadline), 2));

    timeouts.deadline = Some(Duration::from_secs(2));
    let server =
        MockServer::scripted([broken(), Script::events([event(" c", &[9], None)]).hang(LONG)]).unwrap();
    let (ids, _, report) = stream(client(&server).timeouts(timeouts), request());
    assert_eq!(report.error.map(|error| error.kind()), Some(ErrorKind::Timeout(Timer::Deadline)));
    assert_eq!(ids, [7, 8, 9]);
}

// ---- the budget ----

#[test]
fn in_an_outage_all_streams_together_send_at_most_a_fifth_more() {
    const STREAMS: usize = 50;
    let (down, asked) = (Gate::new(), AtomicUsize::new(0));
    let server = {
        let down = down.clone();
        MockServer::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            ..STREAMS => broken_at(&down),
            _ => Script::status(503),
        })
        .unwrap()
    };
    let mut policy = RetryPolicy::default();
    policy.min_wait = Duration::ZERO;
    let client = client(&server).retry(policy).resumes(MAX_RESUMES).build().unwrap();
    let (sender, ended) = mpsc::channel();
    let streams: Vec<_> = (0..STREAMS).map(|_| client.stream(request()).unwrap()).collect();
    for (tokens, _) in &streams {
        tokens.recv_timeout(LONG).unwrap();
    }
    down.open();
    thread::scope(|scope| {
        for stream in streams {
            let sender = sender.clone();
            scope.spawn(move || sender.send(read(stream).2).unwrap());
        }
    });
    let reports: Vec<_> = ended.try_iter().collect();
    let sent = server.requests().len();
    println!("{STREAMS} streams in an outage: {sent} requests");
    assert_eq!(sent, STREAMS + policy.budget as usize);
    assert!(
        reports.iter().all(|report| report.not_resumed == Some(NotResumable::Budget)),
        "{:?}",
        reports[0]
    );
}

fn broken_at(gate: &Gate) -> Script {
    Script::events([event(" a", &[7], None)]).wait_for(gate).close()
}

#[test]
fn new_tokens_reset_the_wait_between_resumes() {
    // Each failure doubles the wait. After five failures in a row, the wait would be 32 times as
    // long as the first one.
    let mut policy = retry();
    (policy.min_wait, policy.max_wait) = (Duration::from_millis(20), LONG);
    let scripts = vec![broken(); 12].into_iter().chain([rest()]);
    let server = MockServer::scripted(scripts).unwrap();
    let began = Instant::now();
    let (.., report) = stream(client(&server).retry(policy).resumes(20), request());
    assert_eq!((report.ending, report.resumes.len()), (Outcome::Complete, 12));
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[test]
fn the_number_of_resumes_has_its_own_limit() {
    let mut policy = ResumePolicy::default();
    assert_eq!((policy.max_resumes, policy.max_ids_again), (3, 16));
    policy.max_resumes = u32::MAX;
    let answers = Script::events([event(" a", &[7], None)]).framing(Framing::CloseDelimited);
    let server = MockServer::start(move |_| answers.clone().cut_at(usize::MAX, Cut::Fin)).unwrap();
    let mut budget = retry();
    budget.budget = 100_000;
    let asked = request().sampling(greedy().max_tokens(100_000));
    let (ids, _, report) = stream(client(&server).retry(budget).resume(policy), asked);
    assert_eq!(
        (report.not_resumed, report.resumes.len()),
        (Some(NotResumable::UsedUp), MAX_RESUMES as usize)
    );
    assert_eq!(ids.len(), MAX_RESUMES as usize + 1);
}
