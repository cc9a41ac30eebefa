//! From what a model writes to a function that runs.
//!
//! Two ways. **By ids**, on a completions endpoint: the model's own markers come as text, [`ResponseParser`](crate::ResponseParser) finds
//! the calls in it, and the tree keeps every id. **By messages**, on a chat endpoint: the server finds them, and there are no ids for the
//! next prompt. The first is what this crate is for.
//!
//! # Dialects
//!
//! Each family of models writes calls and reasoning in its own way; a [`Dialect`](crate::Dialect) is one such way.
//! [`Dialect::by_name`](crate::Dialect::by_name) takes a name, [`Dialect::guess`](crate::Dialect::guess) looks at the
//! tokenizer's added tokens, `tokenwire parse --help` lists them.
//!
//! ```
//! use tokenwire::{Dialect, ResponseParser};
//!
//! let mut parser = ResponseParser::new(Dialect::by_name("qwen3_xml")?);
//! let text = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>";
//! let calls: Vec<_> = text.chars().flat_map(|c| parser.push(&c.to_string(), None)).collect();
//! assert_eq!((calls[0].name.as_str(), &calls[0].arguments["a"]), ("add", &"1".into()));
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! However the text was cut into tokens, the result is the same. What looks like a call and is none is a
//! [malformed leaf](crate::LeafKind), with the reason and its ids, never an error. Give the parser the model's
//! [added tokens](crate::ResponseParser::markers) where you can: then `<tool_call>` spelled out by other tokens is text, and not a call.
//!
//! A family that the crate does not know is a record in JSON, [`Dialect::from_json`](crate::Dialect::from_json), or
//! `tokenwire parse --dialect FILE.json`; put into the repository's `src/turn/parse/dialects/`, it is known by its name.
//!
//! # While the model still writes
//!
//! [`ResponseParser::run`](crate::ResponseParser::run) parses on a thread and hands each call out the moment it is complete;
//! [`Tools::run`](crate::Tools::run) runs them on threads of their own and gives the results in the order of the calls:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::sync::{Arc, Mutex};
//! use tokenwire::{ApiClient, Branch, Dialect, ResponseParser, Role, SamplingParams, Tool, Tools};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let text = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
//! # let server = MockServer::scripted([Script::tokens([(1, text), (2, " One moment.")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, _guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! let tree = Arc::new(Mutex::new(Branch::new(Role::Assistant)));
//! let (calls, handle) = ResponseParser::new(Dialect::by_name("hermes")?).run(tokens, tree);
//!
//! let now = Tool::new("now", "The time.", serde_json::json!({"type": "object"}), |_| Ok("12:30".into()));
//! let results = Tools::new().with(now).run(&calls);
//! let response = handle.join()?;
//! assert_eq!(results[0].text, "12:30");
//! assert_eq!(response.branch.content(), "One moment.");
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! A tool's error, and its panic, are told to the model as the call's result. A tool is not interrupted: bound its own waits.
//!
//! # The loop
//!
//! [`Turn`](crate::Turn) is all of it: prompt, stream, parse, run, results into the [`Context`](crate::Context), and again until the model
//! calls no more, or [`max_rounds`](crate::Turn::max_rounds). The system turn has to tell the model of the tools, or it will not call any:
//! [`Tools::described`](crate::Tools::described) is such a text, in the words of Qwen and Hermes; on chat endpoints [`CompletionRequest::tools`](crate::CompletionRequest::tools) does.
