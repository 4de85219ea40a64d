//! The output of `Show application status`.

use std::fmt::Write;
use std::time::SystemTime;

use chrono::{DateTime, Local};
use kvs_proto::{Escaped, MAX_TEXT};

use crate::local::group::group::Group;
use crate::local::group::members::ClientStatus;

/// Lists the applications of a group, connected and disconnected, without a final line feed.
pub(crate) fn describe(group: &Group) -> String {
    let mut text = format!("{}:", group.name());
    for (number, application) in group.client_status() {
        describe_application(&mut text, number, &application);
    }
    text
}

fn describe_application(text: &mut String, number: u64, application: &ClientStatus) {
    let (status, closed) = match application.disconnected_at {
        None => ("Connected", "-".to_string()),
        Some(closed) => ("Closed", time(closed)),
    };
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\nApp {number}\nPID: {}\nStatus: {status}\nConnection time: {}\n\
         Close Connection time: {closed}\nConnected time interval: {:.6}\n\
         Keys in WatchList for callback function:",
        application.pid,
        time(application.connected_at),
        application.connected_for.as_secs_f64(),
    );
    for (key, is_prefix) in &application.subscriptions {
        let prefix = if *is_prefix { " (prefix)" } else { "" };
        // A key of protocol v1 is shown in full. Keys of protocol v2 are cut: the status of all
        // applications could otherwise take more memory than the server has.
        let (shown, cut) = match key.split_at_checked(MAX_TEXT + 1) {
            None => (&key[..], String::new()),
            Some(_) => (&key[..MAX_TEXT], format!("… ({} bytes)", key.len())),
        };
        let _ = write!(text, "\n{}{cut}{prefix}", Escaped(shown));
    }
}

/// Formats a local time as in `Sun 22-11-2026 06:26:08`.
fn time(time: SystemTime) -> String {
    DateTime::<Local>::from(time).format("%a %d-%m-%Y %H:%M:%S").to_string()
}
