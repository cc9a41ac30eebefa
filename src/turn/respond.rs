//! The joint of stream and parser: a thread that reads the tokens of one turn, parses them into a tree that
//! others can look at meanwhile, and hands out each call the moment it is complete.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use super::parse::ResponseParser;
use super::parse::engine::Engine;
use super::prompt::Context;
use crate::client::stream::guard::OnDrop;
use crate::error::{Error, Limit};
use crate::types::ids::{FinishReason, TokenId, Usage, is_clean};
use crate::types::token::StreamToken;
use crate::types::tree::{Branch, PendingToolCall};

/// Where a turn grows while it is parsed: a [`Context`], or a lone [`Branch`].
pub trait Tree: Send + 'static {
    /// The branch that the model's tokens go to. It may have leaves already. `None`: no turn is open.
    fn open_turn(&mut self) -> Option<&mut Branch>;
}

impl Tree for Branch {
    fn open_turn(&mut self) -> Option<&mut Branch> {
        Some(self)
    }
}

/// The response that [`begin_response`](Context::begin_response) has begun.
impl Tree for Context {
    fn open_turn(&mut self) -> Option<&mut Branch> {
        self.response_mut()
    }
}

/// A turn that has come to its end.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ParsedResponse {
    /// The model's turn, as it stands in the tree.
    pub branch: Branch,
    /// Why the model stopped; `None` if only the stream's terminator came.
    pub finish: Option<FinishReason>,
    /// The server's count of tokens.
    pub usage: Option<Usage>,
}

/// The end of a turn that a thread parses: wait for it, or end it.
///
/// Dropping it does what [`on_drop`](Self::on_drop) says. By default the thread is told to stop and is not waited for: it
/// takes no further token, the channel of calls is disconnected, and the turn stays in the tree as far as it
/// has come. The stream itself is ended by its own guard, or by its channel having no receiver any more.
#[must_use = "dropping the handle ends the parsing"]
pub struct ParserHandle {
    /// `None` once it is joined, or if it could not be started.
    thread: Option<JoinHandle<Result<ParsedResponse, Error>>>,
    /// Dropped to say that nobody waits.
    stop: Option<Sender<()>>,
    failed: Option<Error>,
    on_drop: OnDrop,
}

impl ResponseParser {
    /// Parses the tokens of one turn on a thread of its own (`tokenwire-parser`), into the open turn of `tree`. Returns
    /// the channel of complete calls and the handle of the end. The channel is disconnected when the turn has
    /// ended; read it until then and join.
    ///
    /// What a chat endpoint has told apart itself (reasoning, calls) becomes a leaf of its kind as it comes; give such a
    /// stream [`Dialect::chat`](crate::Dialect::chat), so that no marker is looked for in its content.
    ///
    /// The lock is held for each token while it is parsed, and never while the thread waits, so that a user
    /// interface can draw the tree as it grows. The calls need no bound of their own: they are part of the turn's text,
    /// which is bounded by [`Limits::max_turn_bytes`](crate::Limits::max_turn_bytes).
    ///
    /// A context's turn stays open: when the stream's report is there, say with
    /// [`end_response`](Context::end_response) whether its ids are all there.
    pub fn run<T: Tree>(
        self,
        tokens: Receiver<StreamToken>,
        tree: Arc<Mutex<T>>,
    ) -> (Receiver<PendingToolCall>, ParserHandle) {
        self.run_with(tokens, tree, |_, _| {})
    }

    /// As [`run`](Self::run); `on_token` sees the text and id of each token before it is parsed, on the
    /// parser's thread. As long as it blocks, the turn stands still.
    pub fn run_with<T: Tree>(
        self,
        tokens: Receiver<StreamToken>,
        tree: Arc<Mutex<T>>,
        on_token: impl FnMut(&str, Option<TokenId>) + Send + 'static,
    ) -> (Receiver<PendingToolCall>, ParserHandle) {
        let (calls, pending) = unbounded();
        let (stop, stopped) = bounded(0);
        let run =
            Run { engine: self.engine, tokens, stopped, tree, calls, max_turn_bytes: self.max_turn_bytes };
        let thread = thread::Builder::new().name("tokenwire-parser".into()).spawn(move || run.run(on_token));
        let (thread, failed) = match thread {
            Ok(thread) => (Some(thread), None),
            Err(error) => (None, Some(Error::protocol("no thread for the parser").with_source(error))),
        };
        (pending, ParserHandle { thread, stop: Some(stop), failed, on_drop: OnDrop::default() })
    }
}

