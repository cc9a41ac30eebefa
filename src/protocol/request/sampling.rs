//! Sampling parameters.

use crate::error::Error;
use crate::error::macros::{defaults, setters};
use crate::types::ids::TokenId;

defaults! {
    /// Sampling parameters. `None` or an empty list is not sent, so the server's default applies.
    ///
    /// ```
    /// let params = tokenwire::SamplingParams::default().max_tokens(64).temperature(0.0);
    /// assert_eq!(params.max_tokens, Some(64));
    /// assert_eq!(params.top_p, None);
    /// ```
    #[derive(Debug, Clone, PartialEq)]
    #[non_exhaustive]
    #[must_use]
    pub struct SamplingParams {
        /// The maximum number of tokens to generate. Default: 16,384.
        ///
        /// With `None`, the server sets the limit. Depending on its version, vLLM allows the rest
        /// of its context or 16 tokens. llama.cpp has no limit. Some servers treat 0 as 1.
        pub max_tokens: Option<u32> = Some(16_384),
        /// The minimum number of tokens before a stop takes effect. llama.cpp ignores this field.
        pub min_tokens: Option<u32> = None,
        /// The temperature. With 0, the server always takes the most probable token.
        pub temperature: Option<f64> = None,
        /// The total probability of the tokens to sample from (nucleus sampling).
        pub top_p: Option<f64> = None,
        /// The lowest probability of a token, as a fraction of the highest probability.
        pub min_p: Option<f64> = None,
        /// The number of most probable tokens to sample from. -1 means all tokens.
        ///
        /// For llama.cpp, 0 also means all tokens.
        pub top_k: Option<i32> = None,
        /// The penalty for tokens that are already in the output.
        pub presence_penalty: Option<f64> = None,
        /// The penalty for each earlier appearance of a token in the output.
        pub frequency_penalty: Option<f64> = None,
        /// The factor that penalizes tokens already in the prompt or the output. 1 has no effect.
        ///
        /// llama.cpp calls this parameter `repeat_penalty`.
        pub repetition_penalty: Option<f64> = None,
        /// The seed of the random numbers.
        pub seed: Option<i64> = None,
        /// Strings that end the response. They are removed from the text, but their ids are kept.
        pub stop: Vec<String> = Vec::new(),
        /// Ids that end the response, in addition to the model's own end tokens.
        ///
        /// llama.cpp ignores these ids, so its stream continues after such an id.
        pub stop_token_ids: Vec<TokenId> = Vec::new(),
        /// Whether to continue after the model's end token.
        pub ignore_eos: Option<bool> = None,
        /// Values to add to the scores (logits) of tokens. Each token may appear only once.
        pub logit_bias: Vec<(TokenId, f64)> = Vec::new(),
        /// Whether to leave special tokens out of the text. Their ids arrive with either value.
        ///
        /// Default: false, because the parser needs the special tokens. vLLM's own default is true.
        /// llama.cpp has no such field.
        pub skip_special_tokens: bool = false,
    }
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
                return Err(Error::invalid(format!("invalid {name}: expected a finite number")));
            }
        }
        let mut biased: Vec<TokenId> = self.logit_bias.iter().map(|(id, _)| *id).collect();
        biased.sort_unstable();
        if let Some(twice) = biased.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(format!("invalid logit_bias: it contains token {} twice", twice[0])));
        }
        if let Some((id, _)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(Error::invalid(format!(
                "invalid logit_bias of token {id}: expected a finite number"
            )));
        }
        Ok(())
    }
}
