use serde_json::json;

use super::*;
use crate::protocol::server::fields::{FIELDS, FLAGS};

fn full() -> CompletionRequest {
    let sampling = SamplingParams::default()
        .max_tokens(9)
        .min_tokens(1)
        .temperature(0.7)
        .top_p(0.9)
        .min_p(0.05)
        .top_k(-1)
        .presence_penalty(0.1)
        .frequency_penalty(-0.1)
        .repetition_penalty(1.1)
        .seed(i64::MIN)
        .stop(vec!["\n\n".to_owned()])
        .stop_token_ids(vec![2])
        .ignore_eos(true)
        .logit_bias(vec![(7, -1.5), (8, 2.0)]);
    CompletionRequest::ids([504, 1296])
        .sampling(sampling)
        .priority(-3)
        .structured_output(json!({"json": {"type": "object"}}))
        .cache_salt("s")
        .cache_prompt(false)
        .request_id("mine-9")
        .allow_ignored_fields()
        .extra("custom", json!({"a": [1, null]}))
}

fn body(request: &CompletionRequest, endpoint: Endpoint, server: Option<&ServerKind>) -> Value {
    let json = request.to_json(Some("m"), endpoint, server).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// A record can rename exactly the fields that a body has on the OpenAI endpoints.
#[test]
fn the_lists_contain_exactly_the_fields_that_are_written() {
    let names = ["vllm", "llamacpp", "sglang", "tgi", "tensorrt_llm", "ollama", "lmstudio"];
    let servers = names.map(|name| ServerKind::by_name(name).unwrap());
    let servers = servers.iter().map(Some);
    let kinds = [json!({"json": {}}), json!({"regex": "a+"}), json!({"grammar": "g"})];
    let mut written = std::collections::BTreeSet::new();
    for (server, kind) in servers.chain([None]).flat_map(|s| kinds.iter().map(move |k| (s, k))) {
        for endpoint in [Endpoint::OpenAi, Endpoint::Chat] {
            let mut request = full().structured_output(kind.clone());
            if endpoint == Endpoint::Chat {
                request.prompt = Prompt::Messages(vec![Message::user("Hi")]);
                request = request.tool_choice("auto");
                // With tools, the body for llama.cpp does not ask for log-probabilities.
                request.tools = if server.is_none() { vec![json!({})] } else { Vec::new() };
            }
            for body in
                [request.to_json(Some("m"), endpoint, server), request.to_call_json(None, endpoint, server)]
            {
                // An error means that the server does not support this kind of structured output.
                let Ok(body) = body else { continue };
                let body: Map<String, Value> = serde_json::from_slice(&body).unwrap();
                written.extend(body.into_iter().map(|(key, _)| key));
            }
        }
    }
    let listed = FIELDS.iter().chain(FLAGS).map(|field| (*field).to_owned());
    // The list also has llama.cpp's second name for a field, and an extra field.
    let listed = listed.chain(["repeat_penalty".to_owned(), "custom".to_owned()]);
    assert_eq!(written, listed.collect());
}

#[test]
fn a_simple_request_has_the_body_of_the_original_client() {
    let sampling = SamplingParams::default().temperature(0.0).top_p(1.0).top_k(-1).stop_token_ids(vec![2]);
    let request = CompletionRequest::ids([1, 2]).sampling(sampling).priority(0).allow_ignored_fields();
    let sent = json!({
        "model": "m", "prompt": [1, 2], "max_tokens": 16384, "temperature": 0.0, "top_p": 1.0,
        "top_k": -1, "stop_token_ids": [2], "skip_special_tokens": false, "stream": true,
        "stream_options": {"include_usage": true}, "priority": 0, "return_token_ids": true,
    });
    assert_eq!(body(&request, Endpoint::OpenAi, Some(&ServerKind::Vllm)), sent);
    // The server is unknown, so the body asks for ids in both ways.
    let mut both = sent;
    both["verbose"] = true.into();
    assert_eq!(body(&request, Endpoint::Auto, None), both);
    assert_eq!(body(&request, Endpoint::OpenAi, None), both);
    both.as_object_mut().unwrap().remove("return_token_ids");
    assert_eq!(body(&request, Endpoint::OpenAi, Some(&ServerKind::LlamaCpp)), both);
}

#[test]
fn every_field_is_sent_under_the_name_of_each_server() {
    let vllm_sampling = json!({
        "max_tokens": 9, "min_tokens": 1, "temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "top_k": -1,
        "presence_penalty": 0.1, "frequency_penalty": -0.1, "repetition_penalty": 1.1, "seed": i64::MIN,
        "stop": ["\n\n"], "stop_token_ids": [2], "ignore_eos": true, "logit_bias": {"7": -1.5, "8": 2.0},
        "skip_special_tokens": false, "structured_outputs": {"json": {"type": "object"}},
    });
    let with = |mut base: Value, more: Value| {
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    let vllm = json!({
        "model": "m", "prompt": [504, 1296], "stream": true, "stream_options": {"include_usage": true},
        "priority": -3, "cache_salt": "s", "cache_prompt": false, "return_token_ids": true,
        "custom": {"a": [1, null]},
    });
    assert_eq!(body(&full(), Endpoint::OpenAi, Some(&ServerKind::Vllm)), with(vllm, vllm_sampling.clone()));
    let generate = json!({
        "model": "m", "token_ids": [504, 1296], "stream": true, "stream_options": {"include_usage": true},
        "priority": -3, "cache_salt": "s", "request_id": "mine-9", "sampling_params": vllm_sampling,
        "custom": {"a": [1, null]},
    });
    assert_eq!(body(&full(), Endpoint::VllmGenerate, None), generate);
    let native = json!({
        "model": "m", "prompt": [504, 1296], "n_predict": 9, "temperature": 0.7, "top_p": 0.9,
        "top_k": -1, "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": -0.1,
        "repeat_penalty": 1.1, "seed": i64::MIN, "ignore_eos": true, "stop": ["\n\n"],
        "logit_bias": [[7, -1.5], [8, 2.0]],
        "stream": true, "return_tokens": true, "cache_prompt": false, "json_schema": {"type": "object"},
        "custom": {"a": [1, null]},
    });
    assert_eq!(body(&full(), Endpoint::LlamaCpp, None), native);
    let sglang = json!({
        "input_ids": [504, 1296], "stream": true, "rid": "mine-9", "priority": -3, "cache_salt": "s",
        "sampling_params": {
            "max_new_tokens": 9, "min_new_tokens": 1, "temperature": 0.7, "top_p": 0.9, "top_k": -1,
            "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": -0.1, "repetition_penalty": 1.1,
            "sampling_seed": i64::MIN, "ignore_eos": true, "stop": ["\n\n"], "stop_token_ids": [2],
            "logit_bias": {"7": -1.5, "8": 2.0}, "skip_special_tokens": false,
            "json_schema": "{\"type\":\"object\"}",
        },
        "custom": {"a": [1, null]},
    });
    assert_eq!(body(&full(), Endpoint::SgLang, None), sglang);
    let mut text = full();
    text.prompt = Prompt::Text("Hi".to_owned());
    let tgi = json!({
        "inputs": "Hi",
        "parameters": {
            "max_new_tokens": 9, "do_sample": true, "temperature": 0.7, "top_p": 0.9,
            "repetition_penalty": 1.1, "frequency_penalty": -0.1, "seed": i64::MIN, "stop": ["\n\n"],
            "details": true, "grammar": {"type": "json", "value": {"type": "object"}},
        },
        "custom": {"a": [1, null]},
    });
    assert_eq!(body(&text, Endpoint::Tgi, None), tgi);
    let greedy = SamplingParams::default().temperature(0.0).top_p(1.0);
    let greedy = body(&CompletionRequest::text("Hi").sampling(greedy), Endpoint::Tgi, None);
    let parameters = json!({"max_new_tokens": 16384, "do_sample": false, "details": true});
    assert_eq!(greedy["parameters"], parameters);
    let unknown = body(&full(), Endpoint::OpenAi, None);
    for (key, value) in [
        ("structured_outputs", json!({"json": {"type": "object"}})),
        ("json_schema", json!({"type": "object"})),
        ("repetition_penalty", json!(1.1)),
        ("repeat_penalty", json!(1.1)),
    ] {
        assert_eq!(unknown[key], value, "{key}");
    }
}

#[test]
fn each_server_gets_only_the_fields_that_it_supports() {
    let request = CompletionRequest::text("Hi").sampling(SamplingParams::default().max_tokens(4));
    let base = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 4});
    // Each case: the server, whether the endpoint is chat, the fields that are sent in addition to
    // the prompt.
    let cases = [
        (None, true, json!({"skip_special_tokens": false, "return_token_ids": true})),
        (Some(&ServerKind::Vllm), true, json!({"skip_special_tokens": false, "return_token_ids": true})),
        (
            Some(&ServerKind::LlamaCpp),
            true,
            json!({"skip_special_tokens": false, "logprobs": true, "top_logprobs": 1}),
        ),
        (Some(&ServerKind::SgLang), false, json!({"skip_special_tokens": false, "return_token_ids": true})),
        (Some(&ServerKind::TensorRtLlm), false, json!({"skip_special_tokens": false})),
        (Some(&ServerKind::Ollama), false, json!({})),
        (Some(&ServerKind::Ollama), true, json!({})),
        (Some(&ServerKind::LmStudio), true, json!({})),
        (Some(&ServerKind::Tgi), true, json!({})),
    ];
    for (server, chat, more) in cases {
        let (endpoint, prompt) = match chat {
            true => (Endpoint::Chat, json!({"messages": [{"role": "user", "content": "Hi"}]})),
            false => (Endpoint::OpenAi, json!({"prompt": "Hi"})),
        };
        let mut expected = base.clone();
        for part in [json!({"model": "m"}), prompt, more] {
            expected.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        assert_eq!(body(&request, endpoint, server), expected, "{server:?} {endpoint}");
    }
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]);
    let extra = request.extra("messages", messages.clone());
    assert_eq!(body(&extra, Endpoint::Chat, None)["messages"], messages);
    let tools = [json!({"type": "function", "function": {"name": "now"}})];
    let asked = CompletionRequest::messages([Message::system("s"), Message::user("u")])
        .tools(tools.clone())
        .tool_choice("required");
    for (endpoint, server) in [
        (Endpoint::Chat, None),
        (Endpoint::Auto, Some(&ServerKind::Vllm)),
        (Endpoint::Auto, Some(&ServerKind::LlamaCpp)),
    ] {
        let body = body(&asked, endpoint, server);
        assert_eq!((&body["messages"], &body["tool_choice"]), (&messages, &json!("required")));
        assert_eq!(body["tools"], json!(tools));
        let asks_as_chat = body.get("verbose").is_none();
        assert!(asks_as_chat, "{body}");
        // In a stream, llama.cpp rejects a request with both log-probabilities and tools.
        assert!(body.get("logprobs").is_none(), "{body}");
    }
    for (server, kind, field) in [
        (&ServerKind::SgLang, json!({"regex": "a+"}), json!({"regex": "a+"})),
        (&ServerKind::SgLang, json!({"grammar": "g"}), json!({"ebnf": "g"})),
        (&ServerKind::LlamaCpp, json!({"grammar": "g"}), json!({"grammar": "g"})),
        (
            &ServerKind::TensorRtLlm,
            json!({"regex": "a+"}),
            json!({"response_format": {"type": "regex", "regex": "a+"}}),
        ),
    ] {
        let request = CompletionRequest::text("Hi").structured_output(kind);
        let body = body(&request, Endpoint::OpenAi, Some(server));
        let (key, value) = field.as_object().unwrap().iter().next().unwrap();
        assert_eq!(body[key], *value, "{server:?}");
    }
}

