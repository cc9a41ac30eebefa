//! Tests the pool under many orders of its threads' steps.
//!
//! The pool catches panics, so it would hide a failed assertion in a job. Jobs therefore record
//! what they observe, and the test checks these records.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex as StdMutex};

use super::*;
use crate::client::threads::sync::channel::unbounded;
use crate::client::threads::sync::shuttle::{Limits, any, check, until};

/// Records the steps of all jobs in a run.
#[derive(Default)]
struct Seen {
    began: StdMutex<Vec<usize>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Seen {
    fn job(self: &Arc<Self>, name: usize) -> impl FnOnce(&ThreadSlot<'_>) + Send + use<> {
        let seen = self.clone();
        move |slot| {
            seen.began.lock().unwrap().push(name);
            seen.most.fetch_max(seen.running.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::yield_now();
            if any(2) == 0 {
                slot.ending();
                slot.ending();
                thread::yield_now();
            }
            seen.running.fetch_sub(1, SeqCst);
            if any(4) == 0 {
                std::panic::resume_unwind(Box::new("a bug"));
            }
        }
    }
}

/// Runs four jobs on one or two threads, and withdraws some of them, while time passes.
fn jobs_withdrawals_and_the_end() {
    let (max_threads, jobs) = (1 + any(2), 4);
    let pool = Arc::new(new_pool(max_threads, WhenFull::Wait));
    let inner = pool.0.clone();
    let time = thread::spawn({
        let inner = inner.clone();
        move || inner.changed.notify_all()
    });
    let seen = Arc::new(Seen::default());
    let mut withdrawing = Vec::new();
    for name in 0..jobs {
        let entry = pool.run(seen.job(name)).unwrap();
        if any(2) == 0 {
            let pool = pool.clone();
            withdrawing.push((name, thread::spawn(move || (pool.withdraw(entry), pool.withdraw(entry)))));
        }
    }
    let mut withdrawn = Vec::new();
    for (name, thread) in withdrawing {
        let (first, second) = thread.join().unwrap();
        assert!(!second, "withdrawn twice, or after it started");
        withdrawn.extend(first.then_some(name));
    }
    if any(2) == 0 {
        // All jobs must run before the pool ends.
        until(|| seen.began.lock().unwrap().len() + withdrawn.len() == jobs);
    }
    drop(pool);
    until(|| inner.lock().threads == 0);
    time.join().unwrap();

    let began = seen.began.lock().unwrap().clone();
    let mut all = [began.clone(), withdrawn].concat();
    all.sort_unstable();
    assert_eq!(all, (0..jobs).collect::<Vec<_>>(), "each runs once or is withdrawn once");
    // Threads take the jobs in order, but two threads may record them in either order.
    for (place, name) in began.iter().enumerate() {
        let overtaken = began[place..].iter().filter(|later| *later < name).count();
        assert!(overtaken < max_threads, "out of order: {began:?}");
    }
    assert!(seen.most.load(SeqCst) <= max_threads, "too many at once");
    let state = inner.lock();
    assert_eq!((state.idle, state.ending, state.waiting.len()), (0, 0, 0));
}

/// Checks that a caller that has seen the end of a job can submit the next job at once.
///
/// At that time, the thread of the first job may still do its cleanup.
fn a_place_whose_end_was_seen_is_free() {
    let pool = new_pool(1, WhenFull::Fail);
    let inner = pool.0.clone();
    let seen = Arc::new(Seen::default());
    for name in 0..3 {
        let (ended, end) = unbounded();
        let mut job = Some(seen.job(name));
        let ran = pool.run(move |slot| {
            slot.ending();
            ended.send(()).unwrap();
            job.take().unwrap()(slot);
        });
        assert!(ran.is_ok(), "job {name} refused");
        end.recv().unwrap();
        // The thread may still be busy, so at most one further job may wait for the thread.
        if any(4) == 0 {
            let (first, second) = (pool.run(seen.job(10)), pool.run(seen.job(10)));
            assert!(first.is_ok());
            until(|| seen.began.lock().unwrap().len() > name + 1 + usize::from(second.is_ok()));
            break;
        }
    }
    drop(pool);
    until(|| inner.lock().threads == 0);
    assert_eq!(seen.most.load(SeqCst), 1);
    assert_eq!(inner.lock().ending, 0);
}

/// Keeps the only thread busy. Meanwhile, jobs wait until they are late or withdrawn.
fn jobs_that_wait_for_too_long() {
    let pool = Arc::new(ReaderPool::new(&limits(1, 9), WhenFull::Wait, Some(Duration::ZERO), Alarms::new()));
    let inner = pool.0.clone();
    let (end, ended) = unbounded::<()>();
    pool.run(move |_| assert!(ended.recv().is_err())).unwrap();
    let late = Arc::new(StdMutex::new(Vec::new()));
    let mut withdrawing = Vec::new();
    for name in 0..3 {
        let late = late.clone();
        let entry = pool.run(move |slot| late.lock().unwrap().push((name, slot.is_late()))).unwrap();
        if any(2) == 0 {
            let pool = pool.clone();
            withdrawing.push((name, thread::spawn(move || pool.withdraw(entry))));
        }
    }
    let mut all: Vec<_> = withdrawing
        .into_iter()
        .filter_map(|(name, thread)| thread.join().unwrap().then_some((name, true)))
        .collect();
    // The thread stays busy, so the alarms must run these jobs.
    until(|| late.lock().unwrap().len() + all.len() == 3);
    all.extend_from_slice(&late.lock().unwrap());
    all.sort_unstable();
    assert_eq!(all, [(0, true), (1, true), (2, true)], "each ends once, late or withdrawn");
    drop((end, pool));
    until(|| inner.lock().threads == 0);
    let state = inner.lock();
    assert_eq!((state.idle, state.ending, state.waiting.len()), (0, 0, 0));
}

/// Runs two jobs. The first job ends only after the second job has acted.
///
/// Both jobs must run, however many threads are idle.
fn two_jobs_that_need_each_other() {
    let pool = new_pool(2, WhenFull::Wait);
    let inner = pool.0.clone();
    pool.run(|_| {}).unwrap();
    let (help, helped) = unbounded();
    pool.run(move |_| helped.recv().unwrap()).unwrap();
    pool.run(move |_| help.send(()).unwrap()).unwrap();
    drop(pool);
    until(|| inner.lock().threads == 0);
}

#[test]
fn an_idle_thread_does_not_keep_a_second_job_waiting() {
    check(Limits::NeverPass, two_jobs_that_need_each_other);
}

#[test]
fn each_job_runs_once_or_is_withdrawn_once_and_all_threads_end() {
    check(Limits::Pass, jobs_withdrawals_and_the_end);
    check(Limits::NeverPass, jobs_withdrawals_and_the_end);
}

#[test]
fn a_job_that_waits_for_too_long_runs_late_once_or_is_withdrawn() {
    // The jobs are late from the start, so the schedule decides when the alarm runs.
    check(Limits::NeverPass, jobs_that_wait_for_too_long);
    check(Limits::Pass, jobs_that_wait_for_too_long);
}

#[test]
fn a_slot_is_free_for_a_caller_that_has_seen_its_job_end() {
    check(Limits::Pass, a_place_whose_end_was_seen_is_free);
}
