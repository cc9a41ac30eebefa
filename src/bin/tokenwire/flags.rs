//! The flags of `stream` that other commands have too, and the client and request they make.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, Limits, SamplingParams, Timeouts, TokenId,
};

use crate::exit::Failure;

/// The longest time that a timer can be set to, in seconds: thirty years.
const MAX_SECONDS: f64 = 1e9;

/// Each stream takes two threads and a connection.
pub(crate) const MAX_STREAMS: i64 = 4096;

const FAILURE: &str = "After a failure";
const TIMERS: &str = "Timers, in seconds (fractions allowed)";

#[derive(clap::Args)]
pub(crate) struct StreamFlags {
    /// JSON Lines on standard output.
    #[arg(long)]
    pub(crate) json: bool,

    /// Which endpoint, and how its chunks are written: auto, openai, chat, llamacpp, vllm-generate,
    /// sglang, tgi. auto asks /v1/completions and tells by the first chunk. chat sends --prompt as the user's message,
    /// or the "messages" of --extra.
    #[arg(long, alias = "wire", value_name = "ENDPOINT", default_value_t)]
    endpoint: Endpoint,
    /// The model to ask for. Without it the server takes the one it has.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// The most tokens to generate [default: 16384, in bench 64].
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) max_tokens: Option<u32>,
    /// Tokens before a stop is heeded [default: the server's, as for all below].
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    min_tokens: Option<u32>,
    /// 0 is greedy.
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Sampling")]
    temperature: Option<f64>,
    /// The share of probability to sample from, up to 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    top_p: Option<f64>,
    /// How many of the best tokens to sample from; -1 for all.
    #[arg(long, value_name = "K", allow_negative_numbers = true, help_heading = "Sampling")]
    top_k: Option<i32>,
    /// The seed of the draw. Below zero, llama.cpp takes one of its own.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Sampling")]
    seed: Option<i64>,
    /// Ids that end the answer, besides the model's own: 151645,151643.
    #[arg(long, value_name = "IDS", value_delimiter = ',', help_heading = "Sampling")]
    stop_token_ids: Vec<TokenId>,

    /// vLLM's priority: lower is earlier.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Request")]
    priority: Option<i32>,
    /// The id by which the server is to know the request.
    #[arg(long, value_name = "ID", help_heading = "Request")]
    pub(crate) request_id: Option<String>,
    /// The key of the session, for routers that keep one on one worker.
    #[arg(long, value_name = "KEY", help_heading = "Request")]
    session: Option<String>,
    /// The header of --session; again for more [default: x-session-affinity].
    #[arg(long = "session-header", value_name = "NAME", help_heading = "Request")]
    session_headers: Vec<String>,
    /// Send --priority in this header and not in the body.
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    priority_header: Option<String>,
    /// The W3C trace context to pass on.
    #[arg(long, value_name = "VALUE", help_heading = "Request")]
    traceparent: Option<String>,
    /// Send the request also to a server that is known to ignore a part of it.
    #[arg(long, alias = "send-anyway", help_heading = "Request")]
    allow_ignored_fields: bool,
    /// Fields merged into the request's body; they win over ours: '{"min_p":0.1}'.
    #[arg(long, value_name = "JSON", help_heading = "Request")]
    extra: Option<String>,
    /// One more header, "Name: value"; again for more.
    #[arg(long = "header", value_name = "K:V", help_heading = "Request")]
    headers: Vec<String>,
    #[command(flatten)]
    client: ClientFlags,
}

/// What concerns the client, whatever it is asked for.
#[derive(clap::Args)]
pub(crate) struct ClientFlags {
    /// The environment variable that holds the API key. A key on the command line could be seen by everybody
    /// on the machine.
    #[arg(long, value_name = "VAR", help_heading = "Request")]
    api_key_env: Option<String>,
    /// Trust these certificate authorities (PEM) for https, in place of the built-in list.
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    ca_file: Option<PathBuf>,

    /// Name lookup, TCP and TLS together [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    connect_timeout: Option<Duration>,
    /// From the request to the first token [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    first_token_timeout: Option<Duration>,
    /// Between tokens: no byte [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    chunk_timeout: Option<Duration>,
    /// Between tokens: no event, whatever else comes to keep the connection [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    content_timeout: Option<Duration>,
    /// After the finish reason: for the usage and the end, which the answer is complete without [default: 5].
    #[arg(long, alias = "tail-timeout", value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    after_finish_timeout: Option<Duration>,
    /// The whole request [default: none].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    deadline: Option<Duration>,

    /// How often a request that failed before its first token is sent again; 0 for never.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = FAILURE)]
    retries: u32,
    /// How many requests are sent to take a stream up again that broke off after tokens, behind the ids it has; 0 for never.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = FAILURE)]
    resume: u32,
    /// Save the request of a stream that fails in this folder, without credentials, for `tokenwire resend`.
    /// At most 32 files and 64 MiB are kept.
    #[arg(long, value_name = "DIR", help_heading = FAILURE)]
    save_failed: Option<PathBuf>,
}

