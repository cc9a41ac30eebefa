//! The messages of a chat, for servers that build the prompt themselves.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::types::tree::{Branch, LeafKind, Role};

/// One message of a chat: a role with text, images, other parts, tool calls or a tool's result.
///
/// Pass messages to [`CompletionRequest::messages`](crate::CompletionRequest::messages). The server
/// then builds the prompt. tokenwire sends texts, addresses and parts unchanged, and does not fetch
/// or read any address.
///
/// `Debug` shows the kinds of parts and their lengths, but no text.
///
/// ```
/// use tokenwire::Message;
///
/// let question = Message::user("What is on it?").image_url("https://images.example/cat.png");
/// assert_eq!(
///     serde_json::to_value(&question)?,
///     serde_json::json!({"role": "user", "content": [
///         {"type": "text", "text": "What is on it?"},
///         {"type": "image_url", "image_url": {"url": "https://images.example/cat.png"}},
///     ]}),
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[must_use]
pub struct Message {
    role: Role,
    parts: Vec<Part>,
    calls: Vec<Call>,
    call_id: Option<String>,
    extras: Map<String, Value>,
}

/// One part of the content of a message.
#[derive(Clone, PartialEq)]
enum Part {
    Text(String),
    Other(Value),
}

/// A tool call as the model wrote it.
#[derive(Clone, PartialEq)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Message {
    fn new(role: Role) -> Self {
        Self { role, parts: Vec::new(), calls: Vec::new(), call_id: None, extras: Map::new() }
    }

    /// Creates a message with instructions to the model.
    ///
    /// Do not describe tools in this message. Pass them to
    /// [`tools`](crate::CompletionRequest::tools).
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System).text(text)
    }

    /// Creates a message of the user. The user is a person or your program.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User).text(text)
    }

    /// Creates a message of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant).text(text)
    }

    /// Creates a message with the result of a tool call.
    ///
    /// `call_id` is the [`id`](crate::PendingToolCall::id) of the call.
    pub fn tool(call_id: impl Into<String>, text: impl Into<String>) -> Self {
        let mut message = Self::new(Role::Tool).text(text);
        message.call_id = Some(call_id.into());
        message
    }

    /// Adds a piece of text.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Text(text.into()));
        self
    }

    /// Adds an image by its address, `https:` or `data:`. The address is sent unchanged.
    pub fn image_url(self, url: impl Into<String>) -> Self {
        let url: String = url.into();
        self.part(json!({"type": "image_url", "image_url": {"url": url}}))
    }

    /// Adds a part of any other kind, in the server's format.
    ///
    /// Examples are audio, video, or an image with its detail.
    pub fn part(mut self, part: impl Into<Value>) -> Self {
        self.parts.push(Part::Other(part.into()));
        self
    }

    /// Adds a tool call that the model made. `arguments` is the model's own JSON, as a string.
    pub fn tool_call(
        mut self,
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        self.calls.push(Call { id: id.into(), name: name.into(), arguments: arguments.into() });
        self
    }

    /// Adds a field to the message, such as `name` or `reasoning_content`.
    ///
    /// The extra field replaces a field of the same name that the message would write.
    pub fn extra(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extras.insert(key.into(), value.into());
        self
    }

    /// Returns the role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns an estimate of the message's size in JSON, in bytes.
    pub(super) fn len(&self) -> usize {
        let texts = self.parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 64 });
        texts.sum::<usize>() + self.calls.iter().map(|call| call.arguments.len() + 96).sum::<usize>() + 32
    }
}

