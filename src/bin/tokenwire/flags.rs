//! The flags that several commands share, and the clients and requests built from them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, Limits, SamplingParams, Timeouts, TokenId,
};

use crate::exit::Failure;

/// The longest time that a timer accepts, in seconds: about thirty years.
const MAX_SECONDS: f64 = 1e9;

/// The largest number of streams at a time. Each stream takes two threads and a connection.
pub(crate) const MAX_STREAMS: i64 = 4096;

const FAILURE: &str = "After a failure";
const TIMERS: &str = "Timers, in seconds (fractions allowed)";

#[derive(clap::Args)]
pub(crate) struct StreamFlags {
    /// Print JSON Lines on standard output.
    #[arg(long)]
    pub(crate) json: bool,

    /// The endpoint and the format of its chunks: auto, openai, chat, llamacpp, vllm-generate,
    /// sglang or tgi. `auto` sends to /v1/completions and detects the format from the first chunk.
    /// `chat` sends --prompt as the user's message, or the "messages" of --extra.
    #[arg(long, alias = "wire", value_name = "ENDPOINT", default_value_t)]
    endpoint: Endpoint,
    /// The name of the model. Without this option, most servers use the model that they serve.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Maximum number of tokens to generate [default: 16384; 64 in bench].
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) max_tokens: Option<u32>,
    /// Minimum number of tokens before a stop token ends the answer. This option and the sampling
    /// options below default to the server's values.
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    min_tokens: Option<u32>,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Sampling")]
    temperature: Option<f64>,
    /// Sample from the most likely tokens whose probabilities add up to P, at most 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    top_p: Option<f64>,
    /// Sample from the K most likely tokens; -1 means all.
    #[arg(long, value_name = "K", allow_negative_numbers = true, help_heading = "Sampling")]
    top_k: Option<i32>,
    /// Seed for sampling. If N is negative, llama.cpp picks a seed.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Sampling")]
    seed: Option<i64>,
    /// Additional token ids that end the answer, such as 151645,151643.
    #[arg(long, value_name = "IDS", value_delimiter = ',', help_heading = "Sampling")]
    stop_token_ids: Vec<TokenId>,

    /// Priority for vLLM, which serves lower numbers first.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Request")]
    priority: Option<i32>,
    /// Id of the request, sent in the header x-request-id.
    #[arg(long, value_name = "ID", help_heading = "Request")]
    pub(crate) request_id: Option<String>,
    /// Session key, for routers that keep a session on one worker.
    #[arg(long, value_name = "KEY", help_heading = "Request")]
    session: Option<String>,
    /// Header for --session; repeat it for more headers [default: x-session-affinity].
    #[arg(long = "session-header", value_name = "NAME", help_heading = "Request")]
    session_headers: Vec<String>,
    /// Send --priority in this header instead of the body.
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    priority_header: Option<String>,
    /// W3C trace context to send with the request.
    #[arg(long, value_name = "VALUE", help_heading = "Request")]
    traceparent: Option<String>,
    /// Send the request even if the server is known to ignore a part of it.
    #[arg(long, alias = "send-anyway", help_heading = "Request")]
    allow_ignored_fields: bool,
    /// JSON object of fields to add to the request's body, such as '{"min_p":0.1}'. They replace
    /// fields that tokenwire sets.
    #[arg(long, value_name = "JSON", help_heading = "Request")]
    extra: Option<String>,
    /// Additional header; repeat it for more headers.
    #[arg(long = "header", value_name = "NAME:VALUE", help_heading = "Request")]
    headers: Vec<String>,
    #[command(flatten)]
    client: ClientFlags,
}

/// Flags of the client, for any kind of request.
#[derive(clap::Args)]
pub(crate) struct ClientFlags {
    /// Environment variable that holds the API key. Every user of the machine could see a key on
    /// the command line.
    #[arg(long, value_name = "VAR", help_heading = "Request")]
    api_key_env: Option<String>,
    /// Trust the certificate authorities in this PEM file for https, instead of the built-in list.
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    ca_file: Option<PathBuf>,

