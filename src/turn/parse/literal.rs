//! Builds values from literals in notations other than JSON.
//!
//! [`Lexer`](super::lexer::Lexer) finds the pieces of a literal: strings, words, brackets and
//! separators.

use serde_json::{Map, Value};

use crate::types::tree::Malformed;

/// Builds a value from its pieces.
///
/// The builder stores the open lists and maps, and the kind of piece that may come next.
///
/// The code is not recursive. The nesting is therefore limited by `max_nesting`, not by the size of
/// the stack.
#[derive(Debug)]
pub(super) struct ValueBuilder {
    max_nesting: usize,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    close: u8,
    /// The separator between a key and its value, or `None` in a list.
    separator: Option<u8>,
    key: String,
    fields: Map<String, Value>,
    items: Vec<Value>,
    expect: Expect,
}

/// The kind of piece that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A key, an item of a list, or the end of the map or list. The end may also follow a comma.
    ItemOrEnd,
    /// The separator between key and value.
    Separator,
    /// The value of a key.
    Value,
    CommaOrEnd,
}

impl ValueBuilder {
    pub(super) fn new(max_nesting: usize) -> Self {
        Self { max_nesting, open: Vec::new() }
    }

    /// Returns whether a key or a value may come next.
    pub(super) fn expects_item(&self) -> bool {
        matches!(self.expect(), Expect::ItemOrEnd | Expect::Value)
    }

    /// Returns whether the value of a key comes next.
    pub(super) fn expects_value(&self) -> bool {
        self.open.last().is_some_and(|open| open.expect == Expect::Value)
    }

    fn expect(&self) -> Expect {
        self.open.last().map_or(Expect::Value, |open| open.expect)
    }

    /// Returns whether a key of a map may come next. `separator` is the separator of the map.
    pub(super) fn expects_key(&self, separator: u8) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.separator == Some(separator) && open.expect == Expect::ItemOrEnd)
    }

    /// Begins a list or map that ends with `close`.
    pub(super) fn open(&mut self, close: u8, separator: Option<u8>) -> Result<(), Malformed> {
        let is_key = self.open.last().is_some_and(|open| open.separator.is_some());
        match self.expect() {
            Expect::Value => {}
            Expect::ItemOrEnd if !is_key => {}
            _ => return Err(Malformed::Syntax),
        }
        if self.open.len() >= self.max_nesting {
            return Err(Malformed::TooDeep);
        }
        let (key, fields, items) = (String::new(), Map::new(), Vec::new());
        self.open.push(Open { close, separator, key, fields, items, expect: Expect::ItemOrEnd });
        Ok(())
    }

    /// Processes a comma, or the separator between key and value.
    pub(super) fn separate(&mut self, by: u8) -> Result<(), Malformed> {
        let open = self.open.last_mut().ok_or(Malformed::Syntax)?;
        open.expect = match open.expect {
            Expect::CommaOrEnd if by == b',' => Expect::ItemOrEnd,
            Expect::Separator if Some(by) == open.separator => Expect::Value,
            _ => return Err(Malformed::Syntax),
        };
        Ok(())
    }

    /// Ends a list or map. Returns the whole value if the outermost list or map ended.
    pub(super) fn close(&mut self, close: u8) -> Result<Option<Value>, Malformed> {
        let may_end = matches!(self.expect(), Expect::ItemOrEnd | Expect::CommaOrEnd);
        let closed = self.open.pop().filter(|open| may_end && open.close == close);
        let mut closed = closed.ok_or(Malformed::Syntax)?;
        // Parentheses around one value make a tuple only if a comma follows the value.
        let is_one = close == b')' && closed.items.len() == 1 && closed.expect == Expect::CommaOrEnd;
        let value = match closed.separator {
            Some(_) => Value::Object(closed.fields),
            None if is_one => closed.items.swap_remove(0),
            None => Value::Array(closed.items),
        };
        if self.open.is_empty() {
            return Ok(Some(value));
        }
        self.value(value)?;
        Ok(None)
    }

    /// Processes a value, or a key if a key is expected.
    pub(super) fn value(&mut self, value: Value) -> Result<(), Malformed> {
        let open = self.open.last_mut().ok_or(Malformed::Syntax)?;
        open.expect = match (open.expect, open.separator) {
            (Expect::ItemOrEnd, None) => {
                open.items.push(value);
                Expect::CommaOrEnd
            }
            (Expect::ItemOrEnd, Some(_)) => {
                open.key = match value {
                    Value::String(key) => key,
                    // JSON encoders also write such keys as strings.
                    Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
                    Value::Array(_) | Value::Object(_) => return Err(Malformed::Syntax),
                };
                Expect::Separator
            }
            (Expect::Value, _) => {
                open.fields.insert(std::mem::take(&mut open.key), value);
                Expect::CommaOrEnd
            }
            (Expect::Separator | Expect::CommaOrEnd, _) => return Err(Malformed::Syntax),
        };
        Ok(())
    }
}