/// The server of a command that asks it one thing.
#[derive(clap::Args)]
pub(crate) struct ServerFlags {
    /// The server, as OpenAI's clients take it: http://127.0.0.1:8000/v1. Without a path, /v1 is added.
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// JSON Lines on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

impl ServerFlags {
    pub(crate) fn client(&self, model: Option<&String>) -> Result<ApiClient, Failure> {
        let builder = self.client.builder(&self.base_url)?;
        Ok(model.into_iter().fold(builder, |builder, model| builder.model(model)).build()?)
    }
}

/// The limits of a client that is to have so many streams.
pub(crate) fn limits(streams: usize) -> Limits {
    let mut limits = Limits::default();
    limits.max_streams = limits.max_streams.max(streams);
    limits.max_idle_connections = limits.max_idle_connections.max(streams);
    limits
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= MAX_SECONDS {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("must be over 0 and at most {MAX_SECONDS} seconds"))
    }
}

impl ClientFlags {
    /// The client for `base_url`, not built yet.
    pub(crate) fn builder(&self, base_url: &str) -> Result<ApiClientBuilder, Failure> {
        let mut timeouts = Timeouts::default();
        timeouts.connect = self.connect_timeout.or(timeouts.connect);
        timeouts.first_token = self.first_token_timeout.or(timeouts.first_token);
        timeouts.chunk = self.chunk_timeout.or(timeouts.chunk);
        timeouts.content = self.content_timeout.or(timeouts.content);
        timeouts.after_finish = self.after_finish_timeout.or(timeouts.after_finish);
        timeouts.deadline = self.deadline.or(timeouts.deadline);

        let mut builder = ApiClient::builder(base_url).timeouts(timeouts);
        builder = builder.retries(self.retries).resumes(self.resume);
        if let Some(folder) = &self.save_failed {
            builder = builder.save_failed(folder);
        }
        if let Some(variable) = &self.api_key_env {
            // Of the two ways to fail, the one that is not Unicode would have the value in its message.
            let key = std::env::var(variable).map_err(|_| {
                Failure::Usage(format!("--api-key-env: the variable {variable:?} is not set, or is no text"))
            })?;
            builder = builder.api_key(key);
        }
        if let Some(file) = &self.ca_file {
            let pem = fs::read(file).map_err(|error| {
                Failure::Usage(format!("--ca-file: cannot read {:?}: {error}", file.display().to_string()))
            })?;
            builder = builder.ca_pem(pem);
        }
        Ok(builder)
    }
}

impl StreamFlags {
    /// The client for `base_url`. Nothing is sent.
    pub(crate) fn client(&self, base_url: &str) -> Result<ApiClient, Failure> {
        Ok(self.builder(base_url)?.build()?)
    }

    /// The same for several servers with one model, not built yet.
    pub(crate) fn builder_for(&self, base_urls: &[String]) -> Result<ApiClientBuilder, Failure> {
        // There is one: clap requires it.
        let first = base_urls.first().map(String::as_str).unwrap_or_default();
        Ok(base_urls.iter().skip(1).fold(self.builder(first)?, ApiClientBuilder::base_url))
    }

    /// The same, not built yet.
    pub(crate) fn builder(&self, base_url: &str) -> Result<ApiClientBuilder, Failure> {
        let mut builder = self.client.builder(base_url)?.endpoint(self.endpoint);
        if let Some(model) = &self.model {
            builder = builder.model(model);
        }
        if !self.session_headers.is_empty() {
            builder = builder.session_headers(&self.session_headers);
        }
        if let Some(name) = &self.priority_header {
            builder = builder.priority_header(name);
        }
        Ok(builder)
    }

    /// How to sample.
    pub(crate) fn sampling(&self) -> SamplingParams {
        let mut sampling = SamplingParams::default();
        sampling.max_tokens = self.max_tokens.or(sampling.max_tokens);
        sampling.min_tokens = self.min_tokens;
        sampling.temperature = self.temperature;
        sampling.top_p = self.top_p;
        sampling.top_k = self.top_k;
        sampling.seed = self.seed;
        sampling.stop_token_ids.clone_from(&self.stop_token_ids);
        sampling
    }

    /// `request` with everything that the flags ask for.
    pub(crate) fn apply_to(&self, request: CompletionRequest) -> Result<CompletionRequest, Failure> {
        let mut request = request.sampling(self.sampling());
        if let Some(priority) = self.priority {
            request = request.priority(priority);
        }
        if let Some(id) = &self.request_id {
            request = request.request_id(id);
        }
        if let Some(key) = &self.session {
            request = request.session(key);
        }
        if let Some(traceparent) = &self.traceparent {
            request = request.traceparent(traceparent);
        }
        if self.allow_ignored_fields {
            request = request.allow_ignored_fields();
        }
        if let Some(extra) = &self.extra {
            let fields: Map<String, Value> = serde_json::from_str(extra)
                .map_err(|error| Failure::Usage(format!("--extra is no JSON object: {error}")))?;
            request = request.extras(fields);
        }
        for header in &self.headers {
            let (name, value) = name_and_value(header)?;
            request = request.header(name, value);
        }
        Ok(request)
    }
}

/// The two parts of a `--header`. Not a parser of clap's: its message would show the value, which may be a
/// credential.
pub(crate) fn name_and_value(header: &str) -> Result<(&str, &str), Failure> {
    let (name, value) = header
        .split_once(':')
        .ok_or_else(|| Failure::Usage("--header wants NAME:VALUE, with a colon".to_owned()))?;
    Ok((name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_fractions_and_bounds() {
        let good = [("0.25", 250), ("30", 30_000), ("1e-3", 1), ("1e9", 1_000_000_000_000)];
        for (text, millis) in good {
            assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["0", "-1", "nan", "inf", "1e10", "", "5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