    /// Longest time for name lookup, TCP and TLS together [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    connect_timeout: Option<Duration>,
    /// Longest time from the request to the first token [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    first_token_timeout: Option<Duration>,
    /// Longest time without a byte between tokens [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    chunk_timeout: Option<Duration>,
    /// Longest time without an event between tokens, even if the server sends keep-alive comments
    /// [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    content_timeout: Option<Duration>,
    /// Longest time from the finish reason to the end of the stream. When it expires, the answer is
    /// complete, but its usage may be missing [default: 5].
    #[arg(long, alias = "tail-timeout", value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    after_finish_timeout: Option<Duration>,
    /// Longest time for the whole request [default: none].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = TIMERS)]
    deadline: Option<Duration>,

    /// Maximum number of retries for a request that fails before its first token; 0 means none.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = FAILURE)]
    retries: u32,
    /// Maximum number of requests to resume a stream that breaks after its first token; 0 means
    /// none. Each request continues after the ids received.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = FAILURE)]
    resume: u32,
    /// Save the request of a failed stream in this folder, without credentials, for `tokenwire
    /// resend`. The folder keeps at most 32 files and 64 MiB.
    #[arg(long, value_name = "DIR", help_heading = FAILURE)]
    save_failed: Option<PathBuf>,
}

/// Flags of commands that send one request to one server.
#[derive(clap::Args)]
pub(crate) struct ServerFlags {
    /// The server's base URL, such as http://127.0.0.1:8000/v1. A URL without a path gets /v1.
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// Print JSON Lines on standard output.
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

/// Returns limits that allow this number of streams at a time.
pub(crate) fn limits(streams: usize) -> Limits {
    let mut limits = Limits::default();
    limits.max_streams = limits.max_streams.max(streams);
    limits.max_idle_connections = limits.max_idle_connections.max(streams);
    limits
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= MAX_SECONDS {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("expected more than 0 and at most {MAX_SECONDS} seconds"))
    }
}

impl ClientFlags {
    /// Returns a builder of a client for `base_url`.
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
            // The error's own message is not used: it may contain the value of the variable.
            let key = std::env::var(variable).map_err(|_| {
                Failure::Usage(format!(
                    "invalid --api-key-env: the variable {variable:?} is not set or is not Unicode"
                ))
            })?;
            builder = builder.api_key(key);
        }
        if let Some(file) = &self.ca_file {
            let pem = fs::read(file).map_err(|error| {
                Failure::Usage(format!(
                    "invalid --ca-file: cannot read {:?}: {error}",
                    file.display().to_string()
                ))
            })?;
            builder = builder.ca_pem(pem);
        }
        Ok(builder)
    }
}

impl StreamFlags {
    /// Returns the client for `base_url`. Sends nothing.
    pub(crate) fn client(&self, base_url: &str) -> Result<ApiClient, Failure> {
        Ok(self.builder(base_url)?.build()?)
    }

    /// Returns a builder of a client for several servers with one model.
    pub(crate) fn builder_for(&self, base_urls: &[String]) -> Result<ApiClientBuilder, Failure> {
        // There is at least one URL, because clap requires the flag.
        let first = base_urls.first().map(String::as_str).unwrap_or_default();
        Ok(base_urls.iter().skip(1).fold(self.builder(first)?, ApiClientBuilder::base_url))
    }

    /// Returns a builder of a client for `base_url` with the flags of this command.
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

    /// Returns the sampling parameters.
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

    /// Applies all flags to `request`.
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
            let fields: Map<String, Value> = serde_json::from_str(extra).map_err(|error| {
                Failure::Usage(format!("invalid --extra: expected a JSON object: {error}"))
            })?;
            request = request.extras(fields);
        }
        for header in &self.headers {
            let (name, value) = name_and_value(header)?;
            request = request.header(name, value);
        }
        Ok(request)
    }
}

/// Splits the value of a `--header` flag into the header's name and value.
///
/// clap does not parse this flag: its message would show the value, which may be a credential.
pub(crate) fn name_and_value(header: &str) -> Result<(&str, &str), Failure> {
    let (name, value) = header
        .split_once(':')
        .ok_or_else(|| Failure::Usage("invalid --header: expected NAME:VALUE, found no colon".to_owned()))?;
    Ok((name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_accept_fractions_between_their_bounds() {
        let good = [("0.25", 250), ("30", 30_000), ("1e-3", 1), ("1e9", 1_000_000_000_000)];
        for (text, millis) in good {
            assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["0", "-1", "nan", "inf", "1e10", "", "5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
