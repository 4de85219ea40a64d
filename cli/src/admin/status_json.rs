//! The status of a server as JSON.

use kvs_proto::control::{ApplicationStatus, GroupStatus, WatchedItem};
use serde_json::Value;

use crate::json::JsonObject;

/// The object that `kvs admin status --json` prints.
pub(super) fn status_json(groups: &[GroupStatus]) -> JsonObject {
    let mut object = JsonObject::new();
    object.objects("groups", groups.iter().map(group).collect());
    object
}

fn group(group: &GroupStatus) -> JsonObject {
    let mut object = JsonObject::new();
    object.bytes("group", &group.group.0);
    object.number("pairs", group.pairs);
    object.objects("applications", group.applications.iter().map(application).collect());
    object
}

fn application(application: &ApplicationStatus) -> JsonObject {
    let mut object = JsonObject::new();
    object.number("number", application.number);
    object.value("pid", application.pid.into());
    object.value("connected_at", application.connected_at.into());
    object.value("closed_at", application.closed_at.map_or(Value::Null, Value::from));
    object.value("seconds", application.seconds.into());
    object.objects("watches", application.watches.iter().map(watched_item).collect());
    object.number("watch_count", application.watch_count);
    object
}

fn watched_item(item: &WatchedItem) -> JsonObject {
    let mut object = JsonObject::new();
    match item {
        WatchedItem::Key(key) => object.bytes("key", &key.0),
        WatchedItem::Prefix(prefix) => object.bytes("prefix", &prefix.0),
    }
    object
}

#[cfg(test)]
mod tests {
    use kvs_proto::control::Bytes;

    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_are_base64_everywhere() {
        let watches = vec![
            WatchedItem::Key(Bytes(b"k".to_vec())),
            WatchedItem::Prefix(Bytes(b"\xff".to_vec())),
        ];
        let application = ApplicationStatus {
            number: 1,
            pid: 4711,
            connected_at: 1_000.5,
            closed_at: None,
            seconds: 61.5,
            watches,
            watch_count: 2,
        };
        let groups = [GroupStatus {
            group: Bytes(b"\x00\xff".to_vec()),
            pairs: 3,
            applications: vec![application],
        }];
        assert_eq!(
            status_json(&groups).to_string(),
            "{\"groups\":[{\"group_base64\":\"AP8=\",\"pairs\":3,\"applications\":[\
             {\"number\":1,\"pid\":4711,\"connected_at\":1000.5,\"closed_at\":null,\
             \"seconds\":61.5,\"watches\":[{\"key\":\"k\"},{\"prefix_base64\":\"/w==\"}],\
             \"watch_count\":2}]}]}"
        );
    }
}
