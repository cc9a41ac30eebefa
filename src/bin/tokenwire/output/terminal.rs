//! Model text on a terminal: everything that could move the cursor, colour the screen, set the title, answer
//! for the user or turn the writing direction becomes a sign that can be seen.
//!
//! Each character is judged alone, so that a sequence cut into tokens in whatever way comes out the same:
//! without its ESC (or C1) no sequence begins, and the rest of it is plain text.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

/// `text` as it may be printed. Line feed and tab stay as they are.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| sign(c).is_some()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| sign(c).unwrap_or(c)).collect())
}

/// A line of JSON with the same value, in which those characters are written as escapes. JSON itself asks that only of C0.
pub(crate) fn escaped(json: String) -> String {
    if !json.chars().any(|c| sign(c).is_some()) {
        return json;
    }
    // They can stand only inside of strings, and each of them is one UTF-16 unit.
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match sign(c) {
            Some(_) => text += &format!("\\u{:04x}", u32::from(c)),
            None => text.push(c),
        }
    }
    text
}

/// What stands for a character that is not printed.
fn sign(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => None,
        // C0: the "control pictures" block has a sign for each, at the same distance.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('\u{2421}'),
        // C1: among them CSI and OSC in one character.
        '\u{80}'..='\u{9f}' => Some(char::REPLACEMENT_CHARACTER),
        // What turns the writing direction, and can make a line read otherwise than it is.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some(char::REPLACEMENT_CHARACTER)
        }
        _ => None,
    }
}

/// Whether a person sees standard error, on something that understands cursor movements.
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
        // Joiners are no controls: emoji and several scripts need them.
        ("\u{1f469}\u{200d}\u{1f680}", "\u{1f469}\u{200d}\u{1f680}"),
    ];

    #[test]
    fn controls_become_signs_at_every_cut() {
        for (text, expected) in CASES {
            let cuts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            for cut in cuts {
                let (one, two) = text.split_at(cut);
                assert_eq!(format!("{}{}", harmless(one), harmless(two)), *expected, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn json_keeps_its_value_and_has_no_control() {
        for (text, _) in CASES {
            let json = escaped(serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), *text);
            assert_eq!(harmless(&json), json, "{text:?}");
        }
    }

    #[test]
    fn no_control_is_left() {
        let all: String = ('\0'..='\u{2100}').collect();
        assert!(harmless(&all).chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }
}