/// Checks how the body of a whole response differs from the body of a stream.
#[test]
fn a_call_asks_for_a_whole_response_and_for_its_ids() {
    let text = CompletionRequest::text("Hi");
    let ids = CompletionRequest::ids([1]);
    let llama = json!({"verbose": true, "return_tokens": true});
    for (endpoint, server, request, gone, new) in [
        (Endpoint::Auto, None, &ids, &[][..], json!({"return_tokens": true})),
        (Endpoint::OpenAi, Some(&ServerKind::Vllm), &ids, &[], json!({})),
        (Endpoint::OpenAi, Some(&ServerKind::LlamaCpp), &ids, &[], json!({"return_tokens": true})),
        (Endpoint::Chat, None, &text, &[], llama.clone()),
        (Endpoint::Chat, Some(&ServerKind::LlamaCpp), &text, &["logprobs", "top_logprobs"], llama),
        (Endpoint::Chat, Some(&ServerKind::Ollama), &text, &[], json!({})),
        (Endpoint::LlamaCpp, None, &ids, &[], json!({})),
        (Endpoint::VllmGenerate, None, &ids, &[], json!({})),
        (Endpoint::SgLang, None, &ids, &[], json!({})),
        (Endpoint::Tgi, None, &text, &[], json!({})),
    ] {
        let mut expected = body(request, endpoint, server);
        let fields = expected.as_object_mut().unwrap();
        for key in gone.iter().chain(&["stream_options"]) {
            fields.remove(*key);
        }
        if endpoint != Endpoint::Tgi {
            fields.insert("stream".to_owned(), json!(false));
        }
        fields.extend(new.as_object().unwrap().clone());
        let json = request.to_call_json(Some("m"), endpoint, server).unwrap();
        let found: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(found, expected, "{endpoint} {server:?}");
    }
    let error = ids.extra("stream", false).to_call_json(None, Endpoint::Auto, None).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Unsupported);
}

