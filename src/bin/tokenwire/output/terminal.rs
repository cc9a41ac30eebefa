//! Makes text from models and servers safe for a terminal.
//!
//! Some characters can move the cursor, colour the screen, set the title, send input as the user or
//! change the writing direction. Each of them becomes a visible sign.
//!
//! Each character is replaced alone, so the result does not depend on how a sequence is split into
//! tokens. Without its ESC or C1 character, no sequence begins, and the other characters of the
//! sequence are plain text.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

/// Returns `text` in a form that is safe to print. Line feeds and tabs stay unchanged.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| sign(c).is_some()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| sign(c).unwrap_or(c)).collect())
}

/// Returns JSON with the same value, in which all these characters are escaped. JSON itself
/// requires escapes only for C0.
pub(crate) fn escaped(json: String) -> String {
    if !json.chars().any(|c| sign(c).is_some()) {
        return json;
    }
    // The characters occur only inside strings, and each of them is one UTF-16 unit.
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match sign(c) {
            Some(_) => text += &format!("\\u{:04x}", u32::from(c)),
            None => text.push(c),
        }
    }
    text
}

/// Returns the visible sign for an unsafe character; `None` for a safe one.
fn sign(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => None,
        // C0: the Unicode block "Control Pictures" has a sign for each of them, in the same order.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('\u{2421}'),
        // The C1 characters include CSI and OSC, each as one character.
        '\u{80}'..='\u{9f}' => Some(char::REPLACEMENT_CHARACTER),
        // These characters change the writing direction, which can make a line look like another
        // text.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some(char::REPLACEMENT_CHARACTER)
        }
        _ => None,
    }
}

/// Returns whether standard error is a terminal that supports cursor movements.
pub(crate) fn stderr_is_one() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::{escaped, harmless};

    const CASES: &[(&str, &str)] = &[
        ("plain\n\ttext \u{1f980} \u{65e5}\u{672c}", "plain\n\ttext \u{1f980} \u{65e5}\u{672c}"),
        ("\x1b[31mred\x1b[0m", "\u{241b}[31mred\u{241b}[0m"),
        ("\x1b]0;title\x07", "\u{241b}]0;title\u{2407}"),
        ("\u{9b}31m \u{9d}0;t\u{9c}", "\u{fffd}31m \u{fffd}0;t\u{fffd}"),
        ("over\rwrite\x08\x7f\0", "over\u{240d}write\u{2408}\u{2421}\u{2400}"),
        ("a\u{202e}b\u{2069}c\u{200f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
        // Joiners stay, because emoji and several scripts need them.
        ("\u{1f469}\u{200d}\u{1f680}", "\u{1f469}\u{200d}\u{1f680}"),
    ];

    #[test]
    fn control_characters_become_signs_at_every_cut() {
        for (text, expected) in CASES {
            let cuts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            for cut in cuts {
                let (one, two) = text.split_at(cut);
                assert_eq!(format!("{}{}", harmless(one), harmless(two)), *expected, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn json_keeps_its_value_and_has_no_control_characters() {
        for (text, _) in CASES {
            let json = escaped(serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), *text);
            assert_eq!(harmless(&json), json, "{text:?}");
        }
    }

    #[test]
    fn no_control_character_is_left() {
        let all: String = ('\0'..='\u{2100}').collect();
        assert!(harmless(&all).chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }
}
