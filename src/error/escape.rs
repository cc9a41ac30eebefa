//! Escapes text from outside so that it can be printed.

/// Escapes `text` for a log line or a message.
///
/// Control characters (C0, C1, DEL) and the Unicode marks that change the writing direction become
/// escapes. The result has at most `max_chars` characters, plus a final `…` if the text was cut.
pub(crate) fn printable(text: &str, max_chars: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max_chars));
    let mut left = max_chars;
    for c in text.chars() {
        let turns_direction = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let escape = (c.is_control() || turns_direction).then(|| c.escape_default());
        let Some(after) = left.checked_sub(escape.as_ref().map_or(1, ExactSizeIterator::len)) else {
            out.push('…');
            break;
        };
        left = after;
        match escape {
            Some(escape) => out.extend(escape),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        assert_eq!(printable("a\u{1b}[31mb\u{9b}c\u{202e}d", 100), "a\\u{1b}[31mb\\u{9b}c\\u{202e}d");
        assert_eq!(printable("äöü", 2), "äö…");
        // All characters of an escape count, and an escape is never cut.
        assert_eq!(printable("\u{1b}\u{1b}", 12), "\\u{1b}\\u{1b}");
        assert_eq!(printable("\u{1b}\u{1b}", 11), "\\u{1b}…");
        assert_eq!(printable("\n\n", 1), "…");
    }
}
