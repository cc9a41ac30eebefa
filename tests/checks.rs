//! Tests of the helpers that run checks in other tests.

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use checks::{each_row, with_timer};

#[test]
fn every_failing_row_of_a_table_is_reported() {
    let panic = catch_unwind(|| each_row(1..=5, |n| assert!(n % 2 == 0, "{n} is odd"))).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(message, "3 of 5 rows failed:\nrow 0: 1 is odd\nrow 2: 3 is odd\nrow 4: 5 is odd");
}

#[test]
fn a_check_with_a_timer_is_retried_and_fails_with_its_last_failure() {
    for (enough, passes, tries) in [(1, true, 1), (5, true, 2), (25, true, 3), (26, false, 3)] {
        let tried = Cell::new(0);
        let check = |timer: Duration| {
            tried.set(tried.get() + 1);
            assert!(timer.as_secs() >= enough, "too short");
        };
        let result = catch_unwind(AssertUnwindSafe(|| with_timer(Duration::from_secs(1), check)));
        assert_eq!((result.is_ok(), tried.get()), (passes, tries), "{enough}");
    }
}
