//! Many streams at once into one consumer.

use std::fmt::Write as _;
use std::sync::mpsc;
use std::thread;

use futures_util::StreamExt;
use tokenwire::{ApiClient, CompletionRequest, Limits, StreamToken, Wire};

use crate::Result;
use crate::clients::{OnToken, async_openai_client, async_openai_request};
use crate::crowd::{self, Crowd};
use crate::measure::{best, run};

const CROWD: Crowd = Crowd { streams: 1_000, tokens: 400, tokens_per_second: 50 };

type Client = fn(&str, OnToken<'_>) -> Result<()>;

/// Name on the command line, name in the table, and the client.
pub const CROWDS: &[(&str, &str, Client)] = &[
    ("tokenwire", "**tokenwire**, fan-in", tokenwire),
    ("async-openai", "async-openai, its default runtime", async_openai),
];

fn tokenwire(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let mut limits = Limits::default();
    limits.streams_max = CROWD.streams;
    let client = ApiClient::builder(base).wire(Wire::Chat).model("m").limits(limits).build()?;
    let (sender, tokens) = crossbeam_channel::unbounded();
    for _ in 0..CROWD.streams {
        let (stream, guard) = client.stream(CompletionRequest::text("Hi"))?;
        let sender = sender.clone();
        thread::Builder::new().stack_size(64<<10).spawn(move || { let _g = guard; for t in stream { sender.send(t).ok(); } })?;
    }
    drop(sender);
    for token in tokens {
        match token {
            StreamToken::Token { text, .. } if !text.is_empty() => on_token(&text),
            StreamToken::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn async_openai(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let client = async_openai_client(base);
    let (sender, tokens) = mpsc::channel();
    let runtime = tokio::runtime::Runtime::new()?;
    for _ in 0..CROWD.streams {
        let (client, sender, request) = (client.clone(), sender.clone(), async_openai_request()?);
        runtime.spawn(async move {
            let mut stream = match client.chat().create_stream(request).await {
                Ok(stream) => stream,
                Err(error) => return sender.send(Err(error)).unwrap_or_default(),
            };
            while let Some(chunk) = stream.next().await {
                // The consumer takes all of them.
                sender.send(chunk).unwrap_or_default();
            }
        });
    }
    drop(sender);
    for chunk in tokens {
        for choice in chunk?.choices {
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                on_token(&text);
            }
        }
    }
    Ok(())
}

pub fn table(out: &mut String, times: usize) -> Result<()> {
    writeln!(out, "| client | CPU us per token | RSS, MiB | latency p50, us | p99, us |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for (name, title, _) in CROWDS {
        let mut costs = (0..times.min(3)).map(|_| run("crowd", name, crowd::start(CROWD)?));
        let tokens = CROWD.streams * CROWD.tokens;
        let mut cost = costs.next().ok_or("no run")??;
        for other in costs {
            let other = other?;
            if other.cpu_ns < cost.cpu_ns {
                cost = other;
            }
        }
        if cost.tokens != tokens {
            return Err(format!("{name} gave {} tokens", cost.tokens).into());
        }
        let cpu = cost.cpu_ns as f64 / tokens as f64 / 1e3;
        let rss = cost.rss_kib as f64 / 1024.0;
        let (p50, p99) = (cost.latency(50)? / 1_000, cost.latency(99)? / 1_000);
        writeln!(out, "| {title} | {cpu:.1} | {rss:.0} | {p50} | {p99} |")?;
    }
    Ok(())
}