impl ParserHandle {
    /// Blocks until the turn has ended. What bounds the wait are the stream's timers.
    ///
    /// # Errors
    ///
    /// The stream's own error; [`Cancelled`](crate::ErrorKind::Cancelled) if the channel of tokens was disconnected without
    /// an end, as a cancel does; [`Limit::TurnBytes`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) if no turn was open in
    /// the tree. What was received before stands in the tree, closed as
    /// a turn that was cut off.
    pub fn join(mut self) -> Result<ParsedResponse, Error> {
        let result = self.wait();
        result.unwrap_or_else(|| Err(self.failed.take().unwrap_or_else(Error::cancelled)))
    }

    /// Sets what dropping this handle does. Default [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    fn wait(&mut self) -> Option<Result<ParsedResponse, Error>> {
        let thread = self.thread.take()?;
        let bug = |_| Err(Error::protocol("the parser's thread panicked: a bug in tokenwire"));
        Some(thread.join().unwrap_or_else(bug))
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

impl fmt::Debug for ParserHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParserHandle").field("on_drop", &self.on_drop).finish_non_exhaustive()
    }
}

// ---- the thread ----

struct Run<T> {
    engine: Engine,
    tokens: Receiver<StreamToken>,
    /// Disconnected when nobody waits for the turn any more.
    stopped: Receiver<()>,
    tree: Arc<Mutex<T>>,
    calls: Sender<PendingToolCall>,
    max_turn_bytes: usize,
}

impl<T: Tree> Run<T> {
    fn run(mut self, mut on_token: impl FnMut(&str, Option<TokenId>)) -> Result<ParsedResponse, Error> {
        let end = loop {
            let item = select! {
                recv(self.tokens) -> item => item.ok(),
                recv(self.stopped) -> _ => None,
            };
            let size = item.as_ref().map_or(0, StreamToken::text_bytes);
            if self.engine.bytes().saturating_add(size) > self.max_turn_bytes {
                break Err(Error::limit(Limit::TurnBytes, self.max_turn_bytes as u64));
            }
            match item {
                Some(StreamToken::Done { usage, finish }) => break Ok((usage, finish)),
                Some(StreamToken::Error(error)) => break Err(error),
                None => break Err(Error::cancelled()),
                Some(item) => {
                    if let StreamToken::Token { text, id } | StreamToken::Reasoning { text, id } = &item {
                        on_token(text, *id);
                    }
                    let calls = match lock(&self.tree).open_turn() {
                        Some(branch) => self.engine.push_item(branch, &item),
                        None => break Err(no_turn()),
                    };
                    self.hand_out(calls);
                }
            }
        };
        let clean = end.as_ref().is_ok_and(|(_, finish)| is_clean(finish.as_ref()));
        let (calls, branch) = {
            let mut tree = lock(&self.tree);
            let branch = tree.open_turn().ok_or_else(no_turn)?;
            let calls = self.engine.finish(branch, clean);
            (calls, branch.clone())
        };
        self.hand_out(calls);
        end.map(|(usage, finish)| ParsedResponse { branch, finish, usage })
    }

    /// A caller that dropped the channel wants the tree only.
    fn hand_out(&self, calls: Vec<PendingToolCall>) {
        for call in calls {
            let _ = self.calls.send(call);
        }
    }
}

fn no_turn() -> Error {
    Error::invalid("no turn is open in the tree: begin a response first")
}

/// A panic of another thread that held the lock leaves a tree that can be read and written: every change of ours is
/// complete before the lock is let go.
pub(crate) fn lock<T>(tree: &Mutex<T>) -> MutexGuard<'_, T> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}
