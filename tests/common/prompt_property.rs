//! The property of prompts, for any conversation in any chat format:
//!
//! - A prompt begins with the previous prompt and the ids received, or reports the first turn that
//!   differs, for an allowed reason.
//! - The context contains the ids that it sends.
//! - A failed call changes nothing.
//!
//! A fuzz target calls this function.

use std::sync::Mutex;

use arbitrary::{Arbitrary, Unstructured};
use tokenwire::{
    Branch, ChatFormat, Context, Dialect, Encode, Error, ErrorKind, IdsExact, Inexact, LeafKind, Limit,
    Prefix, ResponseParser, Role, TokenId, WhenInexact,
};

use super::parse_property::PIECES;

#[derive(Debug, Arbitrary)]
struct Talk {
    format: u8,
    reasoning: bool,
    keep_reasoning: bool,
    when_inexact: u8,
    max_context_tokens: Option<u16>,
    /// Selects the tokens of the model family that are in the vocabulary.
    vocabulary: u32,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    System(Text),
    User(Text),
    Result(u8, Text),
    Begin,
    Respond(Vec<Token>, bool),
    Discard,
    /// A typical round: a user's turn, a prompt and a response.
    Round(Text, Vec<Token>),
}

#[derive(Debug, Arbitrary)]
enum Text {
    Piece(u8),
    Marker(u8),
    Any(String),
}

/// A token from the model.
#[derive(Debug, Arbitrary)]
struct Token {
    text: Text,
    id: Id,
}

#[derive(Debug, Arbitrary)]
enum Id {
    Any(TokenId),
    /// The id of a marker. The text may contain this marker or another one.
    Marker(u8),
    None,
}

/// A toy tokenizer. Two equal characters in a row are one token. Any other character is also one
/// token. A marker is one token if it is in the vocabulary.
struct Toy {
    vocabulary: u32,
    names: Mutex<Vec<String>>,
}

const FIRST_MARKER: TokenId = 3_000_000;

impl Encode for Toy {
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
        let mut ids: Vec<(TokenId, usize)> = Vec::new();
        let mut last = None;
        for (at, c) in text.char_indices() {
            if last == Some(c) {
                ids.last_mut().expect("the list is not empty").0 += 1_200_000;
                last = None;
            } else {
                ids.push((c.into(), at));
                last = Some(c);
            }
        }
        Ok(ids)
    }

    fn token(&self, name: &str) -> Option<TokenId> {
        let mut names = self.names.lock().unwrap();
        let place = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        let has = self.vocabulary >> (place % 32) & 1 == 0;
        has.then_some(FIRST_MARKER + place as TokenId)
    }
}

pub(crate) fn prompt(input: &[u8]) {
    let Ok(talk) = Talk::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let formats: Vec<ChatFormat> = ChatFormat::all().collect();
    let format = formats[usize::from(talk.format) % formats.len()];
    let when_inexact = [WhenInexact::Reencode, WhenInexact::Refuse, WhenInexact::Take];
    let mut context = Context::new(format, Toy { vocabulary: talk.vocabulary, names: Mutex::default() })
        .reasoning(talk.reasoning)
        .keep_reasoning(talk.keep_reasoning)
        .when_inexact(when_inexact[usize::from(talk.when_inexact) % 3]);
    if let Some(max) = talk.max_context_tokens {
        context = context.max_context_tokens(max.into());
    }
    let mut state = State {
        talk: &talk,
        dialect: format.dialect().unwrap_or(Dialect::plain()),
        context,
        sent: Vec::new(),
        exact: Vec::new(),
        open: None,
    };
    for step in talk.steps.iter().take(24) {
        state.step(step);
    }
}

struct State<'a> {
    talk: &'a Talk,
    dialect: Dialect,
    context: Context,
    /// The last prompt and its response. The next prompt begins with these ids.
    sent: Vec<TokenId>,
    /// For each turn of the model, true if all its ids are present.
    exact: Vec<(usize, bool)>,
    /// The turn that the model is writing.
    open: Option<usize>,
}

