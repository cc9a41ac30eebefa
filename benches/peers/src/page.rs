//! The page of tables. Each table is a section that can be measured separately.

use std::fs;

use crate::{Effort, Result, depend, latency, parsers, streams, whole};

struct Section {
    /// The name on the command line.
    name: &'static str,
    title: &'static str,
    intro: &'static str,
    table: fn(&mut String, Effort) -> Result<()>,
}

const SECTIONS: [Section; 6] = [
    Section { name: "whole", title: "Whole clients", intro: whole::INTRO, table: whole::table },
    Section { name: "latency", title: "Latency", intro: latency::INTRO, table: latency::table },
    Section { name: "streams", title: "Many streams", intro: streams::INTRO, table: streams::table },
    Section { name: "parsers", title: "Event parsers", intro: parsers::INTRO, table: parsers::table },
    Section { name: "depend", title: "Cost of depending", intro: depend::INTRO, table: depend::table },
    Section { name: "build", title: "Building", intro: depend::BUILD_INTRO, table: depend::build_table },
];

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/peers.md");

/// Prints the named sections, or all sections if `args` names none.
pub fn make(args: &[&str]) -> Result<()> {
    let (options, names): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| arg.starts_with("--"));
    if let Some(wrong) = names.iter().find(|name| SECTIONS.iter().all(|section| section.name != **name)) {
        return Err(format!("no table is named {wrong}").into());
    }
    let is_quick = options.contains(&"--quick");
    let effort = Effort { times: if is_quick { 1 } else { 5 } };
    // The builds take minutes, and no other table uses them.
    let is_left_out = |section: &Section| is_quick && section.name == "build";
    let wanted = |section: &&Section| match names[..] {
        [] => !is_left_out(section),
        _ => names.contains(&section.name),
    };
    for section in SECTIONS.iter().filter(wanted) {
        let mut text = format!("## {}\n\n{}\n", section.title, section.intro);
        (section.table)(&mut text, effort)?;
        println!("{text}");
        if options.contains(&"--write") {
            fs::write(PAGE, with_section(&fs::read_to_string(PAGE)?, section.title, &text))?;
        }
    }
    Ok(())
}

/// Replaces the section with this title, or appends it to the page.
fn with_section(page: &str, title: &str, text: &str) -> String {
    let (before, from) = match page.split_once(&format!("## {title}\n")) {
        Some((before, from)) => (before, from),
        None => return format!("{}\n\n{text}", page.trim_end()),
    };
    match from.find("\n## ") {
        Some(end) => format!("{before}{text}{}", &from[end..]),
        None => format!("{before}{text}"),
    }
}