/// Reads a number in the notation of JSON or Python.
///
/// Compared with JSON, the following are also allowed: a `+`, `_` between digits, digits on only
/// one side of the point, and other bases.
pub(super) fn number(word: &str) -> Option<Value> {
    if let Ok(number) = serde_json::from_str::<serde_json::Number>(word) {
        return Some(Value::Number(number));
    }
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let inner = unsigned.split('_');
    if unsigned.contains('_') && !inner.clone().all(|part| part.bytes().any(|b| b.is_ascii_hexdigit())) {
        return None;
    }
    let digits: String = inner.collect();
    let sign = if word.starts_with('-') { "-" } else { "" };
    let radix = |radix| {
        let digits = digits[2..].strip_prefix(['+', '-']).map_or(&digits[2..], |_| "");
        i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
    };
    match digits.get(..2) {
        Some("0x" | "0X") => return radix(16).map(Value::from),
        Some("0o" | "0O") => return radix(8).map(Value::from),
        Some("0b" | "0B") => return radix(2).map(Value::from),
        _ => {}
    }
    let plain = format!("{sign}{digits}");
    // `007` is not a number, but `00.5` is a number.
    let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_integer {
        return serde_json::from_str::<serde_json::Number>(&plain).ok().map(Value::Number);
    }
    let number: f64 = plain.parse().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// Decodes the escapes in a string. Returns `None` if an escape is invalid.
pub(super) fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + escape.len_utf8()..];
        let plain = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => escape,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => char::from_u32(hex(&mut rest, 2)?)?,
            'U' => char::from_u32(hex(&mut rest, 8)?)?,
            'u' => match hex(&mut rest, 4)? {
                // JSON writes a character above U+FFFF as two surrogates.
                high @ 0xD800..0xDC00 => {
                    rest = rest.strip_prefix("\\u")?;
                    let low = hex(&mut rest, 4)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + low)?
                }
                code => char::from_u32(code)?,
            },
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let octal = |code, digit: u8| code * 8 + u32::from(digit - b'0');
                let code = rest[..more].bytes().fold(octal(0, escape as u8), octal);
                rest = &rest[more..];
                char::from_u32(code)?
            }
            'N' => return None,
            // Python keeps both characters of an unknown escape.
            other => {
                out.push('\\');
                other
            }
        };
        out.push(plain);
    }
    out.push_str(rest);
    Some(out)
}

/// Removes exactly `digits` hexadecimal digits from the start of `rest` and returns their value.
fn hex(rest: &mut &str, digits: usize) -> Option<u32> {
    let (number, after) = rest.split_at_checked(digits)?;
    if !number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    *rest = after;
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (word, expected) in [
            ("1", json!(1)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("-.5", json!(-0.5)),
            ("5.", json!(5.0)),
            ("00.5", json!(0.5)),
            ("1e3", json!(1e3)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("-0b11", json!(-3)),
            ("0o17", json!(15)),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!(18446744073709551616.0)),
        ] {
            assert_eq!(number(word), Some(expected), "{word}");
        }
        for word in [
            "", "-", "+", ".", "-.", "_1", "1_", "1__0", "007", "0x", "0x-1", "0xg", "1e999", "inf", "nan",
            "1j", "--1", "1.2.3", "é",
        ] {
            assert_eq!(number(word), None, "{word}");
        }
    }

    #[test]
    fn escapes_are_read_as_python_reads_them() {
        for (text, expected) in [
            (r"a\n\t\r\a\b\f\v", "a\n\t\r\u{7}\u{8}\u{c}\u{b}"),
            (r#"\\ \' \""#, r#"\ ' ""#),
            (r"\d \/ \é", r"\d \/ \é"),
            (r"\x41\u00e9\U0001F600", "Aé😀"),
            (r"\ud83d\ude00", "😀"),
            (r"\0 \101 \1011 \18", "\0 A A1 \u{1}8"),
            ("a\\\nb", "ab"),
        ] {
            assert_eq!(unescaped(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            r"\x4",
            r"\xé0",
            r"\u00e",
            r"\ud83d",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\udc00",
            r"\U00110000",
            r"\N{BULLET}",
            r"a\",
        ] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }
}
