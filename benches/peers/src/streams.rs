//! Many streams at once into one consumer.

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

/// Name on the command line, name in the table, and the client.
pub const CROWDS: &[(&str, &str, Client)] = &[
    ("raw-hop", "limit: a thread with a raw socket for each, a crossbeam channel", raw_hop),
    ("tokenwire", "**tokenwire**, fan-in", tokenwire),
    ("async-openai", "async-openai, its default runtime", async_openai),
];

fn raw_hop(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let (sender, tokens) = crossbeam_channel::unbounded();
    for _ in 0..CROWD.streams {
        let (sender, base) = (sender.clone(), base.to_owned());
        // The consumer takes all of them.
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

pub const INTRO: &str = "\
1,000 streams of 50 tokens a second each into one consumer; the server makes a step each millisecond, in which 50 streams get a
token. CPU time is all of the client's, its start too, in the run that took the least. The goals: 60 MiB, 11 us.

The goals are missed, by what a thread for each stream costs. In the first row nothing is left of a client but that: each token wakes
its thread, and most of its time is the kernel's, in the switch. The memory is each thread's stack (sending a request with ureq goes
deep into it once, and that stays resident) and ureq's two buffers, which it fills with zeros. A client whose threads
are few pays with latency instead when cores are short.
";

pub fn table(out: &mut String, effort: Effort) -> Result<()> {
    writeln!(out, "| client | CPU us per token | RSS, MiB | latency p50, ms | p99, ms |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    for (name, title, _) in CROWDS {
        let mut runs = Vec::new();
        for _ in 0..effort.times.min(3) {
            let cost = run("crowd", name, crowd::start(CROWD)?)?;
            if cost.tokens != CROWD.streams * CROWD.tokens {
                return Err(format!("{name} gave {} tokens", cost.tokens).into());
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
