//! Runs one conversation with a real llama.cpp server in two ways. The next prompt is built from
//! the ids of the tree, or from text that is encoded again, as in clients that keep no ids.

use std::sync::{Arc, Mutex};

use tokenwire::{
    ApiClient, ChatFormat, CompletionRequest, Context, Endpoint, Error, IdsExact, Prefix, ResponseParser,
    SamplingParams, Special, TokenId, Tokenizer,
};

/// The user's message of each turn.
const SAYS: [&str; 10] = [
    "Hi! Who are you?",
    "Name three colors and say what they remind you of.",
    "Write a short Python function that adds two numbers.",
    "Now write it in C, with a comment.",
    "Tell me a very short story about a cat named Zoë.",
    "What did the cat eat?",
    "List five odd words that nobody uses.",
    "Spell the third one backwards.",
    "Give me a regular expression for e-mail addresses.",
    "Thanks! Say goodbye in three languages.",
];

/// The largest number of tokens that the model writes in a turn.
const MAX_TURN_TOKENS: u32 = 120;

/// One turn of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub prompt_tokens: usize,
    pub received: usize,
    /// True if all ids arrived.
    pub exact: bool,
    /// True if the prompt begins with the previous prompt and the ids received.
    pub kept: bool,
    /// The number of prompt tokens that the server had in its cache.
    pub cached: usize,
    /// The number of prompt tokens that the server evaluated.
    pub evaluated: usize,
    /// The number of evaluated tokens that were already in the previous prompt or response.
    pub anew: usize,
}

/// The way in which the next prompt is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The ids of the tree.
    Ids,
    /// The text of the conversation, encoded as a whole.
    Text,
}

/// Runs the conversation at temperature 1.
///
/// # Panics
///
/// Panics if `Prompt::prefix` reports that the prompt begins with the previous prompt and the ids
/// received, but the prompt does not.
pub fn talk(url: &str, tokenizer: &Tokenizer, seed: i64, way: Way) -> Result<Vec<Row>, Error> {
    let client = ApiClient::builder(url).endpoint(Endpoint::LlamaCpp).build()?;
    let format = ChatFormat::by_name("smollm2")?;
    let context = Arc::new(Mutex::new(Context::new(format, tokenizer.clone())));
    let mut text = String::new();
    let (mut rows, mut before) = (Vec::new(), Vec::new());
    // Each way uses its own slot of the server, so that it does not find the cache of the other
    // way.
    let slot = match way {
        Way::Ids => 0,
        Way::Text => 1,
    };
    for (n, says) in SAYS.iter().enumerate() {
        let prompt = {
            let mut context = context.lock().unwrap();
            if n == 0 {
                context.system(format.default_system().unwrap_or_default());
            }
            context.user(*says);
            context.begin_response()?
        };
        let rendered = context.lock().unwrap().turns().iter().map(|turn| turn.text()).collect::<String>();
        let (ids, kept) = match way {
            Way::Ids => {
                assert_eq!(prompt.ids.starts_with(&before), prompt.prefix == Prefix::Kept, "turn {n}");
                let kept = prompt.prefix == Prefix::Kept;
                (prompt.ids, kept)
            }
            Way::Text => {
                text.clone_from(&rendered);
                let ids = tokenizer.encode(&text, Special::TEMPLATE)?;
                let kept = ids.starts_with(&before);
                (ids, kept)
            }
        };
        let sampling =
            SamplingParams::default().temperature(1.0).seed(seed + n as i64).max_tokens(MAX_TURN_TOKENS);
        let request =
            CompletionRequest::ids(ids.clone()).sampling(sampling).cache_prompt(true).extra("id_slot", slot);
        let (tokens, guard) = client.stream(request)?;
        let parser = ResponseParser::new(format.dialect()?).start(prompt.start);
        let (_, parsing) = parser.run(tokens, context.clone());
        let response = parsing.join()?;
        let report = guard.join();
        context.lock().unwrap().end_response(report.ids_exact);
        let received: Vec<TokenId> = response.branch.ids().skip(prompt_head(&response.branch)).collect();
        let cached = report.usage.and_then(|usage| usage.cached_tokens).unwrap_or_default() as usize;
        let known = before.len().min(ids.len());
        rows.push(Row {
            prompt_tokens: ids.len(),
            received: received.len(),
            exact: report.ids_exact == IdsExact::Yes,
            kept,
            cached,
            evaluated: ids.len() - cached.min(ids.len()),
            anew: known.saturating_sub(cached),
        });
        before = [ids, received].concat();
    }
    Ok(rows)
}

/// Returns the number of ids in the turn's head, which the prompt already contains.
fn prompt_head(branch: &tokenwire::Branch) -> usize {
    branch.leaves.first().map_or(0, |leaf| leaf.ids.len())
}

/// Returns the table of a conversation and its sums.
pub fn table(seed: i64, ids: &[Row], text: &[Row]) -> String {
    let mut out = format!("Seed {seed}:\n\n");
    out.push_str("| turn | ids: prompt | received | exact | prefix | cached | evaluated | text: prompt | received | prefix | cached | evaluated | evaluated again |\n");
    out.push_str(&format!("|{}\n", " --- |".repeat(13)));
    let word = |yes: bool| if yes { "kept" } else { "broken" };
    for (n, (i, t)) in ids.iter().zip(text).enumerate() {
        let exact = if i.exact { "yes" } else { "no" };
        out.push_str(&format!(
            "| {} | {} | {} | {exact} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            n + 1,
            i.prompt_tokens,
            i.received,
            word(i.kept),
            i.cached,
            i.evaluated,
            t.prompt_tokens,
            t.received,
            word(t.kept),
            t.cached,
            t.evaluated,
            t.anew
        ));
    }
    let sum = |rows: &[Row], of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
    let broken = |rows: &[Row]| rows.iter().filter(|row| !row.kept).count();
    out.push_str(&format!(
        "\nBy ids: {} of {} prefixes broken, {} tokens evaluated, {} of them again. By text: {} of {} broken, {} evaluated, {} \
         again.\n",
        broken(ids),
        ids.len(),
        sum(ids, |row| row.evaluated),
        sum(ids, |row| row.anew),
        broken(text),
        text.len(),
        sum(text, |row| row.evaluated),
        sum(text, |row| row.anew),
    ));
    out
}
