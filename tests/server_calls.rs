//! Tests of the other requests of a client, against the mock server. These requests detect the
//! server, list its models, and use its tokenizer.

#![cfg(feature = "testing")]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::checks::each_row;
use common::streams::LONG;
use common::{data, fixture};
use serde_json::{Value, json};
use tokenwire::testing::{Framing, MockServer as Scripted, Script};
use tokenwire::{ApiClient, ApiClientBuilder, ErrorKind, Limit, Limits, ServerKind, Timeouts, Timer};

/// Starts a server that has only these paths.
fn serving(paths: Vec<(&'static str, Script)>) -> Scripted {
    Scripted::start(move |request| {
        let found = paths.iter().find(|(path, _)| *path == request.path);
        found.map_or_else(
            || Script::status(404).json(r#"{"detail":"Not Found"}"#),
            |(_, script)| script.clone(),
        )
    })
    .unwrap()
}

fn ok(json: &Value) -> Script {
    Script::status(200).json(json)
}

fn client(server: &Scripted) -> ApiClientBuilder {
    ApiClient::builder(server.url())
}

fn asked(server: &Scripted) -> Vec<String> {
    server.requests().iter().map(|request| request.path.clone()).collect()
}

fn models(owners: &[(&str, &str)]) -> Script {
    let entry =
        |(id, owner): &(&str, &str)| json!({"id": id, "object": "model", "created": 0, "owned_by": owner});
    ok(&json!({"object": "list", "data": owners.iter().map(entry).collect::<Vec<_>>()}))
}

fn recorded(name: &str) -> Script {
    Script::status(200)
        .json(String::from_utf8(fixture::load(data(name)).unwrap().response_body().bytes).unwrap())
}

/// name, paths of the server, detected kind, requested paths
type Case = (&'static str, Vec<(&'static str, Script)>, Option<ServerKind>, Vec<&'static str>);

/// Each server is detected with as few requests as possible. Each row lists these requests. The
/// client stores the result.
#[test]
fn each_server_is_detected_by_its_models_or_by_one_of_its_paths() {
    let tgi = || {
        ok(
            &json!({"model_id": "org/m", "max_best_of": 2, "router": "text-generation-router", "version": "3.3.6"}),
        )
    };
    let old_tgi = ok(&json!({"model_id": "org/m", "max_best_of": 2, "max_total_tokens": 2048}));
    let tei = ok(&json!({"model_id": "org/m", "router": "text-embeddings-router", "max_input_length": 512}));
    let version = || ok(&json!({"version": "0.5.1"}));
    let webui = ok(&json!({"version": "0.6.1", "deployment_id": ""}));
    let sglang = ok(&json!({"model_path": "org/m", "tokenizer_path": "org/m", "is_generation": true}));
    let props = recorded("llama.cpp/get-props.raw");
    let studio = ok(
        &json!({"object": "list", "data": [{"id": "m", "object": "model", "publisher": "p", "compatibility_type": "gguf", "max_context_length": 4096}]}),
    );
    let named = Script::status(404).header("Server", "llama.cpp").json("{}");
    let locked = Script::status(401).header("Server", "llama.cpp").json("{}");
    let all = vec!["/v1/models", "/info", "/get_model_info", "/api/version", "/api/v0/models", "/props"];
    let empty = ok(&json!({"object": "list", "data": null}));
    let cases: Vec<Case> = vec![
        (
            "vLLM",
            vec![("/v1/models", recorded("vllm/models.response.http"))],
            Some(ServerKind::Vllm),
            vec!["/v1/models"],
        ),
        (
            "llama.cpp",
            vec![("/v1/models", recorded("llama.cpp/get-models.raw"))],
            Some(ServerKind::LlamaCpp),
            vec!["/v1/models"],
        ),
        (
            "SGLang",
            vec![("/v1/models", models(&[("m", "sglang")]))],
            Some(ServerKind::SgLang),
            vec!["/v1/models"],
        ),
        (
            "TensorRT-LLM",
            vec![("/v1/models", models(&[("m", "tensorrt_llm")]))],
            Some(ServerKind::TensorRtLlm),
            vec!["/v1/models"],
        ),
        (
            "Ollama",
            vec![("/v1/models", models(&[("me/m:1b", "me"), ("llama3:1b", "library")]))],
            Some(ServerKind::Ollama),
            vec!["/v1/models"],
        ),
        (
            "LM Studio",
            vec![("/v1/models", models(&[("m", "organization_owner")]))],
            Some(ServerKind::LmStudio),
            vec!["/v1/models"],
        ),
        (
            "TGI",
            vec![("/v1/models", models(&[("org/m", "org/m")])), ("/info", tgi())],
            Some(ServerKind::Tgi),
            vec!["/v1/models", "/info"],
        ),
        ("no TGI", vec![("/v1/models", models(&[("org/m", "org/m")]))], None, vec!["/v1/models", "/info"]),
        (
            "Ollama, with models of other owners",
            vec![("/v1/models", models(&[("me/m:1b", "me")])), ("/api/version", version())],
            Some(ServerKind::Ollama),
            vec!["/v1/models", "/api/version"],
        ),
        (
            "Ollama, empty",
            vec![("/v1/models", empty), ("/api/version", version())],
            Some(ServerKind::Ollama),
            vec!["/v1/models", "/api/version"],
        ),
        (
            "Open WebUI",
            vec![("/v1/models", models(&[("m", "openai")])), ("/api/version", webui)],
            None,
            vec!["/v1/models", "/api/version"],
        ),
        (
            "a provider",
            vec![("/v1/models", models(&[("m", "system")]))],
            None,
            vec!["/v1/models", "/api/version"],
        ),
        ("a list of another kind", vec![("/v1/models", ok(&json!(["m"])))], None, all.clone()),
        (
            "a page",
            vec![("/v1/models", Script::status(200).body("text/html", "<html>")), ("/info", tgi())],
            Some(ServerKind::Tgi),
            vec!["/v1/models", "/info"],
        ),
        (
            "TGI without the list",
            vec![("/info", old_tgi)],
            Some(ServerKind::Tgi),
            vec!["/v1/models", "/info"],
        ),
        ("an embeddings server", vec![("/info", tei)], None, all.clone()),
        (
            "SGLang without the list",
            vec![("/get_model_info", sglang)],
            Some(ServerKind::SgLang),
            all[..3].to_vec(),
        ),
        (
            "Ollama without the list",
            vec![("/api/version", version())],
            Some(ServerKind::Ollama),
            all[..4].to_vec(),
        ),
        (
            "LM Studio without the list",
            vec![("/api/v0/models", studio)],
            Some(ServerKind::LmStudio),
            all[..5].to_vec(),
        ),
        (
            "llama.cpp behind a proxy that hides the list",
            vec![("/props", props)],
            Some(ServerKind::LlamaCpp),
            all.clone(),
        ),
        (
            "llama.cpp by its name",
            vec![("/v1/models", named)],
            Some(ServerKind::LlamaCpp),
            vec!["/v1/models"],
        ),
        (
            "llama.cpp by its name, with a wrong key",
            vec![("/v1/models", locked)],
            Some(ServerKind::LlamaCpp),
            vec!["/v1/models"],
        ),
        ("nothing", vec![], None, all.clone()),
    ];
    each_row(cases, |(name, paths, expected, requests)| {
        let server = serving(paths);
        let client = client(&server).build().unwrap();
        for _ in 0..2 {
            assert_eq!(client.server().unwrap(), expected, "{name}");
        }
        assert_eq!(asked(&server), requests, "{name}");
    });
}

#[test]
fn a_server_set_by_the_caller_is_not_detected() {
    let server = serving(vec![]);
    let client = client(&server).server(ServerKind::Tgi).build().unwrap();
    assert_eq!(client.server().unwrap(), Some(ServerKind::Tgi));
    assert_eq!(asked(&server), [""; 0]);
}

#[test]
fn a_failed_first_request_is_an_error_and_is_repeated_by_the_next_call() {
    for (script, kind) in [
        (Script::status(401).json(r#"{"error":"Unauthorized"}"#), ErrorKind::Server),
        (Script::status(503), ErrorKind::Server),
        (Script::new(), ErrorKind::Incomplete),
    ] {
        let server = serving(vec![("/v1/models", script)]);
        let client = client(&server).build().unwrap();
        for _ in 0..2 {
            assert_eq!(client.server().unwrap_err().kind(), kind);
        }
        assert_eq!(server.requests().len(), 2);
    }
}

/// All requests together have five seconds.
#[test]
fn a_server_that_is_silent_on_the_second_request_is_waited_for_once() {
    let server = serving(vec![
        ("/v1/models", models(&[("m", "m")])),
        ("/info", Script::new().wait_for_client_gone(LONG)),
    ]);
    let client = client(&server).build().unwrap();
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(client.server().unwrap(), None);
    }
    assert!(began.elapsed() < LONG / 2);
    assert_eq!(asked(&server), ["/v1/models", "/info"]);
}

#[test]
fn models_are_listed_with_owner_and_context() {
    let entry = |id: &str, owner: Option<&str>, context| (id.to_owned(), owner.map(str::to_owned), context);
    let odd = json!({"data": [
        {"id": "a", "context_length": 131_072},
        {"no": "id"},
        {"id": "b", "owned_by": 7, "max_model_len": -1, "max_context_length": 4096},
        {"id": "c", "max_model_len": 5_000_000_000_u64},
    ]});
    each_row(
        [
            (recorded("vllm/models.response.http"), vec![entry("tiny-qwen3", Some("vllm"), Some(1024))]),
            (
                recorded("llama.cpp/get-models.raw"),
                vec![entry("SmolLM2-135M-Instruct.Q4_1", Some("llamacpp"), Some(2048))],
            ),
            (
                ok(&odd),
                vec![entry("a", None, Some(131_072)), entry("b", None, Some(4096)), entry("c", None, None)],
            ),
            (ok(&json!({"object": "list", "data": null})), vec![]),
        ],
        |(script, expected)| {
            let server = serving(vec![("/v1/models", script)]);
            let client = client(&server).api_key("sk-canary-0123456789").build().unwrap();
            let found = client
                .models()
                .unwrap()
                .into_iter()
                .map(|model| (model.id, model.owned_by, model.max_context_tokens));
            assert_eq!(found.collect::<Vec<_>>(), expected);
            assert_eq!(server.requests()[0].header("authorization"), Some("Bearer sk-canary-0123456789"));
        },
    );
}

/// Each row has the server's response at `/tokenize` or `/detokenize`, and the body that must be
/// sent to it.
#[test]
fn text_and_ids_use_the_format_of_the_servers_tokenizer() {
    let text = "你好，世界！🤖 ok";
    let llama_ids: &[u32] =
        &[18645, 250, 48392, 138, 12831, 7906, 240, 178, 239, 230, 8083, 219, 10813, 114, 240, 10907];
    let vllm = || ok(&json!({"count": 2, "max_model_len": 1024, "tokens": [5, 6], "token_strs": null}));
    let tgi = ok(
        &json!([{"id": 5, "text": "a", "start": 0, "stop": 1}, {"id": 6, "text": "b", "start": 1, "stop": 2}]),
    );
    let two: &[u32] = &[5, 6];
    // Plain lists, as llama.cpp sends them without `with_pieces`, have the form of vLLM's lists.
    let llama = recorded("llama.cpp/tokenize.raw");
    each_row(
        [
            (
                ServerKind::Vllm,
                vllm(),
                true,
                two,
                json!({"prompt": text, "add_special_tokens": true, "model": "m"}),
            ),
            (
                ServerKind::SgLang,
                vllm(),
                false,
                two,
                json!({"prompt": text, "add_special_tokens": false, "model": "m"}),
            ),
            (
                ServerKind::LlamaCpp,
                llama,
                false,
                llama_ids,
                json!({"content": text, "add_special": false, "parse_special": true}),
            ),
            (ServerKind::Tgi, tgi, true, two, json!({"inputs": text})),
        ],
        |(kind, script, add_special, ids, body)| {
            let server = serving(vec![("/tokenize", script)]);
            let client = client(&server).server(kind.clone()).model("m").build().unwrap();
            assert_eq!(client.tokenize(text, add_special).unwrap(), ids, "{kind:?}");
            let sent = &server.requests()[0];
            assert_eq!(
                (sent.method.as_str(), serde_json::from_slice::<Value>(&sent.body).unwrap()),
                ("POST", body),
                "{kind:?}"
            );
        },
    );
    let llama = recorded("llama.cpp/detokenize.raw");
    each_row(
        [
            (
                ServerKind::Vllm,
                ok(&json!({"prompt": "ab"})),
                "ab",
                json!({"tokens": [504, 1296], "model": "m"}),
            ),
            (
                ServerKind::SgLang,
                ok(&json!({"text": "ab"})),
                "ab",
                json!({"tokens": [504, 1296], "skip_special_tokens": false, "model": "m"}),
            ),
            (ServerKind::LlamaCpp, llama, "The three primary colors are", json!({"tokens": [504, 1296]})),
        ],
        |(kind, script, text, body)| {
            let server = serving(vec![("/detokenize", script)]);
            let client = client(&server).server(kind.clone()).model("m").build().unwrap();
            assert_eq!(client.detokenize(&[504, 1296]).unwrap(), text, "{kind:?}");
            assert_eq!(
                serde_json::from_slice::<Value>(&server.requests()[0].body).unwrap(),
                body,
                "{kind:?}"
            );
        },
    );
}

#[test]
fn an_unknown_server_is_detected_before_its_tokenizer_is_used() {
    let server = serving(vec![
        ("/v1/models", recorded("llama.cpp/get-models.raw")),
        ("/tokenize", recorded("llama.cpp/tokenize.raw")),
    ]);
    let client = client(&server).build().unwrap();
    for _ in 0..2 {
        assert_eq!(client.tokenize("x", false).unwrap().len(), 16);
    }
    assert_eq!(asked(&server), ["/v1/models", "/tokenize", "/tokenize"]);
}

#[test]
fn a_server_without_a_tokenizer_endpoint_is_an_error_and_nothing_is_sent() {
    let server = serving(vec![]);
    for kind in [ServerKind::Ollama, ServerKind::LmStudio, ServerKind::TensorRtLlm] {
        let client = client(&server).server(kind.clone()).build().unwrap();
        for error in [client.tokenize("x", true).unwrap_err(), client.detokenize(&[1]).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.message().contains(kind.name()), "{error}");
        }
    }
    let client = client(&server).server(ServerKind::Tgi).build().unwrap();
    assert_eq!(client.tokenize("x", false).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(client.detokenize(&[1]).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(asked(&server), [""; 0]);
    // The kind of this server cannot be detected.
    let client = self::client(&server).build().unwrap();
    assert_eq!(client.tokenize("x", true).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn invalid_responses_are_typed_errors() {
    const KEY: &str = "sk-canary-0123456789abcdef";
    let page = Script::status(200).body("text/html", format!("<title>{KEY}</title>"));
    let cut = Script::new().head(200, &[], Framing::GivenLength(900)).write("[");
    let silent = Script::new().head(200, &[], Framing::GivenLength(900)).wait_for_client_gone(LONG);
    let refusal = format!(r#"{{"error":{{"message":"bad key {KEY}","code":401}}}}"#);
    for (script, kind) in [
        (Script::status(401).json(&refusal), ErrorKind::Server),
        (Script::status(200).json(&refusal), ErrorKind::Server),
        (page, ErrorKind::Protocol),
        (ok(&json!({"tokens": [1.5]})), ErrorKind::Protocol),
        (ok(&json!({"tokens": [4_294_967_296_u64]})), ErrorKind::Protocol),
        (ok(&json!({"count": 1})), ErrorKind::Protocol),
        (ok(&json!([])), ErrorKind::Protocol),
        (Script::status(200).json(" ".repeat(101)), ErrorKind::Limit(Limit::BodyBytes)),
        (cut, ErrorKind::Incomplete),
        (silent, ErrorKind::Timeout(Timer::FirstToken)),
    ] {
        let all = ["/v1/models", "/tokenize", "/detokenize"];
        let server = serving(all.map(|path| (path, script.clone())).to_vec());
        let (mut limits, mut timeouts) = (Limits::default(), Timeouts::default());
        limits.max_body_bytes = 100;
        timeouts.first_token = Some(Duration::from_millis(300));
        let client = client(&server).server(ServerKind::Vllm).api_key(KEY).limits(limits).timeouts(timeouts);
        let client = client.build().unwrap();
        let results = [
            client.models().map(|models| models.len()),
            client.tokenize("x", true).map(|ids| ids.len()),
            client.detokenize(&[1]).map(|text| text.len()),
        ];
        for (path, result) in all.iter().zip(results) {
            // An empty list of ids is valid.
            if let (Ok(0), &"/tokenize") = (&result, path) {
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!(error.kind(), kind, "{path}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}

#[test]
fn a_client_can_be_used_from_many_threads() {
    let server = serving(vec![("/v1/models", recorded("vllm/models.response.http"))]);
    let client = client(&server).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(client.server().unwrap(), Some(ServerKind::Vllm)));
        }
    });
}
