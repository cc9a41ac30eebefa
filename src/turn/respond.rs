//! Parses the tokens of one turn on a thread.
//!
//! Other threads can read the tree while the thread builds it. The thread delivers each tool call
//! as soon as the call is complete.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use super::parse::ResponseParser;
use super::parse::engine::Engine;
use super::prompt::Context;
use crate::client::stream::guard::OnDrop;
use crate::error::macros::debug_fields;
use crate::error::{Error, Limit};
use crate::types::ids::{FinishReason, TokenId, Usage, is_clean};
use crate::types::token::StreamToken;
use crate::types::tree::{Branch, PendingToolCall};

/// The tree into which a turn is parsed: a [`Context`], or a single [`Branch`].
pub trait Tree: Send + 'static {
    /// Returns the branch for the model's tokens, or `None` if no turn is open.
    ///
    /// The branch may already have leaves.
    fn open_turn(&mut self) -> Option<&mut Branch>;
}

impl Tree for Branch {
    fn open_turn(&mut self) -> Option<&mut Branch> {
        Some(self)
    }
}

/// Parses into the response that [`begin_response`](Context::begin_response) started.
impl Tree for Context {
    fn open_turn(&mut self) -> Option<&mut Branch> {
        self.response_mut()
    }
}

/// A parsed turn that has ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ParsedResponse {
    /// The model's turn, as in the tree.
    pub branch: Branch,
    /// The reason why the model stopped, or `None` if only the stream's terminator arrived.
    pub finish: Option<FinishReason>,
    /// The server's token counts.
    pub usage: Option<Usage>,
}

/// A handle for the thread that parses a turn.
///
/// Use it to wait for the end of the turn, or to end the parsing.
///
/// [`on_drop`](Self::on_drop) sets what dropping the handle does. By default, the drop stops the
/// thread and does not wait for it. The thread takes no further token, and the channel of calls is
/// disconnected. The parsed part of the turn stays in the tree. The stream ends when its guard ends
/// it, or when its channel has no receiver left.
#[must_use = "dropping the handle ends the parsing"]
pub struct ParserHandle {
    /// The thread, or an error if the thread did not start. It is `None` after the join.
    thread: Option<Result<JoinHandle<Result<ParsedResponse, Error>>, Error>>,
    /// This sender is dropped when the caller no longer waits. The thread then stops.
    stop: Option<Sender<()>>,
    on_drop: OnDrop,
}

impl ResponseParser {
    /// Parses the tokens of one turn on a new thread, into the open turn of `tree`.
    ///
    /// Returns the channel of complete tool calls, and a handle for the end of the turn. The
    /// channel is disconnected when the turn has ended. Read the channel until it is disconnected,
    /// and then join the handle. The thread is named `tokenwire-parser`.
    ///
    /// Some chat endpoints separate the reasoning and the calls from the content. The reasoning and
    /// the calls then become leaves when they arrive. For such a stream, use
    /// [`Dialect::chat`](crate::Dialect::chat). With this dialect, the parser does not look for
    /// markers in the content.
    ///
    /// The thread locks the tree while it parses a token. It never holds the lock while it waits
    /// for a token. A user interface can therefore draw the tree as it grows. The channel of calls
    /// has no separate limit. The calls are part of the turn's text, and
    /// [`Limits::max_turn_bytes`](crate::Limits::max_turn_bytes) limits this text.
    ///
    /// The turn of a context stays open. When you have the report of the stream, call
    /// [`end_response`](Context::end_response) with its `ids_exact`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// # use tokenwire::testing::{MockServer, Script};
    /// # let answer = [(1, "<tool_call>"), (2, r#"{"name": "now", "arguments": {}}"#), (3, "</tool_call>")];
    /// # let server = MockServer::scripted([Script::tokens(answer)])?;
    /// # let client = tokenwire::ApiClient::builder(server.url()).build()?;
    /// use std::sync::{Arc, Mutex};
    /// use tokenwire::{Branch, CompletionRequest, Dialect, ResponseParser, Role};
    ///
    /// let (tokens, _guard) = client.stream(CompletionRequest::text("What time is it?"))?;
    /// let tree = Arc::new(Mutex::new(Branch::new(Role::Assistant)));
    /// let parser = ResponseParser::new(Dialect::by_name("hermes")?);
    /// let (calls, handle) = parser.run(tokens, tree);
    /// for call in &calls {
    ///     println!("{}({})", call.name, call.arguments);
    /// }
    /// let response = handle.join()?;
    /// assert_eq!(response.branch.tool_calls().count(), 1);
    /// # }
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    pub fn run<T: Tree>(
        self,
        tokens: Receiver<StreamToken>,
        tree: Arc<Mutex<T>>,
    ) -> (Receiver<PendingToolCall>, ParserHandle) {
        self.run_with(tokens, tree, |_, _| {})
    }

