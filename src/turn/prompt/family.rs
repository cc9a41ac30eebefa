//! The tables: what each family's chat template puts around turns. Text only; which pieces of it are tokens is said by
//! `tokens` and decided by the tokenizer.
//!
//! Each table states what the model's template renders for system, user and tool-result turns; the strings were
//! taken from rendered templates. Where nothing is known for sure the field is `None`, and asking for it is
//! [`Unsupported`](crate::ErrorKind::Unsupported).

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::turn::parse::dialect::Dialect;

/// What a model family's chat template puts around the turns of a conversation.
///
/// Chosen by name ([`ChatFormat::by_name`]): `qwen3_xml`, `qwen3_coder`, `glm_4_7`, `deepseek_v4` and so on. How the model
/// writes reasoning and calls inside its own turn is the [`Dialect`] that belongs to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChatFormat(&'static Table);

/// A family's table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) dialect: &'static str,
    /// The tokens of this family's structure: where their text stands in this table or in a marker that the model
    /// wrote, it is the token. None is the beginning of another.
    pub(super) tokens: &'static [&'static str],
    /// Before everything.
    pub(super) begin: &'static str,
    /// Around the system text.
    pub(super) system: Option<Frame>,
    /// Around a second system text, where the format has another role for it.
    pub(super) developer: Option<Frame>,
    /// At the beginning of the system turn, when reasoning is on. A prompt without system turn gets an empty one.
    pub(super) system_think: &'static str,
    /// What the template takes for the system text if none is given.
    pub(super) default_system: Option<&'static str>,
    /// Around a user's text.
    pub(super) user: Frame,
    /// Behind a user's text, when reasoning is off.
    pub(super) user_off: &'static str,
    pub(super) results: Option<Results>,
    /// What lets the model speak after a user's turn, and after results.
    pub(super) next: Opening,
    pub(super) next_after_results: Opening,
    /// The markers of reasoning: what the prompt may end with, and what closes it.
    pub(super) think: Option<Frame>,
    /// What stands in place of reasoning that was dropped. `None`: the family keeps it, or it is not known.
    pub(super) dropped: Option<&'static str>,
    /// The end of the model's turn: the token that it samples and what the template puts behind it.
    pub(super) close: &'static str,
    /// The same before results, where the model's turn goes on behind them.
    pub(super) close_before_results: &'static str,
    /// Tokens that end the turn as the token in `close` does: that one is not put behind them.
    pub(super) ends: &'static [&'static str],
    /// Tokens that the model stops at as well: openers of the next turn, the end of the text.
    pub(super) stops: &'static [&'static str],
}

/// What stands before and after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
}

/// A turn of tool results. `{name}` and `{id}` in it are those of the call, `{id:json}` is the id as a JSON string.
#[derive(Debug)]
pub(super) struct Results {
    /// Around all of them.
    pub(super) all: Frame,
    /// Around each.
    pub(super) each: Frame,
    /// Between two. `None`: how several are written is not known.
    pub(super) between: Option<&'static str>,
    pub(super) text: ResultText,
}

/// How the text of a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResultText {
    AsIs,
    /// As a JSON string.
    JsonString,
    /// As it is if it is JSON, else as a JSON string.
    Json,
}

/// The generation prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) head: &'static str,
    /// Behind the head, with reasoning on and off. `None`: this family cannot, or it is not known how.
    pub(super) on: &'static str,
    pub(super) off: Option<&'static str>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Table {}

impl ChatFormat {
    /// The format of this name.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        Self::all().find(|format| format.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            Error::invalid(format!("no chat format is called {name:?}; there are {}", names.join(", ")))
        })
    }

    /// All formats.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().map(|table| Self(table))
    }

    /// The name, as [`by_name`](Self::by_name) takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// How the models of this family write reasoning and calls.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this version has no such dialect: then
    /// [`Dialect::plain`] reads the answer as content.
    pub fn dialect(self) -> Result<Dialect, Error> {
        Dialect::by_name(self.0.dialect)
    }

    /// The system text that the template puts where the caller gives none, if it does so.
    /// [`Context`](super::Context) does not: give it to [`system`](super::Context::system).
    #[must_use]
    pub fn default_system(self) -> Option<&'static str> {
        self.0.default_system
    }

    pub(super) fn table(self) -> &'static Table {
        self.0
    }
}

