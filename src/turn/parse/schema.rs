//! Converts raw text into typed values, using the schemas of the tools (R4 in
//! docs/parsing-rules.md).

use serde_json::{Map, Value};

/// The maximum number of local references in a chain within one schema.
const MAX_REFS: usize = 16;

/// The JSON schemas of the tools, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Schemas(Map<String, Value>);

impl Schemas {
    /// Reads the schemas from a list of tools.
    ///
    /// Each tool is an object with `name` and `parameters`, or an object with both keys under
    /// `function`, as in requests to chat endpoints. `input_schema` is accepted instead of
    /// `parameters`. A tool without a name is ignored.
    pub(super) fn new(tools: &[Value]) -> Self {
        let mut schemas = Map::new();
        for tool in tools {
            let tool = tool.get("function").unwrap_or(tool);
            if let Some(name) = tool.get("name").and_then(Value::as_str) {
                let schema = tool.get("parameters").or_else(|| tool.get("input_schema"));
                schemas.insert(name.to_owned(), schema.cloned().unwrap_or_default());
            }
        }
        Self(schemas)
    }

    /// Returns whether the tool has this parameter, or `None` if the schema does not list the
    /// parameters.
    pub(super) fn takes(&self, tool: &str, parameter: &str) -> Option<bool> {
        let properties = self.0.get(tool)?.get("properties")?.as_object()?;
        Some(properties.contains_key(parameter))
    }

    /// Converts the raw text of a parameter into a value of the type that the schema defines.
    ///
    /// Types other than string are tried first. If no other type fits, or if there is no schema,
    /// the text becomes a string.
    pub(super) fn value(&self, tool: &str, parameter: &str, raw: &str) -> Value {
        self.value_but_string(tool, parameter, raw).unwrap_or_else(|| raw.into())
    }

    /// Converts the value of a parameter in a format with nested tags.
    pub(super) fn element(&self, tool: &str, parameter: &str, element: &Element) -> Value {
        let root = self.0.get(tool).unwrap_or(&Value::Null);
        let schema = root.get("properties").and_then(|properties| properties.get(parameter));
        element_value(root, schema, element)
    }

    fn value_but_string(&self, tool: &str, parameter: &str, raw: &str) -> Option<Value> {
        let root = self.0.get(tool)?;
        raw_value(root, root.get("properties")?.get(parameter)?, raw)
    }
}

/// The content of an element in a format with nested tags.
#[derive(Debug)]
pub(super) enum Element {
    Text(String),
    /// The inner elements by name, and the text between them.
    Inner(Vec<(String, Self)>, String),
}

/// The key for text between the elements of an object.
const MIXED_TEXT: &str = "$text";

/// Converts an element into a value. If there is a schema, it defines the type of the value.
///
/// Elements with the name `item` form a list.
fn element_value(root: &Value, schema: Option<&Value>, element: &Element) -> Value {
    let (inner, text) = match element {
        Element::Text(raw) => {
            let value = schema.and_then(|schema| raw_value(root, schema, raw));
            return value.unwrap_or_else(|| raw.as_str().into());
        }
        Element::Inner(inner, text) => (inner, text),
    };
    let branch = |name| schema.and_then(|schema| branch(root, schema, name, MAX_REFS));
    let (list, object) = (branch("array"), branch("object"));
    let items = inner.iter().all(|(name, _)| name == "item") && text.trim().is_empty();
    if (items && (list.is_some() || object.is_none())) || (list.is_some() && object.is_none()) {
        let schema = list.and_then(|list| list.get("items"));
        return inner.iter().map(|(_, element)| element_value(root, schema, element)).collect();
    }
    let properties = object.and_then(|object| object.get("properties"));
    let mut values = Map::new();
    for (name, element) in inner {
        let schema = properties.and_then(|properties| properties.get(name));
        values.insert(name.clone(), element_value(root, schema, element));
    }
    if !text.trim().is_empty() {
        values.entry(MIXED_TEXT).or_insert_with(|| text.as_str().into());
    }
    values.into()
}

/// Returns the part of a schema that describes values of the type `name`.
fn branch<'a>(root: &'a Value, schema: &'a Value, name: &str, refs_left: usize) -> Option<&'a Value> {
    let left = refs_left.checked_sub(1)?;
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer))?;
        return branch(root, target, name, left);
    }
    let of_type = match schema.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(names)) => names.iter().any(|one| one == name),
        _ => schema.get(if name == "array" { "items" } else { "properties" }).is_some(),
    };
    if of_type {
        return Some(schema);
    }
    let unions = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|union| schema.get(union)?.as_array());
    unions.flatten().find_map(|one| branch(root, one, name, left))
}

