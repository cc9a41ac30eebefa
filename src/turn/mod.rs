//! Repeats prompt, answer, tool calls and results until the model calls no more tools.

pub(crate) mod parse;
pub(crate) mod prompt;
pub(crate) mod respond;
#[cfg(feature = "tokenizer")]
pub(crate) mod tokenizer;
pub(crate) mod tools;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use self::parse::ResponseParser;
use self::prompt::{Context, Prefix, Prompt};
use self::respond::{ParsedResponse, lock};
use self::tools::{ToolResult, Tools};
use crate::client::ApiClient;
use crate::client::stream::guard::Canceller;
use crate::client::stream::report::StreamReport;
use crate::config::Limits;
use crate::error::macros::{debug_fields, setters};
use crate::error::{Error, ErrorKind};
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::sampling::SamplingParams;
use crate::types::ids::TokenId;

/// The default of [`Turn::max_rounds`].
const MAX_ROUNDS: usize = 16;

type MakeRequest = dyn Fn(Vec<TokenId>) -> CompletionRequest + Send + Sync;
type OnToken = dyn Fn(&str, Option<TokenId>) + Send + Sync;

/// A turn of the model with its tools, in one or more rounds.
///
/// A round is a prompt, the model's answer, and the results of its tool calls.
///
/// ```no_run
/// use std::sync::{Arc, Mutex};
/// use tokenwire::{ApiClient, ChatFormat, Context, Tool, Tools, Turn};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tokenizer = tokenwire::Tokenizer::from_file("tokenizer.json")?;
/// let client = ApiClient::builder("http://127.0.0.1:8000").build()?;
/// let context = Arc::new(Mutex::new(Context::new(ChatFormat::by_name("qwen3")?, tokenizer)));
///
/// let now = Tool::new("now", "The time.", serde_json::json!({"type": "object"}), |_| Ok("12:30".into()));
/// let tools = Tools::new().with(now);
/// context.lock().unwrap().system(tools.described());
/// context.lock().unwrap().user("What time is it?");
/// let report = Turn::new(&client, context.clone()).tools(tools).run()?;
/// println!("{} rounds: {}", report.rounds.len(), report.content());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Turn {
    client: ApiClient,
    context: Arc<Mutex<Context>>,
    tools: Tools,
    max_rounds: usize,
    limits: Limits,
    markers: Vec<(String, TokenId)>,
    request: Arc<MakeRequest>,
    on_token: Arc<OnToken>,
    cancel: TurnCanceller,
}

/// Cancels a turn from any thread. Clones cancel the same turn.
#[derive(Clone, Default)]
pub struct TurnCanceller(Arc<Cancel>);

#[derive(Default)]
struct Cancel {
    cancelled: AtomicBool,
    /// The stream of the current round.
    stream: Mutex<Option<Canceller>>,
}

/// The result of a turn.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TurnReport {
    /// The rounds, in order. The list is never empty.
    pub rounds: Vec<Round>,
    /// True if the turn stopped at [`max_rounds`](Turn::max_rounds).
    ///
    /// The last answer then has tool calls, and their results are in the context. Run the turn
    /// again to continue.
    pub is_unfinished: bool,
}

/// A prompt, the model's answer, and the results of its tool calls.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Round {
    /// The prompt.
    pub prompt: Prompt,
    /// The answer.
    pub response: ParsedResponse,
    /// The results of the tool calls, in the order of the calls.
    pub results: Vec<ToolResult>,
    /// The report of the stream.
    pub stream: StreamReport,
}

/// The error that ended a turn.
///
/// The context contains everything that was received, and the results of the calls that had begun.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct TurnError {
    /// The error.
    pub error: Error,
    /// The rounds that were complete before the error.
    pub rounds: Vec<Round>,
}

impl Turn {
    /// Creates a turn for the model of `context`.
    ///
    /// The turn uses the dialect of the context's [`format`](Context::format). Defaults: no tools,
    /// [`SamplingParams::default`], 16 rounds.
    pub fn new(client: &ApiClient, context: Arc<Mutex<Context>>) -> Self {
        Self {
            client: client.clone(),
            context,
            tools: Tools::new(),
            max_rounds: MAX_ROUNDS,
            limits: Limits::default(),
            markers: Vec::new(),
            request: Arc::new(CompletionRequest::ids),
            on_token: Arc::new(|_, _| {}),
            cancel: TurnCanceller::default(),
        }
    }

    setters! {
        /// Sets the tools that the model may call.
        ///
        /// This setting does not describe the tools to the model. Write their description into the
        /// system turn: use [`Tools::described`], or the words that the model's family expects.
        tools: Tools,
        /// Sets the maximum number of prompts, at least 1. Default 16.
        max_rounds: usize,
        /// Sets the limits of the parser, see [`ResponseParser::limits`].
        limits: Limits,
    }