impl Table {
    /// Whether the token stands around turns. The others stand in what the model writes.
    pub(super) fn is_of_turns(&self, token: &str) -> bool {
        let Self { begin, system, developer, system_think, user, results, close, ends, stops, .. } = self;
        let frames = [system, developer].into_iter().flatten().chain([user]);
        let results = results.iter().flat_map(|results| [&results.all, &results.each]);
        let mut texts = frames.chain(results).flat_map(|frame| [frame.open, frame.close]);
        let heads = [self.next.head, self.next_after_results.head];
        let mut more = [*begin, *system_think, *close].into_iter().chain(heads);
        texts.any(|text| text.contains(token))
            || more.any(|text| text.contains(token))
            || [*ends, *stops].into_iter().flatten().any(|text| *text == token)
    }
}

impl fmt::Debug for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChatFormat").field(&self.name()).finish()
    }
}

// Parts of tables

/// In the order of use.
static FORMATS: &[&Table] = &[
    &QWEN3_XML,
    &QWEN3_CODER,
    &NEMOTRON3,
    &QWEN3,
    &QWEN3_THINKING,
    &QWEN2_5,
    &HERMES3,
    &SMOLLM2,
    &GRANITE4,
    &GEMMA4,
    &KIMI_K2,
    &KIMI_K2_5,
    &GLM_4_6,
    &GLM_4_7,
    &DEEPSEEK_V3_1,
    &DEEPSEEK_V3_2,
    &DEEPSEEK_V4,
    &HARMONY,
    &MISTRAL,
    &MISTRAL_SMALL_3_2,
    &MISTRAL_NEMO,
    &MINIMAX_M2,
    &LLAMA3,
    &COHERE,
    &GRANITE,
    &PHI4,
    &SEED_OSS,
    &PLAIN,
];

const EMPTY: Frame = Frame { open: "", close: "" };

/// What most models write around reasoning.
const THINK: Frame = Frame { open: "<think>", close: "</think>" };

/// A generation prompt that says nothing of reasoning.
const fn head(head: &'static str) -> Opening {
    Opening { head, on: "", off: Some("") }
}

/// Results in turns of their own, one after the other.
const fn one_by_one(open: &'static str, close: &'static str, text: ResultText) -> Results {
    Results { all: EMPTY, each: Frame { open, close }, between: Some(""), text }
}

const CHATML_TOKENS: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
];

const CHATML_HEAD: &str = "<|im_start|>assistant\n";

/// ChatML as Qwen2.5 has it: results share a user's turn, no reasoning.
const CHATML: Table = Table {
    name: "",
    dialect: "hermes",
    tokens: CHATML_TOKENS,
    begin: "",
    system: Some(Frame { open: "<|im_start|>system\n", close: "<|im_end|>\n" }),
    developer: None,
    system_think: "",
    default_system: None,
    user: Frame { open: "<|im_start|>user\n", close: "<|im_end|>\n" },
    user_off: "",
    results: Some(Results {
        all: Frame { open: "<|im_start|>user\n", close: "<|im_end|>\n" },
        each: Frame { open: "<tool_response>\n", close: "\n</tool_response>" },
        between: Some("\n"),
        text: ResultText::AsIs,
    }),
    next: head(CHATML_HEAD),
    next_after_results: head(CHATML_HEAD),
    think: Some(THINK),
    dropped: Some(""),
    close: "<|im_end|>\n",
    close_before_results: "<|im_end|>\n",
    ends: &["<|im_end|>"],
    stops: &["<|endoftext|>"],
};

