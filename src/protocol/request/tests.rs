use serde_json::{Value, json};

use super::completion::CompletionRequest;
use super::message::Message;
use super::sampling::SamplingParams;
use crate::error::ErrorKind;
use crate::protocol::server::endpoint::Endpoint;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn invalid_and_unsupported_requests_are_rejected() {
    let ids = || CompletionRequest::ids([1]);
    let sampled = |params: SamplingParams| ids().sampling(params);
    let params = SamplingParams::default;
    let invalid = [
        CompletionRequest::ids([]),
        CompletionRequest::messages([]),
        sampled(params().temperature(f64::NAN)),
        sampled(params().top_p(f64::INFINITY)),
        sampled(params().logit_bias(vec![(1, f64::NEG_INFINITY)])),
        sampled(params().logit_bias(vec![(1, 0.5), (2, 0.5), (1, 0.5)])),
        ids().header("", "v"),
        ids().header("a b", "v"),
        ids().header("x-a\r\nx-b", "v"),
        ids().header("x-a", "v\r\nx-b: w"),
        ids().header("x-a", "v\0"),
        ids().header("x-a", " v"),
        ids().header("x-a", "ä"),
        ids().header("Authorization", "Bearer x"),
        ids().header("HOST", "h"),
        ids().header("content-length", "0"),
        ids().header("Transfer-Encoding", "chunked"),
        ids().header("accept-encoding", "gzip"),
        ids().header("Content-Type", "text/plain"),
        ids().request_id(""),
        ids().request_id("a b"),
        ids().session(""),
        ids().session("a\nb"),
        ids().traceparent(""),
        ids().traceparent(TRACE.to_uppercase()),
        ids().traceparent(TRACE.replace("00-4bf", "ff-4bf")),
        ids().traceparent(TRACE.replace("00f067aa0ba902b7", "0000000000000000")),
        ids().traceparent(format!("{TRACE}-01")),
    ];
    for request in invalid {
        let error = request.to_json(None, Endpoint::OpenAi, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{request:?}: {error}");
    }
    let unsupported = [
        (ids().extra("stream", false), Endpoint::OpenAi),
        (ids().extra("stream", "yes"), Endpoint::OpenAi),
        (ids().extra("n", 2), Endpoint::OpenAi),
        (ids().extra("best_of", 2), Endpoint::LlamaCpp),
        (ids().extra("n", 1.5), Endpoint::OpenAi),
        (ids().extra("sampling_params", json!({"n": 2})), Endpoint::VllmGenerate),
        (ids(), Endpoint::Chat),
        (CompletionRequest::messages([Message::user("a")]), Endpoint::OpenAi),
        (CompletionRequest::messages([Message::user("a")]), Endpoint::LlamaCpp),
        (ids().tools([json!({})]), Endpoint::OpenAi),
        (CompletionRequest::text("a").tool_choice("none"), Endpoint::Auto),
        (CompletionRequest::text("a"), Endpoint::VllmGenerate),
        (ids().structured_output(json!({"regex": "a+"})), Endpoint::LlamaCpp),
    ];
    for (request, endpoint) in unsupported {
        let error = request.to_json(None, endpoint, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{request:?}: {error}");
    }
    for fine in [
        ids().extra("n", 1).extra("best_of", Value::Null).extra("stream", true),
        ids().header("X-Session", "a b"),
        ids().traceparent(TRACE).session("s-1"),
        CompletionRequest::text(""),
    ] {
        fine.validate().unwrap();
    }
}

#[test]
fn debug_shows_no_credential_and_no_prompt() {
    let request = CompletionRequest::text("canary-prompt")
        .header("api-key", "canary-header")
        .cache_salt("canary-salt")
        .extra("api_key", "canary-extra");
    let shown = format!("{request:?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("13 bytes of text") && shown.contains("api_key"), "{shown}");
    let error = CompletionRequest::ids([1]).header("api-key", "canary\n").validate().unwrap_err();
    assert!(!format!("{error:?} {error}").contains("canary"));
}
