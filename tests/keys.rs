//! Tests that keys are never printed. The tests run the whole fault matrix, and servers that echo
//! the request. They search every log line at trace level, every error with its causes, every
//! `Debug` output and every recording. They are in a separate file because a process has one
//! logger.

#![cfg(feature = "testing")]

#[path = "common/canary.rs"]
#[allow(dead_code, unreachable_pub)]
mod canary;
#[path = "common/fault_run.rs"]
#[allow(dead_code, unreachable_pub)]
mod fault_run;
#[path = "common/faults/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod faults;

use canary::found;
use fault_run::{ECHOED, KEYS, Last, run_all};

#[test]
fn no_key_appears_in_any_output_of_a_stream() {
    let watch = canary::watch(&[KEYS.api, KEYS.header, ECHOED.api, ECHOED.header]);
    let mut leaks = Vec::new();

    for row in run_all(faults::rows::faults(), KEYS) {
        for (over, run) in row.outcomes() {
            let found = found(&run.shown, &[KEYS.api, KEYS.header]);
            if !found.is_empty() {
                leaks.push(format!("{}, {over}: {found:?}", row.fault.name));
            }
        }
    }
    let seen = watch.take();
    leaks.extend(seen.leaks.into_iter().map(|(target, line)| format!("log of {target}: {line}")));
    for target in ["tokenwire", "ureq::", "ureq_proto", "rustls"] {
        assert!(seen.lines.keys().any(|name| name.starts_with(target)), "no line of {target} was captured");
    }

    for key in [ECHOED.api, ECHOED.header] {
        for row in run_all(faults::rows::echoes(key), ECHOED) {
            for (over, run) in row.outcomes() {
                assert!(matches!(run.last, Last::Error(_)), "{}, {over}: {:?}", row.fault.name, run.last);
                let found = found(&run.shown, &[ECHOED.api, ECHOED.header]);
                if !found.is_empty() {
                    leaks.push(format!("{}, {over}: {found:?}", row.fault.name));
                }
            }
        }
    }
    // tokenwire cannot hide what ureq logs of a response: some headers at debug level, all bytes at
    // trace level.
    let ours = watch.take().leaks.into_iter().filter(|(target, _)| target.starts_with("tokenwire"));
    leaks.extend(ours.map(|(target, line)| format!("log of {target}: {line}")));
    assert!(leaks.is_empty(), "{}:\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn every_request_sends_its_keys_to_the_server() {
    for tls in [false, true] {
        let mut builder = tokenwire::testing::MockServer::builder();
        if tls {
            builder = builder.tls(fault_run::certificates().1.clone());
        }
        let server = builder.scripted([faults::good()]).unwrap();
        let client = fault_run::client(&server.url(), fault_run::timeouts(None), KEYS).build().unwrap();
        client.server().unwrap();
        for big in [10, 100_000, 10] {
            assert!(matches!(fault_run::stream(&client, big, KEYS).last, Last::Done));
        }
        assert_eq!(server.connections(), 1, "the second request uses the same connection");
        let bearer = format!("Bearer {}", KEYS.api);
        for request in server.requests() {
            assert_eq!(request.header("authorization"), Some(&*bearer));
            assert_eq!(request.header("x-api-key"), Some(KEYS.header));
            assert_eq!(request.header("x-route-key"), (request.method == "POST").then_some(KEYS.header));
        }
    }
}
