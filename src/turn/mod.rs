//! The turn loop: ask the model, run the calls while it writes, tell it the results, and again until it calls no more.

pub(crate) mod parse;
pub(crate) mod prompt;
pub(crate) mod respond;
#[cfg(feature = "tokenizer")]
pub(crate) mod tokenizer;
pub(crate) mod tools;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use self::parse::ResponseParser;
use self::prompt::{Context, Prefix, Prompt};
use self::respond::{ParsedResponse, lock};
use self::tools::{ToolResult, Tools};
use crate::client::ApiClient;
use crate::client::stream::guard::Canceller;
use crate::client::stream::report::StreamReport;
use crate::config::Limits;
use crate::error::{Error, ErrorKind};
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::sampling::SamplingParams;
use crate::types::ids::TokenId;

/// Rounds of one turn, by default.
const MAX_ROUNDS: usize = 16;

type MakeRequest = dyn Fn(Vec<TokenId>) -> CompletionRequest + Send + Sync;
type OnToken = dyn Fn(&str, Option<TokenId>) + Send + Sync;

/// A turn of the model with its tools: as many rounds of prompt, answer and results as it takes.
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

/// Cancels a turn from anywhere. Clones cancel the same turn.
#[derive(Clone, Default)]
pub struct TurnCanceller(Arc<Cancel>);

#[derive(Default)]
struct Cancel {
    cancelled: AtomicBool,
    /// The stream of the round that is running.
    stream: Mutex<Option<Canceller>>,
}

/// How a turn went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TurnReport {
    /// Each round, in order. There is at least one.
    pub rounds: Vec<Round>,
    /// The model's last answer has calls, and their results are in the context, but
    /// [`max_rounds`](Turn::max_rounds) was reached: run again to go on.
    pub is_unfinished: bool,
}

/// One prompt and its answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Round {
    /// The ids of the prompt.
    pub prompt: Prompt,
    /// The answer.
    pub response: ParsedResponse,
    /// What its calls gave, in the order of the calls.
    pub results: Vec<ToolResult>,
    /// How its stream went.
    pub stream: StreamReport,
}

/// What broke a turn off. The context has all that was received and the results of the calls that had begun.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct TurnError {
    /// Why.
    pub error: Error,
    /// The rounds before the one that failed.
    pub rounds: Vec<Round>,
}

impl Turn {
    /// A turn of the model that `context` is for, in the dialect that belongs to its
    /// [`format`](Context::format). Defaults: no tools, [`SamplingParams::default`], 16 rounds.
    #[must_use]
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

    /// The tools that the model may call. It learns of them from the system turn, which is yours: give it
    /// [`Tools::described`], or what its family says in its own words.
    #[must_use]
    pub fn tools(mut self, tools: Tools) -> Self {
        self.tools = tools;
        self
    }

    /// Prompts that are sent at most, at least 1. Default 16.
    #[must_use]
    pub fn max_rounds(mut self, max_rounds: usize) -> Self {
        self.max_rounds = max_rounds;
        self
    }

    /// The parser's limits, see [`ResponseParser::limits`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The model's added tokens, see [`ResponseParser::markers`]. Without them markers are told by their text.
    #[must_use]
    pub fn markers<'a, T>(mut self, added: impl IntoIterator<Item = T>) -> Self
    where
        T: Into<(&'a str, TokenId)>,
    {
        let added = added.into_iter().map(Into::into);
        self.markers = added.map(|(text, id)| (text.to_owned(), id)).collect();
        self
    }

    /// How the model is to sample. Takes the place of [`request`](Self::request), and `request` of this.
    #[must_use]
    pub fn sampling(self, sampling: SamplingParams) -> Self {
        self.request(move |ids| CompletionRequest::ids(ids).sampling(sampling.clone()))
    }

    /// Makes the request for a prompt's ids: sampling, stop tokens, headers.
    #[must_use]
    pub fn request(
        mut self,
        request: impl Fn(Vec<TokenId>) -> CompletionRequest + Send + Sync + 'static,
    ) -> Self {
        self.request = Arc::new(request);
        self
    }

    /// Sees each token as it comes, on the parser's thread.
    #[must_use]
    pub fn on_token(mut self, on_token: impl Fn(&str, Option<TokenId>) + Send + Sync + 'static) -> Self {
        self.on_token = Arc::new(on_token);
        self
    }

    /// A handle that can cancel this turn from elsewhere, before or while it runs.
    #[must_use]
    pub fn canceller(&self) -> TurnCanceller {
        self.cancel.clone()
    }

    /// Runs the turn. Blocks until the model has given an answer without calls, or until
    /// [`max_rounds`](Self::max_rounds); the stream's timers and the tools bound the wait. Results are told in the order of
    /// the calls.
    ///
    /// # Errors
    ///
    /// What the context, the request or the stream says; [`Cancelled`](ErrorKind::Cancelled).
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

    /// One prompt, its answer, and what its calls gave.
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
        let (tokens, guard) = match self.client.stream((self.request)(prompt.ids.clone())) {
            Ok(stream) => stream,
            Err(error) => {
                lock(&self.context).discard_response();
                return Err(error);
            }
        };
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
        // A turn over its limit has no reader any more: what is left of the stream is of no use.
        if response.is_err() {
            guard.cancel();
        }
        let stream = guard.join();
        self.cancel.watch(None);

        let mut context = lock(&self.context);
        let came = context.response_mut().is_some_and(|branch| branch.leaves.len() > head);
        context.end_response(stream.ids_exact);
        if !came && response.is_err() {
            // Nothing came: as if it had not been asked for.
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
    /// Ends the turn: its stream now, calls that have not begun not at all. Functions that run are waited for by
    /// [`Turn::run`]; it then returns [`Cancelled`](ErrorKind::Cancelled). The turn stays cancelled.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(stream) = self.stream().as_ref() {
            stream.cancel();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// From now on this stream is the one to cancel; at once, if the turn is cancelled already.
    fn watch(&self, stream: Option<Canceller>) {
        *self.stream() = stream;
        if self.is_cancelled() {
            self.cancel();
        }
    }

    fn stream(&self) -> std::sync::MutexGuard<'_, Option<Canceller>> {
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TurnReport {
    /// What the reader is told in the last answer.
    #[must_use]
    pub fn content(&self) -> String {
        self.rounds.last().map(|round| round.response.branch.content()).unwrap_or_default()
    }

    /// Whether each prompt began with the one before it and the ids received.
    #[must_use]
    pub fn is_prefix_kept(&self) -> bool {
        self.rounds.iter().all(|round| round.prompt.prefix == Prefix::Kept)
    }
}

impl TurnError {
    /// Whether the turn was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.error.kind() == ErrorKind::Cancelled
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("tools", &self.tools)
            .field("max_rounds", &self.max_rounds)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TurnCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnCanceller").field("cancelled", &self.is_cancelled()).finish()
    }
}
