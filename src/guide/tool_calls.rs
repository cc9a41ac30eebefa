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
//! The system turn must describe the tools. Otherwise, the model does not call them.
//! [`Tools::described`](crate::Tools::described) returns such a description, in the format of Qwen
//! and Hermes.
//!
//! # Prompts as ids or as messages
//!
//! | | ids, as above | messages |
//! | --- | --- | --- |
//! | endpoint | completions | chat |
//! | who finds the calls | [`ResponseParser`](crate::ResponseParser), in the text of the model | the server |
//! | where the tools are described | in your system turn | in [`CompletionRequest::tools`](crate::CompletionRequest::tools) |
//! | the next prompt | the ids of the previous prompt and of the answer | messages |
//! | the tree | every leaf has its ids | text, and the ids that the server sends; [`Branch::ids_missing`](crate::Branch::ids_missing) counts the missing ids |
//!
//! This crate is designed for prompts as ids. On a chat endpoint, calls arrive as
//! [`StreamToken::ToolCall`](crate::StreamToken::ToolCall).
//!
//! # While the model is still writing
//!
//! [`ResponseParser::run`](crate::ResponseParser::run) parses on a thread and sends each call as
//! soon as the call is complete. [`Tools::run`](crate::Tools::run) runs the calls on at most
//! [`max_concurrency`](crate::Tools::max_concurrency) threads (8 by default); further calls wait.
//! `Tools::run` returns the results in the order of the calls:
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
//! - A tool is never interrupted. Limit every wait inside your tools.
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
//! | a model family that this crate does not support | a JSON record: [`Dialect::from_json`](crate::Dialect::from_json) or `tokenwire parse --dialect FILE.json` |
//!
//! The names of dialects are built in. To add a name, add a record file to the repository; see
//! `CONTRIBUTING.md`.
//!
//! The result does not depend on how the text is split into tokens. Text that looks like a call but
//! is not valid never causes an error. It becomes a [malformed leaf](crate::LeafKind) with the
//! reason and its ids.
//!
//! Pass the model's added tokens to [`ResponseParser::markers`](crate::ResponseParser::markers) if
//! you have them. If `<tool_call>` arrives as its own single token, the parser then treats it as a
//! marker. If several tokens together form this text, the parser treats it as text.