/// Converts the text into a value of a type other than string, if `schema` allows this value.
fn raw_value(root: &Value, schema: &Value, raw: &str) -> Option<Value> {
    // Parsing comes first, because it is cheaper than checking the schema, and most texts are not
    // JSON.
    let value: Value = serde_json::from_str(raw).ok()?;
    (!value.is_string() && allows(root, schema, &value, MAX_REFS)).then_some(value)
}

/// Returns whether `schema` allows the type of this value.
///
/// If the schema is a union, one matching branch is sufficient.
fn allows(root: &Value, schema: &Value, value: &Value, refs_left: usize) -> bool {
    let Some(left) = refs_left.checked_sub(1) else { return false };
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.is_some_and(|target| allows(root, target, value, left));
    }
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return true;
    }
    match schema.get("type") {
        Some(Value::String(name)) => return is_a(value, name),
        Some(Value::Array(names)) => {
            return names.iter().filter_map(Value::as_str).any(|name| is_a(value, name));
        }
        _ => {}
    }
    for union in ["anyOf", "oneOf", "allOf"] {
        if let Some(branches) = schema.get(union).and_then(Value::as_array) {
            return branches.iter().any(|branch| allows(root, branch, value, left));
        }
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.contains(value);
    }
    schema.get("const").is_some_and(|only| only == value)
        || (value.is_object() && schema.get("properties").is_some())
        || (value.is_array() && schema.get("items").is_some())
}

/// Returns whether a value has the JSON Schema type `name`.
pub(super) fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        // JSON Schema defines an integer as "any number with a zero fractional part".
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_raw_value_gets_the_type_in_its_schema() {
        let schema = json!({
            "$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}},
            "properties": {
                "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
                "o": {"type": "object"}, "a": {"type": "array"}, "si": {"type": ["string", "integer"]},
                "any": {"anyOf": [{"type": "string"}, {"type": "number"}]}, "sn": {"type": ["string", "null"]},
                "nullable": {"type": "integer", "nullable": true}, "ref": {"$ref": "#/$defs/n"},
                "loop": {"$ref": "#/$defs/loop"}, "enum": {"enum": [1, "a", null]}, "none": {"description": "x"},
                "all": {"allOf": [{"$ref": "#/$defs/n"}]}, "items": {"items": {}},
            },
        });
        let tools =
            Schemas::new(&[json!({"type": "function", "function": {"name": "f", "parameters": schema}})]);
        for (parameter, raw, expected) in [
            ("s", "42", json!("42")),
            ("s", "null", json!("null")),
            ("i", "42", json!(42)),
            ("i", " 42\n", json!(42)),
            ("i", "4.5", json!("4.5")),
            ("i", "4.0", json!(4.0)),
            ("i", "null", json!("null")),
            ("i", "True", json!("True")),
            ("n", "4.5", json!(4.5)),
            ("n", "NaN", json!("NaN")),
            ("b", "true", json!(true)),
            ("b", "1", json!("1")),
            ("o", "{\"a\":1}", json!({"a": 1})),
            ("o", "{\"a\":", json!("{\"a\":")),
            ("a", "[1]", json!([1])),
            ("a", "{}", json!("{}")),
            ("si", "42", json!(42)),
            ("si", "\"42\"", json!("\"42\"")),
            ("si", "x", json!("x")),
            ("any", "1e3", json!(1e3)),
            ("sn", "null", json!(null)),
            ("sn", "none", json!("none")),
            ("nullable", "null", json!(null)),
            ("ref", "1", json!(1)),
            ("loop", "1", json!("1")),
            ("enum", "1", json!(1)),
            ("enum", "2", json!("2")),
            ("enum", "null", json!(null)),
            ("none", "1", json!("1")),
            ("all", "1", json!(1)),
            ("items", "[1]", json!([1])),
            ("unknown", "1", json!("1")),
        ] {
            assert_eq!(tools.value("f", parameter, raw), expected, "{parameter} {raw}");
            assert_eq!(tools.value("g", parameter, raw), json!(raw), "an unknown tool");
        }
    }
}