impl State<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::System(text) => self.context.system(self.text(text)),
            Step::User(text) => self.context.user(self.text(text)),
            Step::Result(call, text) => {
                let calls = self.context.turns().iter().rev().find(|turn| turn.role == Role::Assistant);
                let ids: Vec<String> =
                    calls.map_or(Vec::new(), |turn| turn.tool_calls().map(|call| call.id.clone()).collect());
                let id = ids.get(usize::from(*call) % ids.len().max(1)).map_or("no such call", |id| id);
                let before = self.context.turns().to_vec();
                if let Err(error) = self.context.tool_result(id, self.text(text)) {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    assert_eq!(self.context.turns(), before);
                }
            }
            Step::Begin => self.begin(),
            Step::Respond(tokens, exact) => self.respond(tokens, *exact),
            Step::Discard => {
                let responses = |context: &Context| {
                    context.turns().iter().filter(|turn| turn.role == Role::Assistant).count()
                };
                let before = responses(&self.context);
                self.context.discard_response();
                if responses(&self.context) < before {
                    self.open = None;
                    self.exact.retain(|(turn, _)| *turn < self.context.turns().len());
                    self.sent = ids(self.context.turns());
                }
            }
            Step::Round(text, tokens) => {
                self.context.user(self.text(text));
                self.begin();
                self.respond(tokens, true);
            }
        }
    }

    fn begin(&mut self) {
        let Self { talk, context, .. } = self;
        let before = context.turns().to_vec();
        let len = context.len_tokens();
        let prompt = match context.begin_response() {
            Ok(prompt) => prompt,
            Err(error) => {
                assert_eq!(context.turns(), before, "{error}: {talk:?}");
                match error.kind() {
                    ErrorKind::InvalidInput => {
                        assert!(
                            self.open.is_some()
                                || before.last().is_none_or(|turn| turn.role == Role::Assistant)
                        );
                    }
                    ErrorKind::Unsupported => {}
                    ErrorKind::InexactIds => assert_eq!(talk.when_inexact % 3, 1),
                    ErrorKind::Limit(Limit::ContextTokens) => {
                        assert!(len.unwrap() > usize::from(talk.max_context_tokens.unwrap()), "{talk:?}");
                    }
                    _ => panic!("{error}: {talk:?}"),
                }
                return;
            }
        };
        assert_eq!(self.open, None, "{talk:?}");
        assert_eq!(prompt.ids, ids(context.turns()), "{talk:?}");
        assert_eq!(prompt.ids.len(), len.unwrap(), "{talk:?}");
        assert!(talk.max_context_tokens.is_none_or(|max| prompt.ids.len() <= max.into()), "{talk:?}");
        let kept = match prompt.prefix {
            Prefix::Kept => self.sent.len(),
            Prefix::ReasoningDropped { turn } => {
                assert!(!talk.keep_reasoning, "{talk:?}");
                assert!(before[turn].leaves.iter().any(|leaf| leaf.kind == LeafKind::Reasoning), "{talk:?}");
                ids(&before[..turn]).len()
            }
            Prefix::Reencoded { turn } => {
                assert_eq!(talk.when_inexact % 3, 0, "{talk:?}");
                let told = self.exact.iter().any(|(n, exact)| *n == turn && !exact);
                assert!(told || before[turn].ids_missing() > 0, "{talk:?}");
                ids(&before[..turn]).len()
            }
            other => panic!("add {other:?} here"),
        };
        assert_eq!(prompt.ids.get(..kept), self.sent.get(..kept), "{:?} of {talk:?}", prompt.prefix);
        // The texts of earlier turns are unchanged, even if their ids changed.
        for (turn, old) in context.turns().iter().zip(&before) {
            assert_eq!(turn.role, old.role, "{talk:?}");
            // Some families write tool results as JSON strings.
            if matches!(old.role, Role::System | Role::User) {
                assert_eq!(said(turn), said(old), "{talk:?}");
            }
        }
        self.sent = prompt.ids;
        self.open = Some(context.turns().len() - 1);
    }

    fn respond(&mut self, tokens: &[Token], exact: bool) {
        let start = tokenwire::Start::Content;
        let mut parser = ResponseParser::new(self.dialect.clone()).start(start);
        let mut received = Vec::new();
        for token in tokens {
            let id = match token.id {
                Id::Any(id) => Some(id),
                // The id of any marker of the vocabulary. The marker may open a turn, end a turn,
                // or do neither.
                Id::Marker(n) => Some(FIRST_MARKER + TokenId::from(n % 32)),
                Id::None => None,
            };
            received.extend(id);
            parser.push(&self.text(&token.text), id);
        }
        let (branch, _) = parser.finish(None);
        let ids_exact = if exact { IdsExact::Yes } else { IdsExact::No(Inexact::TextWithoutId) };
        if let Some(turn) = self.open.take() {
            self.exact.push((turn, exact));
            self.context.add_response(branch, ids_exact).unwrap();
            self.sent.extend(received);
            assert_eq!(ids(self.context.turns())[..self.sent.len()], self.sent, "{:?}", self.talk);
        } else {
            assert!(self.context.add_response(branch, ids_exact).is_err());
        }
    }

    fn text(&self, text: &Text) -> String {
        let markers = self.dialect.markers();
        match text {
            Text::Piece(n) => PIECES[usize::from(*n) % PIECES.len()].to_owned(),
            Text::Marker(n) if !markers.is_empty() => markers[usize::from(*n) % markers.len()].to_owned(),
            Text::Marker(_) => "<|im_end|>".to_owned(),
            Text::Any(text) => text.clone(),
        }
    }
}

fn ids(turns: &[Branch]) -> Vec<TokenId> {
    turns.iter().flat_map(Branch::ids).collect()
}

/// Returns the text of a turn that the model did not write, without the template.
fn said(turn: &Branch) -> String {
    let is_said = |leaf: &&tokenwire::Leaf| leaf.kind != LeafKind::Marker;
    turn.leaves.iter().filter(is_said).map(|leaf| leaf.text.as_str()).collect()
}