/// Creates the message for a turn: the content without markers, and the tool calls.
///
/// Reasoning is left out, because most templates require this. If you need the reasoning, add
/// [`Branch::reasoning`] with [`extra`](Message::extra). A turn of tool results needs one message
/// for each result. Create these messages from [`ToolResult`](crate::ToolResult)s.
impl From<&Branch> for Message {
    fn from(branch: &Branch) -> Self {
        let mut message = Self::new(branch.role);
        let mut content = String::new();
        for leaf in &branch.leaves {
            match &leaf.kind {
                LeafKind::Content => content.push_str(leaf.without_markers()),
                LeafKind::ToolCall(call) => {
                    let as_written = serde_json::from_str::<Value>(&call.raw).ok();
                    let is_json = as_written.is_some_and(|raw| raw == call.arguments);
                    let arguments = if is_json { call.raw.clone() } else { call.arguments.to_string() };
                    message.calls.push(Call { id: call.id.clone(), name: call.name.clone(), arguments });
                }
                _ => {}
            }
        }
        if !content.is_empty() || message.calls.is_empty() {
            message.parts.push(Part::Text(content));
        }
        message
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { role, parts, calls, call_id, extras } = self;
        let mut map = serializer.serialize_map(None)?;
        let own = |key: &str| !extras.contains_key(key);
        if own("role") {
            map.serialize_entry("role", role.as_str())?;
        }
        if own("content") {
            match &parts[..] {
                // If a message has only tool calls, its `content` is null.
                [] => map.serialize_entry("content", &())?,
                [Part::Text(text)] => map.serialize_entry("content", text)?,
                parts => map.serialize_entry("content", parts)?,
            }
        }
        if !calls.is_empty() && own("tool_calls") {
            map.serialize_entry("tool_calls", calls)?;
        }
        if let (Some(id), true) = (call_id, own("tool_call_id")) {
            map.serialize_entry("tool_call_id", id)?;
        }
        for (key, value) in extras {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Other(value) => value.serialize(serializer),
            Self::Text(text) => serializer.collect_map([("type", "text"), ("text", text)]),
        }
    }
}

impl Serialize for Call {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { id, name, arguments } = self;
        let function = json!({"name": name, "arguments": arguments});
        json!({"id": id, "type": "function", "function": function}).serialize(serializer)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, parts, calls, call_id, extras } = self;
        let parts = parts.iter().map(|part| match part {
            Part::Text(text) => format!("{} bytes of text", text.len()),
            Part::Other(value) => match value.get("type").and_then(Value::as_str) {
                Some("image_url") => "an image".to_owned(),
                _ => "another part".to_owned(),
            },
        });
        f.debug_struct("Message")
            .field("role", &role.as_str())
            .field("parts", &parts.collect::<Vec<_>>())
            .field("calls", &calls.iter().map(|call| &call.name).collect::<Vec<_>>())
            .field("call_id", call_id)
            .field("extras", &extras.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: &Message) -> Value {
        // The comparison uses the JSON text, because a parsed value would not show a key that was
        // written twice.
        let text = serde_json::to_string(message).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.to_string().len(), text.len(), "{text}");
        value
    }

    #[test]
    fn messages_have_the_format_of_chat_endpoints() {
        let image =
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}});
        let cases = [
            (Message::system("Be brief."), json!({"role": "system", "content": "Be brief."})),
            (Message::user(""), json!({"role": "user", "content": ""})),
            (
                Message::user("a").text("b"),
                json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            ),
            (
                Message::user("see").part(image.clone()),
                json!({"role": "user", "content": [{"type": "text", "text": "see"}, image]}),
            ),
            (
                Message::assistant("One.").tool_call("c1", "add", "{\"a\": 1}"),
                json!({"role": "assistant", "content": "One.", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}},
                ]}),
            ),
            (Message::tool("c1", "3"), json!({"role": "tool", "content": "3", "tool_call_id": "c1"})),
            (
                Message::user("Hi").extra("name", "me").extra("role", "developer"),
                json!({"role": "developer", "content": "Hi", "name": "me"}),
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(written(&message), expected);
        }
    }

    #[test]
    fn debug_shows_no_text() {
        let message = Message::user("canary").image_url("https://h.test/canary").extra("key", "canary");
        let shown = format!("{:?}", message.tool_call("id", "add", "canary"));
        assert!(!shown.contains("canary") && shown.contains("6 bytes of text") && shown.contains("an image"));
    }
}