#[test]
fn no_key_is_written_twice_and_extra_fields_win() {
    let options = json!({"continuous_usage_stats": true, "include_usage": false});
    let request = full()
        .extra("max_tokens", 3)
        .extra("model", "other")
        .extra("stream", true)
        .extra("n", 1)
        .extra("stream_options", options.clone())
        .extra("sampling_params", json!({"seed": 4, "allowed_token_ids": [1]}));
    for (endpoint, server) in [
        (Endpoint::OpenAi, None),
        (Endpoint::OpenAi, Some(&ServerKind::Vllm)),
        (Endpoint::OpenAi, Some(&ServerKind::LlamaCpp)),
        (Endpoint::LlamaCpp, None),
        (Endpoint::VllmGenerate, None),
        (Endpoint::SgLang, None),
    ] {
        let json = request.to_json(Some("m"), endpoint, server).unwrap();
        // A parsed value has each key only once. If a key was written twice, the value has a
        // shorter JSON text than the body.
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value.to_string().len(), json.len(), "{}", String::from_utf8_lossy(&json));
        assert_eq!((&value["max_tokens"], &value["model"]), (&json!(3), &json!("other")));
        assert_eq!(value["stream_options"], options);
        if endpoint.path().0.ends_with("/generate") {
            let nested = &value["sampling_params"];
            let three = (&nested["seed"], &nested["allowed_token_ids"], &nested["top_p"]);
            assert_eq!(three, (&json!(4), &json!([1]), &json!(0.9)));
        }
    }
}

#[test]
fn a_long_prompt_of_ids_is_written_unchanged() {
    let ids: Vec<TokenId> = (0..100_000).map(|i| u32::MAX / 100_000 * i).chain([0, u32::MAX]).collect();
    for (endpoint, key) in [
        (Endpoint::OpenAi, "prompt"),
        (Endpoint::LlamaCpp, "prompt"),
        (Endpoint::VllmGenerate, "token_ids"),
        (Endpoint::SgLang, "input_ids"),
    ] {
        let mut value = body(&CompletionRequest::ids(ids.clone()), endpoint, None);
        let back: Vec<TokenId> = serde_json::from_value(value[key].take()).unwrap();
        assert_eq!(back, ids);
    }
    let text = "a \"quoted\"\u{0}\u{2028} 🦀";
    assert_eq!(body(&CompletionRequest::text(text), Endpoint::OpenAi, None)["prompt"], text);
}
