//! Idle servers use no processor time. The test measures real time, as there is no event to wait
//! for: its absence is the promise.

#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use kvs_testkit::{Driver, TestEnv};

/// The time for which the servers are idle.
const IDLE: Duration = Duration::from_secs(10);

/// The clock ticks (1/100 s) that the servers may use in this time.
const ALLOWED: u64 = 2;

#[test]
fn idle_servers_with_ten_applications_use_no_processor_time() {
    let env = TestEnv::start();
    let apps: Vec<Driver> = (0..10).map(|_| env.driver()).collect();
    // The applications have worked and watch keys, so that timers left behind by work are detected.
    for app in &apps {
        assert_eq!(app.put("k", "v"), 1);
        assert_eq!(app.call("register_callback k"), 1);
    }
    assert_eq!(apps[0].put("k", "w"), 1);
    for app in &apps {
        app.expect_change("k");
    }

    let before = [env.auth.cpu_ticks(), env.server.cpu_ticks()];
    thread::sleep(IDLE);
    let after = [env.auth.cpu_ticks(), env.server.cpu_ticks()];
    for (program, (before, after)) in
        ["KVS-AuthServer", "KVS-LocalServer"].into_iter().zip(before.into_iter().zip(after))
    {
        let used = after - before;
        println!("{program}: {used} ticks in {IDLE:?}");
        assert!(used <= ALLOWED, "{program} used {used} clock ticks in {IDLE:?}");
    }
    assert_eq!(apps[9].get("k").as_deref(), Ok("w"));
}
