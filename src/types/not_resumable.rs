//! The reasons why a broken stream is not resumed.

use super::ids::Inexact;

/// The reason why a broken stream was not resumed.
///
/// [`allow_inexact_resume`](crate::CompletionRequest::allow_inexact_resume) accepts some of these
/// reasons. The stream is then resumed, although the result may differ from an uninterrupted
/// stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NotResumable {
    /// The prompt is text.
    ///
    /// A resume would send the ids of the prompt, followed by the ids received. The ids of a text
    /// prompt are not known.
    #[error("the prompt is text, so its ids are not known")]
    TextPrompt,
    /// The endpoint does not accept ids (chat, TGI).
    #[error("the endpoint does not accept ids")]
    Endpoint,
    /// The request is a saved request that was sent again.
    ///
    /// [`ApiClient::resend`](crate::ApiClient::resend) sends such requests.
    ///
    /// The bytes of a saved request are sent unchanged. They are not parsed.
    #[error("a saved request cannot be changed")]
    Resent,
    /// Ids are missing, or text arrived without ids.
    #[error("the ids are not exact: {0}")]
    InexactIds(Inexact),
    /// The request has more than one choice.
    #[error("more than one choice was requested")]
    SeveralChoices,
    /// The request echoes the prompt, and a resume would echo the prompt again.
    #[error("the prompt is echoed")]
    Echo,
    /// The response comes from a LiteLLM proxy, which sends `x-litellm-` headers.
    ///
    /// LiteLLM adds a finish reason that its server did not send, so a stream that looks complete
    /// may not be complete.
    #[error("a LiteLLM proxy answers, and its finish reasons may be false")]
    LiteLlm,
    /// The last id arrived without text, so it may be the model's end token.
    ///
    /// This happens with a server that reports the end in a separate event (llama.cpp). Nothing may
    /// be requested after an end token. Only a greedy request can request the last token again.
    #[error("the last id arrived without text and may be the end token")]
    MayHaveEnded,
    /// A grammar or schema would start again in the middle of the answer.
    ///
    /// `allow_inexact_resume` accepts this reason.
    #[error("a grammar or schema would start again")]
    StructuredOutput,
    /// A penalty counts the output separately from the prompt.
    ///
    /// `allow_inexact_resume` accepts this reason. llama.cpp's penalties and vLLM's
    /// `repetition_penalty` count the output and the prompt together, so a resume stays exact.
    #[error("a penalty counts the output separately from the prompt")]
    Penalty,
    /// The server held text back for stop strings, and this text is lost.
    ///
    /// This applies to vLLM and to unknown servers. `allow_inexact_resume` accepts this reason,
    /// because the ids are not affected.
    #[error("the server held text back for stop strings")]
    StopStrings,
    /// An extra field with this name does not allow a resume.
    ///
    /// A resume would have to change the field, or the field counts the output separately from the
    /// prompt. `allow_inexact_resume` accepts this reason only for a field that counts separately.
    #[error("the extra field {0} would have to change, or counts the output separately")]
    Field(&'static str),
    /// [`ResumePolicy::max_resumes`](crate::ResumePolicy::max_resumes) was reached.
    #[error("the stream was resumed as often as the policy allows")]
    UsedUp,
    /// The client's retry [`budget`](crate::RetryPolicy::budget) is empty.
    #[error("the client's retry budget is empty")]
    Budget,
    /// The wait before the resume would have exceeded the deadline.
    #[error("the wait would exceed the deadline")]
    Deadline,
}

impl NotResumable {
    /// Returns whether `allow_inexact_resume` can accept this reason.
    pub(crate) fn is_acceptable(self) -> bool {
        matches!(self, Self::StructuredOutput | Self::Penalty | Self::StopStrings | Self::Field(_))
    }
}