/// As in Qwen3-Coder and Nemotron-3: a line end behind each result.
const CODER_RESULTS: Results = Results {
    all: Frame { open: "<|im_start|>user\n", close: "<|im_end|>\n" },
    each: Frame { open: "<tool_response>\n", close: "\n</tool_response>\n" },
    between: Some(""),
    text: ResultText::AsIs,
};

// ChatML

const QWEN3_5_NEXT: Opening =
    Opening { head: CHATML_HEAD, on: "<think>\n", off: Some("<think>\n\n</think>\n\n") };

/// Qwen3.5, 3.6, 3.8.
static QWEN3_XML: Table = Table {
    name: "qwen3_xml",
    dialect: "qwen3_xml",
    next: QWEN3_5_NEXT,
    next_after_results: QWEN3_5_NEXT,
    ..CHATML
};

static QWEN3_CODER: Table =
    Table { name: "qwen3_coder", dialect: "qwen3_xml", results: Some(CODER_RESULTS), ..CHATML };

const NEMOTRON3_NEXT: Opening = Opening { head: CHATML_HEAD, on: "<think>\n", off: Some("<think></think>") };

static NEMOTRON3: Table = Table {
    name: "nemotron3",
    dialect: "qwen3_xml",
    results: Some(CODER_RESULTS),
    next: NEMOTRON3_NEXT,
    next_after_results: NEMOTRON3_NEXT,
    dropped: Some("<think></think>"),
    ..CHATML
};

const QWEN3_NEXT: Opening = Opening { head: CHATML_HEAD, on: "", off: Some("<think>\n\n</think>\n\n") };

/// The model opens reasoning itself.
static QWEN3: Table = Table { name: "qwen3", next: QWEN3_NEXT, next_after_results: QWEN3_NEXT, ..CHATML };

const QWEN3_THINKING_NEXT: Opening = Opening { head: CHATML_HEAD, on: "<think>\n", off: None };

/// Qwen3-Thinking-2507, QwQ.
static QWEN3_THINKING: Table = Table {
    name: "qwen3_thinking",
    next: QWEN3_THINKING_NEXT,
    next_after_results: QWEN3_THINKING_NEXT,
    ..CHATML
};

static QWEN2_5: Table = Table { name: "qwen2_5", ..CHATML };

static HERMES3: Table = Table {
    name: "hermes3",
    results: Some(Results {
        all: Frame { open: "<|im_start|>tool\n", close: "<|im_end|>" },
        each: Frame { open: "<tool_response>\n", close: "\n</tool_response>" },
        between: None,
        text: ResultText::AsIs,
    }),
    ..CHATML
};

