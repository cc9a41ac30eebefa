//! Run tools that the model calls.
//!
//! ```no_run
//! # #[cfg(feature = "tokenizer")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::{Arc, Mutex};
//! use tokenwire::{ApiClient, ChatFormat, Context, Tokenizer, Tool, Tools, Turn};
//!
//! let client = ApiClient::builder("http://127.0.0.1:8000/v1").build()?;
//! let tokenizer = Tokenizer::from_file("tokenizer.json")?;
//! let mut context = Context::new(ChatFormat::by_name("qwen3")?, tokenizer);
//!
//! let schema = serde_json::json!({"type": "object"});
//! let tools = Tools::new().with(Tool::new("now", "The time.", schema, |_| Ok("12:30".into())));
//! context.system(tools.described());
//! context.user("What time is it?");
//!
//! let report = Turn::new(&client, Arc::new(Mutex::new(context))).tools(tools).run()?;
//! println!("{}", report.content());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tokenizer"))]
//! # fn main() {}
//! ```
//!
//! [`Turn`](crate::Turn) runs the whole loop. It sends the prompt, parses the answer, runs the
//! calls, and adds the results to the [`Context`](crate::Context). It repeats this until an answer
//! has no calls, or until [`max_rounds`](crate::Turn::max_rounds) is reached.
//!
//! The system turn must describe the tools; otherwise the model does not call them.
//! [`Tools::described`](crate::Tools::described) returns such a description, in the format of
//! Qwen and Hermes.
//!
//! # Prompts as ids or as messages
//!
//! | | ids, as above | messages |
//! | --- | --- | --- |
//! | endpoint | completions | chat |
//! | the calls are found by | [`ResponseParser`](crate::ResponseParser), in the text of the model | the server |
//! | the tools are described by | your system turn | [`CompletionRequest::tools`](crate::CompletionRequest::tools) |
//! | the next prompt | the ids of the previous prompt and of the answer | messages |
//! | the tree | every leaf has its ids | text, and the ids that the server sends; [`Branch::ids_missing`](crate::Branch::ids_missing) counts the missing ones |
//!
//! This crate is designed for prompts as ids. On a chat endpoint, calls arrive as
//! [`StreamToken::ToolCall`](crate::StreamToken::ToolCall).
//!
//! # While the model is still writing
//!
//! [`ResponseParser::run`](crate::ResponseParser::run) parses on a thread and sends each call as
//! soon as the call is complete. [`Tools::run`](crate::Tools::run) runs the calls on at most
//! [`max_concurrency`](crate::Tools::max_concurrency) threads (8 by default); further calls wait.
//! It returns the results in the order of the calls:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::sync::{Arc, Mutex};
//! use tokenwire::{ApiClient, Branch, Dialect, ResponseParser, Role, SamplingParams, Tool, Tools};
//! # use tokenwire::testing::{MockServer, Script};
//! # let text = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
//! # let server = MockServer::scripted([Script::tokens([(1, text), (2, " One moment.")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, _guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! let tree = Arc::new(Mutex::new(Branch::new(Role::Assistant)));
//! let (calls, handle) = ResponseParser::new(Dialect::by_name("hermes")?).run(tokens, tree);
//!
//! let schema = serde_json::json!({"type": "object"});
//! let now = Tool::new("now", "The time.", schema, |_| Ok("12:30".into()));
//! let results = Tools::new().with(now).run(&calls);
//! let response = handle.join()?;
//! assert_eq!(results[0].text, "12:30");
//! assert_eq!(response.branch.content(), "One moment.");
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! - A tool that returns an error or panics does not end the turn. The model gets the error as the
//!   result of the call.
//! - A tool is never interrupted. Give every wait inside your tools a limit.
//!
//! # Dialects
//!
//! Each model family writes calls and reasoning in its own markup. A [`Dialect`](crate::Dialect)
//! describes one such markup:
//!
//! ```
//! use tokenwire::{Dialect, ResponseParser};
//!
//! let mut parser = ResponseParser::new(Dialect::by_name("qwen3_xml")?);
//! let parameter = "<parameter=a>\n1\n</parameter>";
//! let text = format!("<tool_call>\n<function=add>\n{parameter}\n</function>\n</tool_call>");
//! let calls: Vec<_> = text.chars().flat_map(|c| parser.push(&c.to_string(), None)).collect();
//! assert_eq!((calls[0].name.as_str(), &calls[0].arguments["a"]), ("add", &"1".into()));
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! | you have | use |
//! | --- | --- |
//! | the name of the dialect | [`Dialect::by_name`](crate::Dialect::by_name); `tokenwire parse --help` lists the names |
//! | the tokenizer's added tokens | [`Dialect::guess`](crate::Dialect::guess) |
//! | a family that this crate does not support | a JSON record: [`Dialect::from_json`](crate::Dialect::from_json) or `tokenwire parse --dialect FILE.json` |
//!
//! A record becomes available by name when you add its file to the repository; see
//! `CONTRIBUTING.md`.
//!
//! The result does not depend on how the text is split into tokens. Text that looks like a call but
//! is not valid becomes a [malformed leaf](crate::LeafKind) with the reason and its ids, never an
//! error.
//!
//! Pass the model's added tokens to [`ResponseParser::markers`](crate::ResponseParser::markers) if
//! you have them. The parser then treats `<tool_call>` as a marker only when it is that single
//! token, and as text when other tokens spell it.
