//! Tests that the text of a string in a call's arguments does not end the string, the call, or the
//! part of the turn that contains the call.

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use checks::each_row;
use serde_json::json;
use tokenwire::{Dialect, FinishReason, ResponseParser};

/// A call of `f` in each dialect, with the arguments at `ARGUMENTS`.
const CALLS: &[(&str, &str)] = &[
    ("hermes", "<tool_call>\n{\"name\": \"f\", \"arguments\": ARGUMENTS}\n</tool_call>"),
    ("cohere", "<|START_ACTION|>[{\"tool_name\": \"f\", \"parameters\": ARGUMENTS}]<|END_ACTION|>"),
    ("granite", "<|tool_call|>[{\"name\": \"f\", \"arguments\": ARGUMENTS}]"),
    ("phi4", "functools[{\"name\": \"f\", \"arguments\": ARGUMENTS}]"),
];

const STRINGS: &[&str] = &[
    "}", "}}", "]", "]}", "{", "[", "\"", "\\", "\\\"", "\"}", "\\\"}}", ",", ":", "a\": \"b", "\n", "é}",
    "😀\"", "'",
];

#[test]
fn markers_inside_a_string_end_no_call_at_any_cut() {
    each_row(CALLS, |(dialect, form)| {
        for string in STRINGS {
            let arguments = json!({"s": string, "t": [string, {"u": string}]});
            let text = form.replace("ARGUMENTS", &arguments.to_string());
            for cut in text.char_indices().map(|(at, _)| at) {
                let mut parser = ResponseParser::new(Dialect::by_name(dialect).unwrap());
                let mut calls = parser.push(&text[..cut], Some(1));
                calls.extend(parser.push(&text[cut..], Some(2)));
                let (branch, more) = parser.finish(Some(&FinishReason::Stop));
                calls.extend(more);
                let [call] = &calls[..] else { panic!("{dialect} {text} at {cut}: {branch:?}") };
                assert_eq!((&*call.name, &call.arguments), ("f", &arguments), "{dialect} {text} at {cut}");
                assert_eq!((branch.text(), branch.tool_calls().count()), (text.clone(), 1));
            }
        }
    });
}

#[test]
fn a_value_may_contain_its_own_closing_tag() {
    const OPEN: &str = "<tool_call>\n<function=f>\n<parameter=a>\n";
    const END: &str = "\n</parameter>\n</function>\n</tool_call>";
    // text after the opening markers, value
    let cases = [
        (format!("use </parameter> so{END}"), "use </parameter> so"),
        (format!("x\n  </parameter> is one{END}"), "x\n  </parameter> is one"),
        ("x\n\t</parameter>\n</function>\n</tool_call>".to_owned(), "x"),
        ("x\n  </parameter>  \n</function>\n</tool_call>".to_owned(), "x"),
        (
            format!("</function> and </tool_call> in a sentence{END}"),
            "</function> and </tool_call> in a sentence",
        ),
        (format!("<tool_call> opens one{END}"), "<tool_call> opens one"),
        // The closing tag is missing. The value ends at the first closing tag inside it, or at the
        // end of the function.
        ("see </parameter>\n</function>\n</tool_call>".to_owned(), "see "),
        ("see\n</function>\n</tool_call>".to_owned(), "see"),
    ];
    each_row(&cases, |(rest, value)| {
        let text = format!("{OPEN}{rest}");
        for cut in text.char_indices().map(|(at, _)| at) {
            let mut parser = ResponseParser::new(Dialect::by_name("qwen3_xml").unwrap());
            let mut calls = parser.push(&text[..cut], Some(1));
            calls.extend(parser.push(&text[cut..], Some(2)));
            let (branch, more) = parser.finish(Some(&FinishReason::Stop));
            calls.extend(more);
            let [call] = &calls[..] else { panic!("{text} at {cut}: {branch:?}") };
            assert_eq!(call.arguments, json!({"a": value}), "{text} at {cut}");
            assert_eq!(branch.text(), text);
        }
    });
}
