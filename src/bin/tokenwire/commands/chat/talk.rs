//! Turns with tools. The prompts are ids in the model's own chat format, and tool calls run while
//! the model writes.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;
use tokenwire::{
    ApiClient, ChatFormat, CompletionRequest, Context, Tokenizer, Tools, Turn, TurnError, TurnReport,
};

use super::tools;
use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::StreamFlags;
use crate::interrupt::Interrupt;
use crate::output::json::{ErrorJson, json_line, turns_line};
use crate::output::status::Status;
use crate::output::terminal::harmless;
use crate::output::text::{counted, note_dim, note_error, note_tree, summary, with_causes};

#[derive(clap::Args)]
pub(crate) struct TalkFlags {
    /// The model's tokenizer.json. With it, prompts are ids in the model's chat format, tokenwire
    /// remembers earlier turns, and the model has tools.
    #[arg(long, value_name = "FILE", requires = "chat_format")]
    tokenizer: Option<PathBuf>,
    /// The name of the model's chat format. If the name is unknown, the error lists the known
    /// names.
    #[arg(long, value_name = "NAME", requires = "tokenizer")]
    chat_format: Option<String>,
    /// The system turn. tokenwire appends the tools to it.
    #[arg(long, value_name = "TEXT", requires = "tokenizer")]
    system: Option<String>,
    /// Allow the model to read files in this folder.
    #[arg(long, value_name = "DIR", requires = "tokenizer")]
    folder: Option<PathBuf>,
    /// Maximum number of prompts for one turn. Each round of tool calls needs one more prompt.
    #[arg(long, value_name = "N", default_value_t = 8)]
    rounds: usize,
}

/// A conversation.
pub(crate) struct Talk {
    turn: Turn,
    context: Arc<Mutex<Context>>,
    interrupt: Interrupt,
    json: bool,
    /// The live line of the running turn.
    status: Arc<Mutex<Option<Status>>>,
}

impl TalkFlags {
    /// Starts a conversation; returns `None` without a tokenizer.
    pub(crate) fn begin(
        &self,
        client: &ApiClient,
        flags: &StreamFlags,
        interrupt: &Interrupt,
    ) -> Result<Option<Talk>, Failure> {
        let (Some(file), Some(name)) = (&self.tokenizer, &self.chat_format) else { return Ok(None) };
        let format = ChatFormat::by_name(name)?;
        let tokenizer = Tokenizer::from_file(file)?;
        let tools = tools::tools(self.folder.as_deref())
            .map_err(|error| Failure::Usage(format!("invalid --folder: {error}")))?;
        let mut context = Context::new(format, tokenizer.clone());
        let system = self.system_turn(format, &tools)?;
        if !system.is_empty() {
            context.system(&system);
        }
        let context = Arc::new(Mutex::new(context));
        // The flags are checked here, once. The closure below cannot report an error.
        let request = flags.apply_to(CompletionRequest::ids(Vec::new()))?;
        let json = flags.json;
        let status = Arc::new(Mutex::new(None::<Status>));
        let of_tokens = status.clone();
        let turn = Turn::new(client, context.clone())
            .tools(tools)
            .max_rounds(self.rounds)
            .markers(tokenizer.added_tokens())
            .request(move |ids| request.clone().prompt_ids(ids))
            .on_token(move |text, _| print_token(text, &of_tokens, json));
        Ok(Some(Talk { turn, context, interrupt: interrupt.clone(), json, status }))
    }

    /// Returns the system turn: --system or the format's default, then the tools if the format has
    /// tool calls.
    fn system_turn(&self, format: ChatFormat, tools: &Tools) -> Result<String, Failure> {
        let has_calls = format.dialect()?.name() != "plain";
        let described = if has_calls { tools.described() } else { String::new() };
        let system = self.system.as_deref().or(format.default_system()).unwrap_or_default();
        let text = [system, &described].join(if system.is_empty() { "" } else { "\n\n" });
        Ok(text.trim_end().to_owned())
    }
}

fn print_token(text: &str, status: &Mutex<Option<Status>>, json: bool) {
    let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(status) = &mut *status {
        status.token();
        status.clear();
    }
    if !json {
        let mut out = io::stdout().lock();
        // A broken pipe is reported at the end of the turn.
        let _ = out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush());
    }
    if let Some(status) = &mut *status {
        status.draw();
    }
}

impl Talk {
    /// Sends the user's turn, prints the answer as it arrives, then prints the turns as a tree.
    pub(crate) fn say(&self, text: &str) -> ExitResult {
        let lock = || self.context.lock().unwrap_or_else(PoisonError::into_inner);
        lock().user(text);
        let before = lock().turns().len();
        let canceller = self.turn.canceller();
        self.interrupt.running(move || canceller.cancel());
        let status = |status| *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        status(Some(Status::new(Instant::now())));
        let result = self.turn.run();
        status(None);
        let interrupted = self.interrupt.ended();

        let context = lock();
        let turns = &context.turns()[before.min(context.turns().len())..];
        let mut out = io::stdout().lock();
        if self.json {
            turns_line(&mut out, turns)?;
        } else {
            out.write_all(b"\n")?;
            turns.iter().for_each(note_tree);
        }
        let exit = self.tell(&result, interrupted, &mut out)?;
        out.flush()?;
        Ok(exit)
    }

    /// Reports on standard error how the turn ended, and returns the exit code.
    fn tell(
        &self,
        result: &Result<TurnReport, TurnError>,
        interrupted: bool,
        out: &mut impl Write,
    ) -> io::Result<Exit> {
        let report = match result {
            Ok(report) => report,
            Err(failed) => {
                if self.json {
                    json_line(out, &json!({"error": ErrorJson::new(&failed.error)}))?;
                }
                if failed.is_cancelled() && interrupted {
                    return Ok(Exit::Cancelled);
                }
                note_error(&with_causes(&failed.error));
                return Ok(Exit::Failed);
            }
        };
        if !self.json {
            let prefix = if report.is_prefix_kept() { "kept" } else { "not kept" };
            report.rounds.iter().for_each(|round| note_dim(&summary(&round.stream)));
            let rounds = counted(report.rounds.len() as u64, "round");
            note_dim(&format!("{rounds}, prefix of the prompt {prefix}"));
        }
        if report.is_unfinished {
            note_dim("the model still calls tools: send another line to continue, or raise --rounds");
        }
        Ok(Exit::Complete)
    }
}