    /// Parses like [`run`](Self::run), and calls `on_token` with the text and id of each token.
    ///
    /// The parser's thread calls `on_token` before it parses the token. While `on_token` blocks,
    /// the parser waits.
    pub fn run_with<T: Tree>(
        self,
        tokens: Receiver<StreamToken>,
        tree: Arc<Mutex<T>>,
        on_token: impl FnMut(&str, Option<TokenId>) + Send + 'static,
    ) -> (Receiver<PendingToolCall>, ParserHandle) {
        let (calls, pending) = unbounded();
        let (stop, stopped) = bounded(0);
        let run = move || run(self.engine, &tokens, &stopped, &tree, &calls, on_token);
        let thread = thread::Builder::new().name("tokenwire-parser".into()).spawn(run);
        let cannot = |error| Error::protocol("cannot start the parser's thread").with_source(error);
        let thread = Some(thread.map_err(cannot));
        (pending, ParserHandle { thread, stop: Some(stop), on_drop: OnDrop::default() })
    }
}

impl ParserHandle {
    /// Blocks until the turn has ended. The timers of the stream limit this wait.
    ///
    /// # Errors
    ///
    /// - The error of the stream, if the stream failed.
    /// - [`Cancelled`](crate::ErrorKind::Cancelled) if the channel of tokens was disconnected
    ///   before the end of the stream. This happens after a cancel.
    /// - [`Limit::TurnBytes`] if the text of the turn is too long.
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if no turn was open in the tree.
    ///
    /// After an error, the tree contains everything that was received. The turn is closed like a
    /// turn that was cut off.
    pub fn join(mut self) -> Result<ParsedResponse, Error> {
        self.wait().unwrap_or_else(|| Err(Error::cancelled()))
    }

    /// Sets what dropping this handle does. Default [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    fn wait(&mut self) -> Option<Result<ParsedResponse, Error>> {
        let bug = |_| Err(Error::protocol("the parser's thread panicked: a bug in tokenwire"));
        Some(self.thread.take()?.and_then(|thread| thread.join().unwrap_or_else(bug)))
    }
}

impl Drop for ParserHandle {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Cancel => drop(self.stop.take()),
            OnDrop::Join => drop(self.wait()),
        }
    }
}

debug_fields!(ParserHandle { on_drop });

// ---- the thread ----

/// Parses until the turn ends, or until `stopped` is disconnected because no caller waits.
fn run(
    mut engine: Engine,
    tokens: &Receiver<StreamToken>,
    stopped: &Receiver<()>,
    tree: &Mutex<impl Tree>,
    calls: &Sender<PendingToolCall>,
    mut on_token: impl FnMut(&str, Option<TokenId>),
) -> Result<ParsedResponse, Error> {
    let max = engine.limits.max_turn_bytes;
    // The caller may have dropped the channel of calls because it needs only the tree.
    let hand_out = |done: Vec<PendingToolCall>| done.into_iter().for_each(|call| _ = calls.send(call));
    let end = loop {
        let item = select! {
            recv(tokens) -> item => item.ok(),
            recv(stopped) -> _ => None,
        };
        let size = item.as_ref().map_or(0, StreamToken::text_bytes);
        if engine.bytes().saturating_add(size) > max {
            break Err(Error::limit(Limit::TurnBytes, max as u64));
        }
        match item {
            Some(StreamToken::Done { usage, finish }) => break Ok((usage, finish)),
            Some(StreamToken::Error(error)) => break Err(error),
            None => break Err(Error::cancelled()),
            Some(item) => {
                if let StreamToken::Token { text, id } | StreamToken::Reasoning { text, id } = &item {
                    on_token(text, *id);
                }
                let done = match lock(tree).open_turn() {
                    Some(branch) => engine.push_item(branch, &item),
                    None => break Err(no_turn()),
                };
                hand_out(done);
            }
        }
    };
    let clean = end.as_ref().is_ok_and(|(_, finish)| is_clean(finish.as_ref()));
    let (done, branch) = {
        let mut tree = lock(tree);
        let branch = tree.open_turn().ok_or_else(no_turn)?;
        (engine.finish(branch, clean), branch.clone())
    };
    hand_out(done);
    end.map(|(usage, finish)| ParsedResponse { branch, finish, usage })
}

fn no_turn() -> Error {
    Error::invalid("no turn is open in the tree: call begin_response first")
}

/// Locks the tree, even if another thread panicked while it held the lock.
///
/// The tree is still valid in this case, because this crate completes each change before it
/// releases the lock.
pub(crate) fn lock<T>(tree: &Mutex<T>) -> MutexGuard<'_, T> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}
