//! Finds likely flags for an unknown flag.
//!
//! clap suggests the flag with the most similar spelling, which may be a hidden alias or an
//! unrelated flag: `--trace` for `--stream`. The suggestions here are stricter.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Replaces clap's suggestion in `error` with the likely flags, or removes it.
pub(crate) fn with_likely_flags(mut error: clap::Error, program: &mut clap::Command) -> clap::Error {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(unknown)) if error.kind() == ErrorKind::UnknownArgument => unknown.clone(),
        _ => return error,
    };
    program.build();
    // A flag before the command is not a flag of the command.
    let before = args.iter().take_while(|arg| arg.split('=').next() != Some(unknown.as_str()));
    let named = before.into_iter().find_map(|arg| program.find_subcommand(arg));
    let mut command = named.unwrap_or(program).clone();
    let (typed, flags) = match unknown.strip_prefix("--") {
        Some(name) => (unknown.clone(), likely(name, &command)),
        None => one_dash(&unknown, &args, &command),
    };
    let usage = command.render_usage();
    error.insert(ContextKind::InvalidArg, ContextValue::String(typed));
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    error.remove(ContextKind::SuggestedArg);
    if !flags.is_empty() {
        // clap's other tip is to pass the flag as a value.
        error.remove(ContextKind::Suggested);
        let flags = flags.into_iter().map(|flag| format!("--{flag}")).collect();
        error.insert(ContextKind::SuggestedArg, ContextValue::Strings(flags));
    }
    error
}

/// Finds a long flag that was typed with one dash, such as `-json`. clap reports only its `-j`.
fn one_dash(unknown: &str, args: &[String], command: &clap::Command) -> (String, Vec<String>) {
    let letter = unknown.trim_start_matches('-');
    for arg in args {
        let name = arg.strip_prefix('-').filter(|name| !name.starts_with('-') && name.len() > 2);
        let Some(name) = name.filter(|name| name.contains(letter)) else { continue };
        let name = name.split('=').next().unwrap_or_default();
        let near = nearest(name, command);
        if !near.is_empty() {
            return (format!("-{name}"), near);
        }
    }
    (unknown.to_owned(), Vec::new())
}

/// Returns the flags that differ from `typed` by a typing error, or otherwise the flags that share
/// a word or a beginning with it.
fn likely(typed: &str, command: &clap::Command) -> Vec<String> {
    let near = nearest(typed, command);
    if !near.is_empty() {
        return near;
    }
    let shared = names(command).filter(|(name, _)| shares_words(typed, name)).map(|(_, flag)| flag);
    unique(shared)
}

/// Returns the flags with the smallest edit distance to `typed`, if a typing error can explain it.
fn nearest(typed: &str, command: &clap::Command) -> Vec<String> {
    let typed = typed.to_lowercase().replace('_', "-");
    let allowed = (typed.chars().count() / 4).clamp(1, 3);
    let distances = names(command).map(|(name, flag)| (distance(&typed, &name), flag));
    let close: Vec<(usize, String)> = distances.filter(|(distance, _)| *distance <= allowed).collect();
    let least = close.iter().map(|(distance, _)| *distance).min();
    unique(close.into_iter().filter(|(distance, _)| Some(*distance) == least).map(|(_, flag)| flag))
}

/// Returns each long name of a command's flags, aliases included, with the name in the help.
fn names(command: &clap::Command) -> impl Iterator<Item = (String, String)> + '_ {
    command.get_arguments().filter(|arg| !arg.is_hide_set()).flat_map(|arg| {
        let flag = arg.get_long().unwrap_or_default();
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let names = arg.get_long().into_iter().chain(aliases);
        names.map(|name| (name.to_owned(), flag.to_owned())).collect::<Vec<_>>()
    })
}

fn unique(flags: impl Iterator<Item = String>) -> Vec<String> {
    let mut found = Vec::new();
    for flag in flags {
        if !found.contains(&flag) {
            found.push(flag);
        }
    }
    found
}

/// Returns whether all words of the shorter name are in the longer one, or whether both begin with
/// the same four letters.
fn shares_words(typed: &str, name: &str) -> bool {
    let words = |name: &str| name.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (typed_words, name_words) = (words(typed), words(name));
    let (short, long) = match typed_words.len() <= name_words.len() {
        true => (&typed_words, &name_words),
        false => (&name_words, &typed_words),
    };
    let same = typed.chars().zip(name.chars()).take_while(|(one, other)| one == other).count();
    same >= 4 || short.iter().all(|word| long.contains(word))
}

/// Returns how many letters must be added, removed, replaced or swapped with the next one.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}
