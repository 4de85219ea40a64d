//! The status of a server as a table for people.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use kvs_proto::control::{ApplicationStatus, GroupStatus, WatchedItem};

/// One heading per group, followed by one line per application.
pub(super) fn status_table(groups: &[GroupStatus], now: SystemTime) -> String {
    let mut text = String::new();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for (at, group) in groups.iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        let connected = group.applications.iter().filter(|app| app.closed_at.is_none()).count();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{gap}{}: {}, {connected} connected, {} closed",
            group.group,
            count(group.pairs, "pair"),
            group.applications.len() - connected
        );
        let mut rows =
            vec![["APP", "PID", "CONNECTED", "FOR", "CLOSED", "WATCHES"].map(String::from)];
        rows.extend(group.applications.iter().map(|application| row(application, now)));
        if rows.len() == 1 {
            continue;
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..5).map(|column| width(column).unwrap_or_default()).collect();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "  {cell:<width$}");
            }
            let _ = writeln!(text, "  {}", row[5]);
        }
    }
    text
}

fn row(application: &ApplicationStatus, now: f64) -> [String; 6] {
    let ago = |time: f64| format!("{} ago", duration(now - time));
    [
        application.number.to_string(),
        application.pid.to_string(),
        ago(application.connected_at),
        duration(application.seconds),
        application.closed_at.map_or("-".into(), ago),
        watches(application),
    ]
}

/// The first watches of an application, each cut to a maximal length, and the number of the others.
fn watches(application: &ApplicationStatus) -> String {
    const MAX_SHOWN: usize = 3;
    const MAX_CHARS: usize = 30;
    let shown = application.watches.iter().take(MAX_SHOWN).map(|watch| {
        let (bytes, star) = match watch {
            WatchedItem::Key(bytes) => (bytes, ""),
            WatchedItem::Prefix(bytes) => (bytes, "*"),
        };
        let text = bytes.to_string();
        match text.char_indices().nth(MAX_CHARS) {
            None => format!("{text}{star}"),
            Some((end, _)) => format!("{}…{star}", &text[..end]),
        }
    });
    let mut shown: Vec<_> = shown.collect();
    let left = application.watch_count - application.watch_count.min(shown.len() as u64);
    match left {
        0 if shown.is_empty() => return "-".into(),
        0 => {}
        left => shown.push(format!("and {left} more")),
    }
    shown.join(", ")
}

fn count(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// A duration in its two largest units.
fn duration(seconds: f64) -> String {
    // After the clock was set back, a duration is negative; the conversion clamps it to zero.
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvs_proto::control::Bytes;

    use super::*;

    #[test]
    fn duration_has_its_two_largest_units() {
        for (seconds, text) in [
            (-5.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m 0s"),
            (3_599.0, "59m 59s"),
            (7_260.0, "2h 1m"),
            (200_000.0, "2d 7h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn table_has_one_line_per_application() {
        let key = |text: &str| Bytes(text.as_bytes().to_vec());
        let application =
            |number, closed_at, watches: Vec<WatchedItem>, watch_count| ApplicationStatus {
                number,
                pid: 4711,
                connected_at: 1_000.0,
                closed_at,
                seconds: 61.5,
                watches,
                watch_count,
            };
        let watched =
            ["temperature", "evil\nApp 7", &"é".repeat(40), "wind"].map(key).map(WatchedItem::Key);
        let applications = vec![
            application(1, None, watched.to_vec(), 4_000),
            application(12, Some(1_061.5), vec![], 0),
            application(13, None, vec![WatchedItem::Prefix(key("rain/"))], 1),
        ];
        let groups = [
            GroupStatus { group: key("weather"), pairs: 1, applications },
            GroupStatus { group: Bytes(b"a\xff".to_vec()), pairs: 0, applications: vec![] },
        ];
        let cut = "é".repeat(30);
        let watches = format!("temperature, evil\\nApp 7, {cut}…, and 3997 more");
        let expected = format!(
            "weather: 1 pair, 2 connected, 1 closed\n  \
               APP  PID   CONNECTED  FOR    CLOSED   WATCHES\n  \
               1    4711  2m 0s ago  1m 1s  -        {watches}\n  \
               12   4711  2m 0s ago  1m 1s  58s ago  -\n  \
               13   4711  2m 0s ago  1m 1s  -        rain/*\n\n\
             a\u{fffd}: 0 pairs, 0 connected, 0 closed\n"
        );
        assert_eq!(status_table(&groups, UNIX_EPOCH + Duration::from_secs(1_120)), expected);
    }
}