/// Its template has no tools.
static SMOLLM2: Table = Table {
    name: "smollm2",
    dialect: "plain",
    default_system: Some("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    results: None,
    think: None,
    dropped: None,
    ..CHATML
};

// Granite

const GRANITE_HEAD: &str = "<|start_of_role|>assistant<|end_of_role|>";

/// Granite 3.x. Whether it thinks is said by the system text.
const GRANITE: Table = Table {
    name: "granite",
    dialect: "granite",
    tokens: &[
        "<|start_of_role|>",
        "<|end_of_role|>",
        "<|end_of_text|>",
        "<|tool_call|>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
        "<think>",
        "</think>",
    ],
    system: Some(Frame { open: "<|start_of_role|>system<|end_of_role|>", close: "<|end_of_text|>\n" }),
    user: Frame { open: "<|start_of_role|>user<|end_of_role|>", close: "<|end_of_text|>\n" },
    results: Some(one_by_one("<|start_of_role|>tool<|end_of_role|>", "<|end_of_text|>\n", ResultText::AsIs)),
    next: head(GRANITE_HEAD),
    next_after_results: head(GRANITE_HEAD),
    dropped: None,
    close: "<|end_of_text|>\n",
    close_before_results: "<|end_of_text|>\n",
    ends: &["<|end_of_text|>"],
    stops: &[],
    ..CHATML
};

static GRANITE4: Table = Table {
    name: "granite4",
    dialect: "hermes",
    results: Some(Results {
        all: Frame { open: "<|start_of_role|>user<|end_of_role|>\n", close: "<|end_of_text|>\n" },
        each: Frame { open: "<tool_response>\n", close: "\n</tool_response>" },
        between: None,
        text: ResultText::AsIs,
    }),
    think: None,
    ..GRANITE
};

// Families of their own

/// Behind results the model's turn goes on: no close, no header.
static GEMMA4: Table = Table {
    name: "gemma4",
    dialect: "gemma4",
    tokens: &[
        "<bos>",
        "<|turn>",
        "<turn|>",
        "<|think|>",
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        "<|\"|>",
    ],
    begin: "<bos>",
    system: Some(Frame { open: "<|turn>system\n", close: "<turn|>\n" }),
    system_think: "<|think|>",
    user: Frame { open: "<|turn>user\n", close: "<turn|>\n" },
    results: Some(one_by_one(
        "<|tool_response>response:{name}{value:<|\"|>",
        "<|\"|>}<tool_response|>",
        ResultText::AsIs,
    )),
    next: Opening { head: "<|turn>model\n", on: "", off: Some("<|channel>thought\n<channel|>") },
    next_after_results: head(""),
    think: Some(Frame { open: "<|channel>thought", close: "<channel|>" }),
    close: "<turn|>\n",
    close_before_results: "",
    ends: &["<turn|>"],
    stops: &["<|tool_response>"],
    ..CHATML
};

const KIMI_HEAD: &str = "<|im_assistant|>assistant<|im_middle|>";

/// K2 and K2-Thinking, which opens reasoning itself.
const KIMI_K2: Table = Table {
    name: "kimi_k2",
    dialect: "kimi_k2",
    tokens: &[
        "<|im_system|>",
        "<|im_user|>",
        "<|im_assistant|>",
        "<|im_middle|>",
        "<|im_end|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<think>",
        "</think>",
    ],
    system: Some(Frame { open: "<|im_system|>system<|im_middle|>", close: "<|im_end|>" }),
    default_system: Some("You are a helpful assistant"),
    user: Frame { open: "<|im_user|>user<|im_middle|>", close: "<|im_end|>" },
    results: Some(one_by_one(
        "<|im_system|>{name}<|im_middle|>## Return of {id}\n",
        "<|im_end|>",
        ResultText::AsIs,
    )),
    next: head(KIMI_HEAD),
    next_after_results: head(KIMI_HEAD),
    dropped: None,
    close: "<|im_end|>",
    close_before_results: "<|im_end|>",
    stops: &[],
    ..CHATML
};

const KIMI_K2_5_NEXT: Opening = Opening { head: KIMI_HEAD, on: "<think>", off: None };

static KIMI_K2_5: Table = Table {
    name: "kimi_k2_5",
    default_system: None,
    next: KIMI_K2_5_NEXT,
    next_after_results: KIMI_K2_5_NEXT,
    ..KIMI_K2
};

const GLM_4_6_NEXT: Opening = Opening { head: "<|assistant|>", on: "", off: Some("\n<think></think>") };

/// GLM 4.5 and 4.6. There is no end of the turn: the model samples the opener of the next.
const GLM_4_6: Table = Table {
    name: "glm_4_6",
    dialect: "glm",
    tokens: &[
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "<|endoftext|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<tool_response>",
        "</tool_response>",
    ],
    begin: "[gMASK]<sop>",
    system: Some(Frame { open: "<|system|>\n", close: "" }),
    user: Frame { open: "<|user|>\n", close: "" },
    user_off: "/nothink",
    results: Some(Results {
        all: Frame { open: "<|observation|>", close: "" },
        each: Frame { open: "\n<tool_response>\n", close: "\n</tool_response>" },
        between: Some(""),
        text: ResultText::AsIs,
    }),
    next: GLM_4_6_NEXT,
    next_after_results: GLM_4_6_NEXT,
    dropped: Some("\n<think></think>"),
    close: "",
    close_before_results: "",
    ends: &[],
    stops: &["<|user|>", "<|observation|>", "<|endoftext|>"],
    ..CHATML
};

const GLM_4_7_NEXT: Opening = Opening { head: "<|assistant|>", on: "<think>", off: Some("</think>") };

/// GLM 4.7 and 5: as before, without the line ends.
static GLM_4_7: Table = Table {
    name: "glm_4_7",
    system: Some(Frame { open: "<|system|>", close: "" }),
    user: Frame { open: "<|user|>", close: "" },
    user_off: "",
    results: Some(Results {
        all: Frame { open: "<|observation|>", close: "" },
        each: Frame { open: "<tool_response>", close: "</tool_response>" },
        between: Some(""),
        text: ResultText::AsIs,
    }),
    next: GLM_4_7_NEXT,
    next_after_results: GLM_4_7_NEXT,
    dropped: Some("</think>"),
    ..GLM_4_6
};

const DEEPSEEK_NEXT: Opening = Opening { head: "<｜Assistant｜>", on: "<think>", off: Some("</think>") };

/// Behind results the model goes on directly.
const DEEPSEEK_V3_1: Table = Table {
    name: "deepseek_v3_1",
    dialect: "deepseek_v31",
    tokens: &[
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁outputs▁begin｜>",
        "<｜tool▁outputs▁end｜>",
        "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
        "<｜tool▁sep｜>",
        "｜DSML｜",
    ],
    begin: "<｜begin▁of▁sentence｜>",
    system: Some(EMPTY),
    user: Frame { open: "<｜User｜>", close: "" },
    results: Some(one_by_one("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", ResultText::AsIs)),
    next: DEEPSEEK_NEXT,
    next_after_results: head(""),
    dropped: Some("</think>"),
    close: "<｜end▁of▁sentence｜>",
    close_before_results: "<｜end▁of▁sentence｜>",
    ends: &["<｜end▁of▁sentence｜>"],
    stops: &[],
    ..CHATML
};

static DEEPSEEK_V3_2: Table = Table {
    name: "deepseek_v3_2",
    dialect: "deepseek_dsml",
    results: Some(Results {
        all: Frame { open: "\n\n<function_results>\n", close: "\n</function_results>" },
        each: Frame { open: "<result>", close: "</result>" },
        between: Some("\n"),
        text: ResultText::AsIs,
    }),
    next_after_results: Opening { head: "\n\n", on: "<think>", off: Some("</think>") },
    ..DEEPSEEK_V3_1
};

static DEEPSEEK_V4: Table = Table {
    name: "deepseek_v4",
    dialect: "deepseek_dsml",
    results: Some(Results {
        all: Frame { open: "<｜User｜>", close: "" },
        each: Frame { open: "<tool_result>", close: "</tool_result>" },
        between: Some("\n\n"),
        text: ResultText::AsIs,
    }),
    next_after_results: DEEPSEEK_NEXT,
    ..DEEPSEEK_V3_1
};

const HARMONY_HEAD: &str = "<|start|>assistant";

/// gpt-oss. A final answer keeps its `<|return|>`, which the template would make `<|end|>`: that is the prefix kept.
/// The first system text is the system message, another the developer message.
static HARMONY: Table = Table {
    name: "harmony",
    dialect: "harmony",
    tokens: &[
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
    ],
    system: Some(Frame { open: "<|start|>system<|message|>", close: "<|end|>" }),
    developer: Some(Frame { open: "<|start|>developer<|message|>", close: "<|end|>" }),
    user: Frame { open: "<|start|>user<|message|>", close: "<|end|>" },
    results: Some(one_by_one(
        "<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>",
        "<|end|>",
        ResultText::JsonString,
    )),
    next: head(HARMONY_HEAD),
    next_after_results: head(HARMONY_HEAD),
    think: None,
    dropped: None,
    close: "<|end|>",
    close_before_results: "<|end|>",
    ends: &["<|end|>", "<|call|>", "<|return|>"],
    stops: &[],
    ..CHATML
};

/// Devstral, Ministral 3, Medium 3.x. The model goes on directly, after a user and after results.
const MISTRAL: Table = Table {
    name: "mistral",
    dialect: "mistral",
    tokens: &[
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "[TOOL_CONTENT]",
        "[CALL_ID]",
        "[ARGS]",
        "[THINK]",
        "[/THINK]",
    ],
    begin: "<s>",
    system: Some(Frame { open: "[SYSTEM_PROMPT]", close: "[/SYSTEM_PROMPT]" }),
    user: Frame { open: "[INST]", close: "[/INST]" },
    results: Some(one_by_one("[TOOL_RESULTS]", "[/TOOL_RESULTS]", ResultText::AsIs)),
    next: head(""),
    next_after_results: head(""),
    think: Some(Frame { open: "[THINK]", close: "[/THINK]" }),
    dropped: None,
    close: "</s>",
    close_before_results: "</s>",
    ends: &["</s>"],
    stops: &[],
    ..CHATML
};

static MISTRAL_SMALL_3_2: Table = Table {
    name: "mistral_small_3_2",
    results: Some(one_by_one("[TOOL_RESULTS]{id}[TOOL_CONTENT]", "[/TOOL_RESULTS]", ResultText::AsIs)),
    ..MISTRAL
};

/// It has no system turn: the template puts the system text into the last user's.
static MISTRAL_NEMO: Table = Table {
    name: "mistral_nemo",
    system: None,
    results: Some(one_by_one(
        "[TOOL_RESULTS]{\"content\": ",
        ", \"call_id\": {id:json}}[/TOOL_RESULTS]",
        ResultText::Json,
    )),
    think: None,
    ..MISTRAL
};

const MINIMAX_M2_NEXT: Opening = Opening { head: "]~b]ai\n", on: "<think>\n", off: None };

static MINIMAX_M2: Table = Table {
    name: "minimax_m2",
    dialect: "minimax_m2",
    tokens: &["]~!b[", "]~b]", "[e~[", "<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>"],
    begin: "]~!b[",
    system: Some(Frame { open: "]~b]system\n", close: "[e~[\n" }),
    default_system: Some("You are a helpful assistant."),
    user: Frame { open: "]~b]user\n", close: "[e~[\n" },
    results: Some(Results {
        all: Frame { open: "]~b]tool", close: "[e~[\n" },
        each: Frame { open: "\n<response>", close: "</response>" },
        between: Some(""),
        text: ResultText::AsIs,
    }),
    next: MINIMAX_M2_NEXT,
    next_after_results: MINIMAX_M2_NEXT,
    close: "[e~[\n",
    close_before_results: "[e~[\n",
    ends: &["[e~["],
    stops: &[],
    ..CHATML
};

const LLAMA3_HEAD: &str = "<|start_header_id|>assistant<|end_header_id|>\n\n";

static LLAMA3: Table = Table {
    name: "llama3",
    dialect: "llama3_json",
    tokens: &[
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
    ],
    begin: "<|begin_of_text|>",
    system: Some(Frame { open: "<|start_header_id|>system<|end_header_id|>\n\n", close: "<|eot_id|>" }),
    user: Frame { open: "<|start_header_id|>user<|end_header_id|>\n\n", close: "<|eot_id|>" },
    results: Some(one_by_one(
        "<|start_header_id|>ipython<|end_header_id|>\n\n",
        "<|eot_id|>",
        ResultText::JsonString,
    )),
    next: head(LLAMA3_HEAD),
    next_after_results: head(LLAMA3_HEAD),
    think: None,
    dropped: None,
    close: "<|eot_id|>",
    close_before_results: "<|eot_id|>",
    ends: &["<|eot_id|>", "<|eom_id|>"],
    stops: &[],
    ..CHATML
};

const COHERE_NEXT: Opening = Opening { head: "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", on: "", off: None };

/// Command-R7B and A. The system text is the whole of it, preambles included.
static COHERE: Table = Table {
    name: "cohere",
    dialect: "cohere",
    tokens: &[
        "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|START_TOOL_RESULT|>",
        "<|END_TOOL_RESULT|>",
    ],
    begin: "<BOS_TOKEN>",
    system: Some(Frame { open: "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", close: "<|END_OF_TURN_TOKEN|>" }),
    user: Frame { open: "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", close: "<|END_OF_TURN_TOKEN|>" },
    results: Some(Results {
        all: Frame {
            open: "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[\n",
            close: "\n]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>",
        },
        each: Frame {
            open: "    {\n        \"tool_call_id\": {id:json},\n        \"results\": {\n            \"0\": ",
            close: "\n        },\n        \"is_error\": null\n    }",
        },
        between: Some(",\n"),
        text: ResultText::JsonString,
    }),
    next: COHERE_NEXT,
    next_after_results: COHERE_NEXT,
    think: Some(Frame { open: "<|START_THINKING|>", close: "<|END_THINKING|>" }),
    dropped: None,
    close: "<|END_OF_TURN_TOKEN|>",
    close_before_results: "<|END_OF_TURN_TOKEN|>",
    ends: &["<|END_OF_TURN_TOKEN|>"],
    stops: &[],
    ..CHATML
};

static PHI4: Table = Table {
    name: "phi4",
    dialect: "phi4",
    tokens: &[
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<|endoftext|>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "<|tool_response|>",
    ],
    system: Some(Frame { open: "<|system|>", close: "<|end|>" }),
    user: Frame { open: "<|user|>", close: "<|end|>" },
    results: Some(one_by_one("<|tool_response|>", "<|end|>", ResultText::JsonString)),
    next: head("<|assistant|>"),
    next_after_results: head("<|assistant|>"),
    think: None,
    dropped: None,
    close: "<|end|>",
    close_before_results: "<|end|>",
    ends: &["<|end|>"],
    ..CHATML
};

const SEED_NEXT: Opening = Opening { head: "<seed:bos>assistant\n", on: "", off: None };

/// The model opens reasoning itself; its template keeps it.
static SEED_OSS: Table = Table {
    name: "seed_oss",
    dialect: "seed_oss",
    tokens: &[
        "<seed:bos>",
        "<seed:eos>",
        "<seed:think>",
        "</seed:think>",
        "<seed:tool_call>",
        "</seed:tool_call>",
    ],
    system: Some(Frame { open: "<seed:bos>system\n", close: "<seed:eos>" }),
    user: Frame { open: "<seed:bos>user\n", close: "<seed:eos>" },
    results: Some(one_by_one("<seed:bos>tool\n", "<seed:eos>", ResultText::AsIs)),
    next: SEED_NEXT,
    next_after_results: SEED_NEXT,
    think: Some(Frame { open: "<seed:think>", close: "</seed:think>" }),
    dropped: None,
    close: "<seed:eos>",
    close_before_results: "<seed:eos>",
    ends: &["<seed:eos>"],
    stops: &[],
    ..CHATML
};

/// No template: texts one after the other, as they are.
static PLAIN: Table = Table {
    name: "plain",
    dialect: "plain",
    tokens: &[],
    system: Some(EMPTY),
    user: EMPTY,
    results: None,
    next: head(""),
    next_after_results: head(""),
    think: None,
    dropped: None,
    close: "",
    close_before_results: "",
    ends: &[],
    stops: &[],
    ..CHATML
};

impl fmt::Display for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChatFormat {
    type Err = Error;

    /// As [`by_name`](Self::by_name).
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::by_name(name)
    }
}
