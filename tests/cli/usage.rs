//! Tests of the help, invalid usage, terminals, and the commands in the README.

use super::*;

// ---- usage ----

#[test]
fn invalid_usage_exits_with_code_2_before_anything_is_sent() {
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let url = server.url();
    let stream: &[&str] = &["stream", "--base-url", &url, "--prompt", "Hi", "--json"];
    // arguments, a word of the message
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["sse", "--cut", "-1"], "-1"),
        (&["tokens", "--wire", "morse"], "morse"),
        (&["stream", "--prompt", "Hi"], "--base-url"),
        (&["stream", "--base-url", &url], "--prompt"),
        (&["stream", "--base-url", &url, "--prompt", "Hi", "--prompt-ids", "1"], "--prompt"),
        (&["stream", "--base-url", &url, "--prompt-ids", "1", "--tokenizer", "x"], "--tokenizer"),
        (&["stream", "--base-url", &url, "--prompt-ids", "1,x"], "--prompt-ids"),
        (&["stream", "--base-url", "ftp://h.test", "--prompt", "Hi"], "URL"),
        (&["stream", "--base-url", "nonsense", "--prompt", "Hi"], "URL"),
        (&["stream", "--base-url", &url, "--prompt", "Hi", "--tokenizer", "/no/such.json"], "tokenizer"),
        (&[stream, &["--retries", "x"]].concat(), "--retries"),
        (&[stream, &["--resume", "x"]].concat(), "--resume"),
        (&[stream, &["--chunk-timeout", "0"]].concat(), "more than 0"),
        (&[stream, &["--extra", "[1]"]].concat(), "--extra"),
        (&[stream, &["--header", "sk-canary"]].concat(), "colon"),
        (&[stream, &["--header", "authorization: sk-canary"]].concat(), "authorization"),
        (&[stream, &["--api-key-env", "NO_SUCH_VARIABLE"]].concat(), "NO_SUCH_VARIABLE"),
        (&[stream, &["--api-key-env", "EMPTY_VARIABLE"]].concat(), "key"),
        (&[stream, &["--ca-file", "/no/such.pem"]].concat(), "--ca-file"),
        (&[stream, &["--temperature", "nan"]].concat(), "temperature"),
        (&[stream, &["--trace", "/no/such/folder/x.svg"]].concat(), "--trace"),
        (&[stream, &["--trace", "x.svg", "--whole"]].concat(), "--whole"),
        (&["replay", "/no/such.jsonl"], "recording"),
        (&["resend", "/no/such.json"], "saved request"),
        (&["resend", "/dev/null"], "saved request"),
        (&["replay", "x", "--speed", "0"], "speed"),
        (&["bench", "-c", "0"], "0"),
        (&["bench", "-c", "5000"], "4096"),
        (&["bench", "-n", "0"], "0"),
        (&["bench", "--prompt", "Hi", "--prompt-ids", "1"], "--prompt"),
        (&["bench", "--base-url", "ftp://h.test"], "URL"),
        (&["bench", "--base-url", &url, "--temperature", "nan"], "temperature"),
        (&["bench", "--base-url", &url, "--plot", "/no/such/folder/plot.svg"], "--plot"),
        (&["bench", "--base-url", &url, "--timeline", "/no/such/folder/plot.svg"], "--timeline"),
        (&["batch"], "--base-url"),
        (&["batch", "--base-url", &url, "-c", "0"], "0"),
        (&["batch", "--base-url", &url, "--temperature", "nan"], "temperature"),
        (&["batch", "--base-url", &url, "/no/such.jsonl"], "/no/such.jsonl"),
    ];
    each_row(cases, |(args, word)| {
        let ran = ended(program(args).env("EMPTY_VARIABLE", " ").spawn().unwrap());
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(word) && !ran.err.contains("canary"), "{args:?}: {}", ran.err);
    });
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_feature_that_the_server_lacks_is_reported() {
    let ran =
        run(&["stream", "--base-url", "http://h.test", "--prompt-ids", "1", "--wire", "chat", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(
        has(&ran.last(), &json!({"report": {"finish": null, "error": {"kind": "unsupported"}}})),
        "{}",
        ran.out
    );
}

#[test]
fn stream_whole_prints_a_response_with_all_ids_and_retries_a_failure() {
    let body = fixture::load(data("llama.cpp/completion-utf8-nonstream.raw")).unwrap().response_body().bytes;
    let folder = std::env::temp_dir().join(format!("tokenwire-whole-{}", std::process::id()));
    let dir = folder.to_string_lossy().into_owned();
    let whole = Script::status(200).json(String::from_utf8(body).unwrap());
    let server = MockServer::scripted([Script::status(400), whole.clone(), whole]).unwrap();
    let more = ["--whole", "--wire", "llamacpp", "--save-failed", &dir];
    let failed = stream(&server, &more);
    let path = failed.last()["report"]["error"]["saved"].as_str().unwrap_or_default().to_owned();
    assert_eq!((failed.code, failed.tokens().len()), (Some(1), 0), "{} {}", failed.out, failed.err);
    for ran in [stream(&server, &more), run(&["resend", &path, "--json"], b"")] {
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let tokens = ran.tokens();
        assert_eq!((tokens.len(), &tokens[0]), (20, &json!(["你好，世界！🤖 ok", 18645])));
        let report =
            json!({"report": {"finish": "stop", "ids_exact": true, "error": null, "ending": "complete"}});
        assert!(has(&ran.last(), &report), "{}", ran.out);
    }
    for request in server.requests() {
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap()["stream"], false);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn models_tokenize_and_detokenize_use_the_server() {
    let server = MockServer::start(|request| {
        let name = match request.path.as_str() {
            "/v1/models" => "get-models",
            "/tokenize" => "tokenize",
            "/detokenize" => "detokenize",
            _ => return Script::status(404),
        };
        Script::raw(std::fs::read(data(&format!("llama.cpp/{name}.raw"))).unwrap())
    })
    .unwrap();
    let url = server.url();
    let ask = |args: &[&str], input: &str| run(&[args, &["--base-url", &url]].concat(), input.as_bytes());
    let ids = "18645,250,48392,138,12831,7906,240,178,239,230,8083,219,10813,114,240,10907";
    each_row(
        [
            (&["models"][..], "", "SmolLM2-135M-Instruct.Q4_1  llamacpp  2048 tokens\n".to_owned()),
            (&["tokenize", "Hi"], "", format!("{ids}\n")),
            (&["tokenize", "--add-special"], "Hi", format!("{ids}\n")),
            (&["tokenize", "Hi", "--json"], "", format!("{{\"ids\":[{ids}]}}\n")),
            (&["detokenize", "504,1296"], "", "The three primary colors are\n".to_owned()),
            (
                &["detokenize", "504,1296", "--json"],
                "",
                "{\"text\":\"The three primary colors are\"}\n".to_owned(),
            ),
        ],
        |(args, input, out)| {
            let ran = ask(args, input);
            assert_eq!((ran.code, &ran.out), (Some(0), &out), "{args:?}: {}", ran.err);
        },
    );
    let line = ask(&["models", "--json"], "").last();
    assert_eq!(
        line,
        json!({"id": "SmolLM2-135M-Instruct.Q4_1", "owned_by": "llamacpp", "context_tokens_max": 2048})
    );
    let sent = server.requests();
    let bodies = sent.iter().filter(|request| request.path == "/tokenize");
    let bodies: Vec<Value> = bodies.map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_eq!(bodies.iter().map(|body| &body["content"]).collect::<Vec<_>>(), ["Hi"; 3]);
    assert_eq!(bodies.iter().map(|body| &body["add_special"]).collect::<Vec<_>>(), [false, true, false]);
    let nobody = MockServer::scripted([Script::status(401).json(r#"{"error":"Unauthorized"}"#)]).unwrap();
    for args in [&["models"][..], &["tokenize", "Hi"], &["detokenize", "1"]] {
        let ran = run(&[args, &["--base-url", &nobody.url()]].concat(), b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{args:?}");
        assert!(ran.err.contains("Unauthorized"), "{}", ran.err);
    }
}

/// Returns every command that the help lists.
fn commands() -> Vec<String> {
    let help = run(&["--help"], b"").out;
    let list = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A continuation line is indented further than the name of a command.
    let names = list.lines().filter(|line| !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn the_help_of_each_command_has_a_purpose_an_example_and_its_exit_codes() {
    let commands = commands();
    assert!(commands.len() >= 14 && commands.contains(&"batch".to_owned()), "{commands:?}");
    for command in commands {
        for flag in ["--help", "-h"] {
            let ran = run(&[&command, flag], b"");
            assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{command}");
            let purpose = ran.out.lines().next().unwrap();
            assert!(purpose.len() > 20 && purpose.len() <= 80, "{command}: {purpose}");
            for word in ["Example", &format!("tokenwire {command}"), "Exit codes: 0 ", "130 "] {
                assert!(ran.out.contains(word), "{command} {flag}: no {word:?} in {}", ran.out);
            }
        }
    }
}

/// The help of a command at a width. Without a terminal, the program reads the width from COLUMNS.
fn help(command: &str, columns: &str) -> String {
    let command: &[&str] = if command.is_empty() { &[] } else { &[command] };
    let mut program = program(&[command, &["--help"]].concat());
    ended(program.env("COLUMNS", columns).spawn().unwrap()).out
}

/// The lines of the examples in a help text.
fn examples(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Example"));
    lines.skip(1).take_while(|line| !line.is_empty()).collect()
}

#[test]
fn help_begins_with_purpose_usage_and_examples() {
    for command in [vec![String::new()], commands()].concat() {
        let help = help(&command, "80");
        let begin: Vec<&str> = help.lines().take(24).collect();
        assert!(begin[2].starts_with("Usage: tokenwire"), "{command}: {help}");
        let examples = examples(&help);
        assert!(!examples.is_empty(), "{command}: {help}");
        for line in examples {
            assert!(begin.contains(&line), "{command}: {line}");
        }
    }
}

#[test]
fn examples_in_help_can_be_pasted_into_a_shell_at_every_width() {
    for command in [vec![String::new()], commands()].concat() {
        for columns in ["80", "100", "120"] {
            let help = help(&command, columns);
            let lines = examples(&help);
            let script = lines.join("\n");
            let mut shell = Command::new("bash");
            let mut shell = shell.arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success(), "{command} at {columns}: {script}");
            // Each line must begin a command, unless a backslash continues it.
            for line in script.replace("\\\n", "").lines().map(str::trim_start) {
                let first = line.split(' ').next().unwrap();
                let begins = ["tokenwire", "printf", "echo", "curl"].contains(&first);
                assert!(begins, "{command} at {columns}: {line}");
                let flags = line.split("tokenwire ").nth(1).unwrap_or_default().split(' ');
                for flag in flags.filter(|word| word.starts_with("--")) {
                    let known = help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n"));
                    assert!(known || command == "resend" || command.is_empty(), "{command}: {flag}");
                }
            }
            assert!(lines.iter().all(|line| line.chars().count() <= 80), "{command}: {script}");
        }
    }
}

#[test]
fn a_misspelt_flag_gets_a_likely_suggestion_or_none() {
    let timers = ["--connect-", "--first-token-", "--chunk-", "--content-", "--after-finish-"]
        .map(|t| t.to_owned() + "timeout");
    let timers: Vec<&str> = timers.iter().map(String::as_str).collect();
    let cases: &[(&str, &str, &[&str])] = &[
        ("stream", "--max-token", &["--max-tokens"]),
        ("stream", "--max-new-tokens", &["--max-tokens"]),
        ("stream", "--tempreature", &["--temperature"]),
        ("stream", "--temp", &["--temperature"]),
        ("stream", "--retry", &["--retries"]),
        ("stream", "--base_url", &["--base-url"]),
        ("stream", "--url", &["--base-url"]),
        ("stream", "--key", &["--api-key-env"]),
        ("stream", "--timeout", &timers),
        // For a hidden alias, the program suggests the name in the help.
        ("stream", "--wirre", &["--endpoint"]),
        ("stream", "--tail-timout", &["--after-finish-timeout"]),
        ("stream", "-json", &["--json"]),
        ("batch", "-josn", &["--json"]),
        ("chat", "-temperature=0", &["--temperature"]),
        ("bench", "--stream", &["--streams"]),
        ("stream", "--stream", &[]),
        ("stream", "--system", &[]),
        ("stream", "--n", &[]),
        ("stream", "-j", &[]),
        ("stream", "--quiet", &[]),
    ];
    each_row(cases, |(command, flag, expected)| {
        let ran = run(&[command, flag], b"");
        assert_eq!(ran.code, Some(2), "{flag}");
        let typed = flag.split('=').next().unwrap();
        assert!(ran.err.contains(&format!("unexpected argument '{typed}' found")), "{}", ran.err);
        let tip = ran.err.lines().find(|line| line.contains("similar")).unwrap_or_default();
        let found: Vec<&str> = tip.split('\'').skip(1).step_by(2).collect();
        assert_eq!(found, **expected, "{flag}: {}", ran.err);
    });
    let before = run(&["--json", "stream"], b"").err;
    assert!(before.contains("'stream --json' exists"), "{before}");
}

#[test]
fn completions_and_the_man_page_contain_every_command_and_flag() {
    let commands = commands();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell], b"");
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{shell}");
        for word in commands.iter().map(String::as_str).chain(["save-failed", "timeline", "resume"]) {
            assert!(ran.out.contains(word), "{shell}: no {word}");
        }
        // If the shell is installed, it must be able to read the completions.
        let mut check = Command::new(shell);
        check.arg(if shell == "fish" { "--no-execute" } else { "-n" }).stdin(Stdio::piped());
        let Ok(mut check) = check.spawn() else { continue };
        check.stdin.take().unwrap().write_all(ran.out.as_bytes()).unwrap();
        assert!(check.wait().unwrap().success(), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"], b"").code, Some(2));

    let man = run(&["man"], b"");
    assert_eq!((man.code, &*man.err), (Some(0), ""));
    assert!(man.out.contains(".TH tokenwire 1"), "{}", man.out);
    let page = man.out.replace("\\-", "-");
    for word in ["EXIT STATUS", "EXAMPLES", "--save-failed", "RUST_LOG"] {
        assert!(page.contains(word), "no {word}");
    }
    for command in &commands {
        assert!(page.contains(&format!(".SH \"tokenwire {command}\"")), "no {command}");
    }
    let one = run(&["man", "batch"], b"").out.replace("\\-", "-");
    assert!(one.contains(".TH tokenwire-batch 1") && one.contains("FILE.waiting"), "{one}");
    assert_eq!(run(&["man", "nonsense"], b"").code, Some(2));
}

// ---- on a terminal ----

/// Runs the program on a terminal from util-linux's `script`. The output contains both streams.
fn on_a_terminal(args: &str, variables: &[(&str, &str)]) -> Ran {
    let line = format!("'{}' {args}", env!("CARGO_BIN_EXE_tokenwire"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("script of util-linux"))
}

#[test]
#[ignore = "needs script of util-linux"]
fn a_live_line_and_colors_appear_only_on_terminals_that_support_them() {
    let slow = || two_tokens().slowly(250, Duration::from_millis(25));
    let thinks = Script::events([
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ]);
    let (dim, red, live, clear) = ("\u{1b}[2m", "\u{1b}[1;31m", " s]", "\r\u{1b}[2K[");
    // response, arguments, expected text on the screen
    let cases = [
        (slow(), "stream --prompt a", vec![" tokens/s, first after ", dim, live]),
        (slow(), "chat a", vec![" tokens/s, first after ", dim, live]),
        (thinks, "stream --prompt a --wire chat", vec!["\u{1b}[2mhm\u{1b}[0m"]),
        (Script::status(400), "stream --prompt a", vec![red]),
        (slow(), "bench -n 3 -c 1 --no-self-check", vec![clear, " of 3 requests"]),
        (slow(), "batch tests/data/batch/prompts.jsonl -c 1", vec![clear, " of 4 done", "1 running"]),
    ];
    each_row(cases, |(script, args, words)| {
        let server = MockServer::scripted([script]).unwrap();
        let args = format!("{args} --base-url {} --retries 0", server.url());
        let ran = on_a_terminal(&args, &[]);
        for word in &words {
            assert!(ran.out.contains(word), "{args}: no {word:?} in {:?}", ran.out);
        }
        // A live line needs no colors, but a dumb terminal supports neither colors nor a live line.
        let unwanted = [("NO_COLOR", "1", &[dim, red][..]), ("TERM", "dumb", &["\u{1b}"])];
        for (variable, value, unwanted) in unwanted {
            let ran = on_a_terminal(&args, &[(variable, value)]);
            let found = unwanted.iter().find(|word| ran.out.contains(**word));
            assert_eq!(found, None, "{args} {variable}: {:?}", ran.out);
        }
    });
}

// ---- the README ----

/// Returns the lines of each code block, except Rust blocks.
fn readme_blocks() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    let plain = blocks.filter(|block| block.starts_with("text\n") || block.starts_with("sh\n"));
    plain.map(|block| block.lines().skip(1).map(str::to_owned).collect()).collect()
}

/// Runs the line in a shell, with this program as `tokenwire`.
fn shell(line: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_tokenwire")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("PATH", path).env("URL", "http://127.0.0.1:1").env_remove("RUST_LOG");
    ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn the_commands_in_the_readme_are_valid() {
    let mut count = 0;
    for line in readme_blocks().into_iter().flatten() {
        let line = line.strip_prefix("$ ").unwrap_or(&line);
        let line = line.replace("cargo run --release --features cli --", "tokenwire");
        let Some(at) = line.find("tokenwire ").filter(|at| *at == 0 || line[..*at].ends_with("| ")) else {
            continue;
        };
        let ran = shell(&format!("{} --help", &line[at..]));
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

/// Replaces every number with the same number.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

#[test]
fn the_readme_screens_that_need_no_server_match_the_output() {
    let mut count = 0;
    for block in readme_blocks() {
        let (commands, screen): (Vec<_>, Vec<_>) = block.iter().partition(|line| line.starts_with("$ "));
        let [command] = commands[..] else { continue };
        let ran = shell(&command[2..]);
        assert_eq!(ran.code, Some(0), "{command}: {}", ran.err);
        let printed = without_numbers(&format!("{}\n{}", ran.out, ran.err));
        let printed: Vec<&str> = printed.lines().collect();
        for line in screen {
            assert!(
                printed.contains(&&*without_numbers(line)),
                "{command} does not print {line:?}: {printed:?}"
            );
        }
        count += 1;
    }
    assert_eq!(count, 2);
}
