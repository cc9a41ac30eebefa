//! Defines tools, which are functions that the model may call, and runs them on threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use crate::error::macros::{debug_fields, setters};
use crate::protocol::request::message::Message;
use crate::types::tree::PendingToolCall;

type Function =
    dyn Fn(&PendingToolCall) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

/// A function that the model may call.
#[derive(Clone)]
pub struct Tool {
    name: String,
    description: String,
    parameters: Value,
    function: Arc<Function>,
}

/// The tools of a conversation. Cloning is cheap.
///
/// ```
/// use tokenwire::{Tool, Tools};
///
/// let schema = serde_json::json!({"type": "object", "properties": {"city": {"type": "string"}}});
/// let weather = Tool::new("weather", "The weather in a city.", schema, |call| {
///     let city = call.arguments["city"].as_str().ok_or("no city")?;
///     Ok(format!("It is sunny in {city}."))
/// });
/// let tools = Tools::new().with(weather).max_concurrency(4);
/// assert_eq!(tools.schemas().len(), 1);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Tools {
    tools: Vec<Tool>,
    max_concurrency: usize,
    max_result_bytes: usize,
}

/// The result of a tool call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolResult {
    /// The tool call.
    pub call: PendingToolCall,
    /// The text for the model: the result of the tool, or the reason for the failure.
    pub text: String,
    /// True if the call failed or was cancelled, or if no tool has this name.
    pub failed: bool,
    /// The running time of the tool.
    pub elapsed: Duration,
}

impl From<&ToolResult> for Message {
    fn from(result: &ToolResult) -> Self {
        Self::tool(&result.call.id, &result.text)
    }
}

impl Tool {
    /// Creates a tool. `parameters` is the JSON schema of its arguments.
    ///
    /// The function receives the call and returns the text for the model. If it returns an error,
    /// the model receives the error as text. The function runs on another thread and is never
    /// interrupted.
    pub fn new(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: Value,
        function: impl Fn(&PendingToolCall) -> Result<String, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let (name, description) = (name.into(), description.into());
        Self { name, description, parameters, function: Arc::new(function) }
    }

    /// Returns the name by which the model calls the tool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tool as JSON, in the form for chat endpoints and templates.
    ///
    /// The form is `{"type": "function", "function": {..}}`.
    #[must_use]
    pub fn schema(&self) -> Value {
        let Self { name, description, parameters, function: _ } = self;
        json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
    }
}

debug_fields!(Tool { name });

impl FromIterator<Tool> for Tools {
    fn from_iter<I: IntoIterator<Item = Tool>>(tools: I) -> Self {
        Self { tools: tools.into_iter().collect(), ..Self::default() }
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self { tools: Vec::new(), max_concurrency: 8, max_result_bytes: 1 << 20 }
    }
}

