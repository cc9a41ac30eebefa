//! The table of many concurrent streams with one consumer.

use std::fmt::Write as _;
use std::sync::mpsc;
use std::thread;

use futures_util::StreamExt;
use tokenwire::{ApiClient, CompletionRequest, Limits, StreamToken, Endpoint};

use crate::clients::{OnToken, async_openai_client, async_openai_request, raw};
use crate::crowd::{self, Crowd};
use crate::measure::run;
use crate::{Effort, Result};

const CROWD: Crowd = Crowd { streams: 1_000, tokens: 400, tokens_per_second: 50 };

type Client = fn(&str, OnToken<'_>) -> Result<()>;

/// The name on the command line, the name in the table, and the client.
pub const CROWDS: &[(&str, &str, Client)] = &[
    ("raw-hop", "limit: one thread with a raw socket per stream, a crossbeam channel", raw_hop),
    ("tokenwire", "**tokenwire**, fan-in", tokenwire),
    ("async-openai", "async-openai, default runtime", async_openai),
];

fn raw_hop(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let (sender, tokens) = crossbeam_channel::unbounded();
    for _ in 0..CROWD.streams {
        let (sender, base) = (sender.clone(), base.to_owned());
        // A send cannot fail: the consumer receives all tokens.
        let read = move || raw(&base, &mut |text| sender.send(text.to_owned()).unwrap_or_default()).is_ok();
        thread::Builder::new().stack_size(128 << 10).spawn(read)?;
    }
    drop(sender);
    tokens.iter().for_each(|text: String| on_token(&text));
    Ok(())
}

fn tokenwire(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let mut limits = Limits::default();
    limits.max_streams = CROWD.streams;
    let client = ApiClient::builder(base).endpoint(Endpoint::Chat).model("m").limits(limits).build()?;
    let (channel, tokens) = tokenwire::fan_in();
    let begin = |n| client.stream_into(CompletionRequest::text("Hi"), &channel, n);
    let guards = (0..CROWD.streams as u64).map(begin).collect::<std::result::Result<Vec<_>, _>>()?;
    drop(channel);
    for tagged in tokens {
        match tagged.token {
            Some(StreamToken::Token { text, .. }) if !text.is_empty() => on_token(&text),
            Some(StreamToken::Error(error)) => return Err(error.into()),
            _ => {}
        }
    }
    drop(guards);
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
                // A send cannot fail: the consumer receives all tokens.
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

pub const INTRO: &str = "\
1,000 streams of 50 tokens a second each go to one consumer. The server makes one step each
millisecond, and 50 streams get a token in each step. CPU time is all CPU time of the client, with
its start, in the cheapest run. The goals are 60 MiB and 11 us.

tokenwire misses both goals because of the cost of one thread for each stream. The first row is a
client with nothing but these threads. Each token wakes its thread, and most of the time is spent in
the kernel, in the context switch. The memory consists of the stack of each thread and of ureq's two
buffers. Sending a request with ureq uses a deep stack once, and this memory stays resident. ureq
fills its buffers with zeros. A client with few threads has a higher latency instead when cores are
scarce.
";

pub fn table(out: &mut String, effort: Effort) -> Result<()> {
    writeln!(out, "| client | CPU us per token | RSS, MiB | latency p50, ms | p99, ms |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for (name, title, _) in CROWDS {
        let mut runs = Vec::new();
        for _ in 0..effort.times.min(3) {
            let cost = run("crowd", name, crowd::start(CROWD)?)?;
            if cost.tokens != CROWD.streams * CROWD.tokens {
                return Err(format!("{name} returned {} tokens", cost.tokens).into());
            }
            runs.push(cost);
        }
        let cost = runs.into_iter().min_by_key(|cost| cost.cpu_ns).ok_or("no run")?;
        let (cpu, rss) = (cost.cpu_ns as f64 / cost.tokens as f64 / 1e3, cost.rss_kib as f64 / 1024.0);
        let (p50, p99) = (cost.latency(50)? as f64 / 1e6, cost.latency(99)? as f64 / 1e6);
        writeln!(out, "| {title} | {cpu:.1} | {rss:.0} | {p50:.1} | {p99:.1} |")?;
    }
    Ok(())
}