    /// Sets the model's added tokens, see [`ResponseParser::markers`].
    ///
    /// Without these tokens, the parser recognizes markers by their text.
    pub fn markers<'a, T>(mut self, added: impl IntoIterator<Item = T>) -> Self
    where
        T: Into<(&'a str, TokenId)>,
    {
        let added = added.into_iter().map(Into::into);
        self.markers = added.map(|(text, id)| (text.to_owned(), id)).collect();
        self
    }

    /// Sets the sampling parameters.
    ///
    /// The parameters replace an earlier [`request`](Self::request). A later `request` replaces the
    /// parameters.
    pub fn sampling(self, sampling: SamplingParams) -> Self {
        self.request(move |ids| CompletionRequest::ids(ids).sampling(sampling.clone()))
    }

    /// Sets the function that makes the request for a prompt.
    ///
    /// The function can set sampling parameters, stop tokens and headers.
    pub fn request(
        mut self,
        request: impl Fn(Vec<TokenId>) -> CompletionRequest + Send + Sync + 'static,
    ) -> Self {
        self.request = Arc::new(request);
        self
    }

    /// Calls `on_token` for each token as it arrives, on the parser's thread.
    pub fn on_token(mut self, on_token: impl Fn(&str, Option<TokenId>) + Send + Sync + 'static) -> Self {
        self.on_token = Arc::new(on_token);
        self
    }

    /// Returns a handle that cancels this turn from another thread, before or while it runs.
    #[must_use]
    pub fn canceller(&self) -> TurnCanceller {
        self.cancel.clone()
    }

    /// Runs the turn.
    ///
    /// Blocks until the model gives an answer without tool calls, or until
    /// [`max_rounds`](Self::max_rounds) rounds have run. The timers of the stream and the running
    /// time of your tools limit this wait. The model receives the results in the order of the
    /// calls.
    ///
    /// # Errors
    ///
    /// Returns the error of the context, the request or the stream, or
    /// [`Cancelled`](ErrorKind::Cancelled) if the turn was cancelled.
    pub fn run(&self) -> Result<TurnReport, TurnError> {
        let mut rounds = Vec::new();
        loop {
            match self.round() {
                Ok(round) => rounds.push(round),
                Err(error) => return Err(TurnError { error, rounds }),
            }
            let called = rounds.last().is_some_and(|round| !round.results.is_empty());
            if !called || rounds.len() >= self.max_rounds.max(1) {
                return Ok(TurnReport { rounds, is_unfinished: called });
            }
        }
    }

    /// Runs one round: a prompt, its answer, and the results of its calls.
    fn round(&self) -> Result<Round, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let (prompt, dialect, head) = {
            let mut context = lock(&self.context);
            let dialect = context.format().dialect()?;
            let prompt = context.begin_response()?;
            (prompt, dialect, context.response_mut().map_or(0, |branch| branch.leaves.len()))
        };
        let stream = self.client.stream((self.request)(prompt.ids.clone()));
        let (tokens, guard) = stream.inspect_err(|_| lock(&self.context).discard_response())?;
        self.cancel.watch(Some(guard.canceller()));
        let on_token = self.on_token.clone();
        let parser = ResponseParser::new(dialect)
            .tools(&self.tools.schemas())
            .markers(self.markers.iter().map(|(text, id)| (text.as_str(), *id)))
            .limits(&self.limits)
            .start(prompt.start);
        let (calls, parsing) =
            parser.run_with(tokens, self.context.clone(), move |text, id| on_token(text, id));
        let results = self.tools.run_unless(&calls, &self.cancel.0.cancelled);
        let response = parsing.join();
        // The parser stops if the turn exceeds its limit. Nothing would read the rest of the
        // stream.
        if response.is_err() {
            guard.cancel();
        }
        let stream = guard.join();
        self.cancel.watch(None);

        let mut context = lock(&self.context);
        let came = context.response_mut().is_some_and(|branch| branch.leaves.len() > head);
        context.end_response(stream.ids_exact);
        if !came && response.is_err() {
            // Nothing arrived: restore the context as it was before the prompt.
            context.discard_response();
        }
        for ToolResult { call, text, .. } in &results {
            context.tool_result(&call.id, text.clone())?;
        }
        let response = response.map_err(|error| stream.error.clone().unwrap_or(error))?;
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        Ok(Round { prompt, response, results, stream })
    }
}

impl TurnCanceller {
    /// Cancels the turn.
    ///
    /// The stream ends at once, and no further tool call begins. [`Turn::run`] waits for tools that
    /// are still running. It then returns [`Cancelled`](ErrorKind::Cancelled). The turn stays
    /// cancelled.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(stream) = lock(&self.0.stream).as_ref() {
            stream.cancel();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Sets the stream that a cancel ends. Cancels it now if the turn is already cancelled.
    fn watch(&self, stream: Option<Canceller>) {
        *lock(&self.0.stream) = stream;
        if self.is_cancelled() {
            self.cancel();
        }
    }
}

impl TurnReport {
    /// Returns the content of the last answer: its text without reasoning and tool calls.
    #[must_use]
    pub fn content(&self) -> String {
        self.rounds.last().map(|round| round.response.branch.content()).unwrap_or_default()
    }

    /// Returns whether each prompt began with the earlier prompt and the ids received.
    #[must_use]
    pub fn is_prefix_kept(&self) -> bool {
        self.rounds.iter().all(|round| round.prompt.prefix == Prefix::Kept)
    }
}

impl TurnError {
    /// Returns whether the turn was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.error.kind() == ErrorKind::Cancelled
    }
}

debug_fields!(Turn { tools, max_rounds });

impl fmt::Debug for TurnCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnCanceller").field("cancelled", &self.is_cancelled()).finish()
    }
}
