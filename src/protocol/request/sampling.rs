//! How the model is to sample.

use crate::error::Error;
use crate::types::ids::TokenId;

/// How the model is to sample. `None` (or an empty list) sends nothing: the server's default holds.
///
/// ```
/// let params = tokenwire::SamplingParams::default().max_tokens(64).temperature(0.0);
/// assert_eq!(params.max_tokens, Some(64));
/// assert_eq!(params.top_p, None);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SamplingParams {
    /// The most tokens to generate. Default 16,384; `None` lets the server decide (vLLM: the rest of its
    /// context or 16, by version; llama.cpp: no limit). Some count 0 as 1.
    pub max_tokens: Option<u32>,
    /// Tokens before a stop is heeded. llama.cpp has no such thing and ignores it.
    pub min_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f64>,
    /// Nucleus sampling: the share of probability to sample from.
    pub top_p: Option<f64>,
    /// The least probability, relative to the best token's.
    pub min_p: Option<f64>,
    /// How many of the best tokens to sample from; -1 for all (llama.cpp: 0 as well).
    pub top_k: Option<i32>,
    /// Added against tokens that have occurred in the output.
    pub presence_penalty: Option<f64>,
    /// The same, by how often they have.
    pub frequency_penalty: Option<f64>,
    /// A factor against tokens that have occurred, the prompt included; 1 is none. llama.cpp's
    /// `repeat_penalty`.
    pub repetition_penalty: Option<f64>,
    /// The seed of the draw.
    pub seed: Option<i64>,
    /// Strings that end the answer, and are not in its text. The ids keep every token.
    pub stop: Vec<String>,
    /// Ids that end the answer, besides the model's own. llama.cpp ignores them: its stream goes on past one.
    pub stop_token_ids: Vec<TokenId>,
    /// Whether to go on past the model's end token.
    pub ignore_eos: Option<bool>,
    /// Added to the scores of these tokens, each named at most once.
    pub logit_bias: Vec<(TokenId, f64)>,
    /// Whether special tokens are left out of the text; their ids come all the same. Default false, unlike
    /// vLLM's own: markers have to be seen. llama.cpp has no such thing.
    pub skip_special_tokens: bool,
}

macro_rules! setters {
    ($($field:ident: $type:ty,)*) => {
        $(
            /// Sets the field of the same name.
            #[must_use]
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field.into();
                self
            }
        )*
    };
}

impl SamplingParams {
    setters! {
        max_tokens: u32,
        min_tokens: u32,
        temperature: f64,
        top_p: f64,
        min_p: f64,
        top_k: i32,
        presence_penalty: f64,
        frequency_penalty: f64,
        repetition_penalty: f64,
        seed: i64,
        stop: Vec<String>,
        stop_token_ids: Vec<TokenId>,
        ignore_eos: bool,
        logit_bias: Vec<(TokenId, f64)>,
        skip_special_tokens: bool,
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: Some(16_384),
            min_tokens: None,
            temperature: None,
            top_p: None,
            min_p: None,
            top_k: None,
            presence_penalty: None,
            frequency_penalty: None,
            repetition_penalty: None,
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: None,
            logit_bias: Vec::new(),
            skip_special_tokens: false,
        }
    }
}

impl SamplingParams {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let floats = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("repetition_penalty", self.repetition_penalty),
        ];
        for (name, value) in floats {
            if value.is_some_and(|value| !value.is_finite()) {
                return Err(Error::invalid(format!("{name} is not a finite number")));
            }
        }
        let mut biased: Vec<TokenId> = self.logit_bias.iter().map(|(id, _)| *id).collect();
        biased.sort_unstable();
        if let Some(twice) = biased.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(format!("logit_bias names token {} twice", twice[0])));
        }
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some((id, _)) => {
                Err(Error::invalid(format!("the logit_bias of token {id} is not a finite number")))
            }
            None => Ok(()),
        }
    }
}