impl Tools {
    /// Creates a list without tools.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tool. If two tools have the same name, the first one is called.
    pub fn with(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    setters! {
        /// Sets the maximum number of calls that run at the same time, at least 1. Default 8.
        ///
        /// Further calls wait in order.
        max_concurrency: usize,
        /// Sets the maximum length of a result, in bytes. Default 1 MiB.
        ///
        /// A longer result is cut off, and a note at its end contains the number of bytes left out.
        max_result_bytes: usize,
    }

    /// Returns the schemas of the tools, in order.
    #[must_use]
    pub fn schemas(&self) -> Vec<Value> {
        self.tools.iter().map(Tool::schema).collect()
    }

    /// Returns a description of the tools, for the system turn of a [`Context`](crate::Context).
    ///
    /// The text uses the words of the chat templates of Qwen and Hermes. The model cards of other
    /// families contain different words, but many models understand the words used here. The text
    /// is empty if there are no tools.
    ///
    /// ```
    /// # use tokenwire::{Tool, Tools};
    /// let now = Tool::new("now", "The time.", serde_json::json!({"type": "object"}), |_| Ok("12:30".into()));
    /// let text = Tools::new().with(now).described();
    /// assert!(text.starts_with("# Tools\n") && text.contains(r#""name":"now""#) && text.ends_with("</tool_call>"));
    /// assert_eq!(Tools::new().described(), "");
    /// ```
    #[must_use]
    pub fn described(&self) -> String {
        if self.tools.is_empty() {
            return String::new();
        }
        let schemas: Vec<String> = self.schemas().iter().map(ToString::to_string).collect();
        format!(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function \
             signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\nFor each function call, return a json \
             object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{{\"name\": \
             <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>",
            schemas.join("\n"),
        )
    }

    /// Runs the calls as they arrive, and returns the results in the order of the calls.
    ///
    /// The calls run on threads named `tokenwire-tool`. The method blocks until the channel is
    /// disconnected and the last call has ended. Only your tools limit this wait.
    ///
    /// If a tool fails or panics, or if no tool has the name of the call, the result contains the
    /// reason.
    #[must_use]
    pub fn run(&self, calls: &Receiver<PendingToolCall>) -> Vec<ToolResult> {
        self.run_unless(calls, &AtomicBool::new(false))
    }

    /// Runs like [`run`](Self::run), but no further call begins after `cancelled` is set.
    pub(crate) fn run_unless(
        &self,
        calls: &Receiver<PendingToolCall>,
        cancelled: &AtomicBool,
    ) -> Vec<ToolResult> {
        let (queue, queued) = unbounded::<(usize, PendingToolCall)>();
        let (results, done) = unbounded();
        thread::scope(|scope| {
            let work = || {
                for (n, call) in &queued {
                    // The receiver lives until the end of this function.
                    let _ = results.send((n, self.call(call, cancelled)));
                }
            };
            let mut threads = 0;
            for (n, call) in calls.iter().enumerate() {
                let _ = queue.send((n, call));
                if threads < self.max_concurrency.max(1)
                    && thread::Builder::new().name("tokenwire-tool".into()).spawn_scoped(scope, work).is_ok()
                {
                    threads += 1;
                }
            }
            drop(queue);
            if threads == 0 {
                work();
            }
        });
        drop(results);
        let mut results: Vec<(usize, ToolResult)> = done.iter().collect();
        results.sort_by_key(|(n, _)| *n);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn call(&self, call: PendingToolCall, cancelled: &AtomicBool) -> ToolResult {
        let started = Instant::now();
        let outcome = match self.tools.iter().find(|tool| tool.name == call.name) {
            _ if cancelled.load(Ordering::SeqCst) => Err("the call was cancelled before it began".into()),
            Some(tool) => catch_unwind(AssertUnwindSafe(|| (tool.function)(&call)))
                .map_err(|panic| format!("the tool panicked: {}", panic_text(&*panic)))
                .and_then(|result| result.map_err(|error| error.to_string())),
            None => {
                let names: Vec<&str> = self.tools.iter().map(Tool::name).collect();
                Err(format!("there is no tool {:?}; the tools are: {}", call.name, names.join(", ")))
            }
        };
        let failed = outcome.is_err();
        let text = outcome.unwrap_or_else(|error| format!("error: {error}"));
        ToolResult { call, text: self.shortened(text), failed, elapsed: started.elapsed() }
    }

    fn shortened(&self, mut text: String) -> String {
        if text.len() > self.max_result_bytes {
            let mut ends = (0..=self.max_result_bytes).rev();
            let kept = ends.find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            let left_out = text.len() - kept;
            text.truncate(kept);
            text.push_str(&format!("\n[{left_out} bytes left out]"));
        }
        text
    }
}

/// Returns the message of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn call(name: &str, n: usize) -> PendingToolCall {
        PendingToolCall {
            id: format!("call_{n}"),
            name: name.to_owned(),
            arguments: json!({"n": n}),
            raw: String::new(),
            at_token: 0,
        }
    }

    fn run(tools: &Tools, names: &[&str]) -> Vec<ToolResult> {
        let (sender, calls) = unbounded();
        for (n, name) in names.iter().enumerate() {
            sender.send(call(name, n)).unwrap();
        }
        drop(sender);
        tools.run(&calls)
    }

    #[test]
    fn each_call_has_a_result_even_if_its_tool_fails() {
        let tools: Tools = [
            Tool::new("double", "", json!({}), |call| {
                Ok((call.arguments["n"].as_u64().ok_or("no n")? * 2).to_string())
            }),
            Tool::new("fails", "", json!({}), |_| Err("out of paper".into())),
            Tool::new("panics", "", json!({}), |_| panic!("boom {}", 1)),
            Tool::new("long", "", json!({}), |_| Ok("äöü".into())),
        ]
        .into_iter()
        .collect();
        let names = ["double", "fails", "panics", "long", "none", "double"];
        let tools = tools.max_result_bytes(5);
        let results = run(&tools, &names);
        let told: Vec<(&str, bool)> =
            results.iter().map(|result| (result.text.as_str(), result.failed)).collect();
        assert_eq!(told[0], ("0", false));
        assert_eq!(told[3], ("äö\n[2 bytes left out]", false));
        assert_eq!(told[5], ("10", false));
        assert!(told[1].1 && told[2].1 && told[4].1);
        let whole = tools.max_result_bytes(1000);
        let told: Vec<String> = run(&whole, &names).into_iter().map(|result| result.text).collect();
        assert_eq!(told[1], "error: out of paper");
        assert_eq!(told[2], "error: the tool panicked: boom 1");
        assert_eq!(told[4], "error: there is no tool \"none\"; the tools are: double, fails, panics, long");
    }

    #[test]
    fn calls_run_concurrently_up_to_the_limit_and_results_keep_their_order() {
        // Each call waits for another call. With fewer than two threads, this test would hang.
        let both = Arc::new(Barrier::new(2));
        let meet = move |call: &PendingToolCall| {
            both.wait();
            Ok(call.id.clone())
        };
        let tools = Tools::new().with(Tool::new("meet", "", json!({}), meet)).max_concurrency(2);
        let ids: Vec<String> = run(&tools, &["meet"; 6]).into_iter().map(|result| result.text).collect();
        assert_eq!(ids, ["call_0", "call_1", "call_2", "call_3", "call_4", "call_5"]);
    }

    #[test]
    fn no_call_begins_after_a_cancel() {
        let (sender, calls) = unbounded();
        sender.send(call("never", 0)).unwrap();
        drop(sender);
        let tools = Tools::new().with(Tool::new("never", "", json!({}), |_| panic!("it has begun")));
        let results = tools.run_unless(&calls, &AtomicBool::new(true));
        let expected = ("error: the call was cancelled before it began", true);
        assert_eq!((results[0].text.as_str(), results[0].failed), expected);
    }
}
