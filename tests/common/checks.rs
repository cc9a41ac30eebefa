//! Helpers that run checks: each row of a table, short timers on a busy machine, and samples of
//! long loops.

use std::any::Any;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Runs `check` on each row of a table. It fails after the last row if any row failed, so one run
/// shows all failures.
pub fn each_row<T>(rows: impl IntoIterator<Item = T>, mut check: impl FnMut(T)) {
    let (mut count, mut failures) = (0, Vec::new());
    for row in rows {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(row))) {
            failures.push(format!("row {count}: {}", message(&*panic)));
        }
        count += 1;
    }
    assert!(failures.is_empty(), "{} of {count} rows failed:\n{}", failures.len(), failures.join("\n"));
}

fn message(panic: &dyn Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Runs a check that needs a short timer. On a busy machine, such a timer can expire before the
/// event that the check waits for. A failed check therefore runs again with a timer 5 times as
/// long, then 25 times as long. The last failure counts.
pub fn with_timer(short: Duration, check: impl Fn(Duration)) {
    let passes = |times: u32| catch_unwind(AssertUnwindSafe(|| check(short * times))).is_ok();
    if !passes(1) && !passes(5) {
        check(short * 25);
    }
}

/// Returns whether a long loop runs the iteration with this number. With `TOKENWIRE_FULL=1`, as in
/// `.ci/run`, all iterations run. Otherwise, only every `step`th iteration runs.
pub fn in_sample(number: usize, step: usize) -> bool {
    is_full() || number % step == 0
}

/// Returns the number of runs of a long loop: `full` with `TOKENWIRE_FULL=1`, otherwise `sample`.
pub fn sample_of<T>(sample: T, full: T) -> T {
    if is_full() { full } else { sample }
}

fn is_full() -> bool {
    env::var_os("TOKENWIRE_FULL").is_some_and(|value| value == "1")
}
