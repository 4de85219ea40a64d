//! Round trips, documented lines, and lines that are not messages.

use proptest::prelude::*;

use super::bytes::Bytes;
use super::codec::{DecodeError, MAX_REQUEST_LEN};
use super::message::{
    AdminErrorKind, AdminRequest, AdminResponse, ApplicationStatus, GroupStatus, WatchedItem,
};
use crate::text::MAX_TEXT;

fn bytes(max_len: usize) -> impl Strategy<Value = Bytes> {
    let any = proptest::collection::vec(any::<u8>(), 0..=max_len);
    let text = "\\PC{0,20}|[\\x00-\\x7f]{0,20}".prop_map(String::into_bytes);
    prop_oneof![any, text].prop_map(Bytes)
}

fn request() -> impl Strategy<Value = AdminRequest> {
    let group = || bytes(MAX_TEXT);
    prop_oneof![
        (group(), proptest::option::of(bytes(7)))
            .prop_map(|(group, secret)| AdminRequest::Create { group, secret }),
        group().prop_map(|group| AdminRequest::Delete { group }),
        group().prop_map(|group| AdminRequest::Info { group }),
        proptest::option::of(group()).prop_map(|group| AdminRequest::Status { group }),
        Just(AdminRequest::Quit {}),
    ]
}

fn kind() -> impl Strategy<Value = AdminErrorKind> {
    use AdminErrorKind::*;
    let kinds = [Exists, NotFound, Invalid, Version, Unavailable, Denied, Busy, Quitting, Unknown];
    proptest::sample::select(kinds.to_vec())
}

/// A time in this century, to the millisecond.
fn time() -> impl Strategy<Value = f64> {
    (0..4_102_444_800_000_u64).prop_map(|millis| millis as f64 / 1000.0)
}

fn application() -> impl Strategy<Value = ApplicationStatus> {
    let watch = (bytes(300), any::<bool>()).prop_map(|(key, is_prefix)| match is_prefix {
        true => WatchedItem::Prefix(key),
        false => WatchedItem::Key(key),
    });
    let times = (time(), proptest::option::of(time()), time());
    let watches = proptest::collection::vec(watch, 0..4);
    (any::<(u64, i32, u64)>(), times, watches).prop_map(|(numbers, times, watches)| {
        let ((number, pid, watch_count), (connected_at, closed_at, seconds)) = (numbers, times);
        ApplicationStatus { number, pid, connected_at, closed_at, seconds, watches, watch_count }
    })
}

fn response() -> impl Strategy<Value = AdminResponse> {
    let group = || bytes(MAX_TEXT);
    let applications = proptest::collection::vec(application(), 0..3);
    let of_group = (group(), any::<u64>(), applications)
        .prop_map(|(group, pairs, applications)| GroupStatus { group, pairs, applications });
    prop_oneof![
        (group(), bytes(5)).prop_map(|(group, secret)| AdminResponse::Created { group, secret }),
        group().prop_map(|group| AdminResponse::Deleted { group }),
        (group(), bytes(5), any::<u64>()).prop_map(|(group, secret, pairs)| AdminResponse::Info {
            group,
            secret,
            pairs
        }),
        (proptest::collection::vec(of_group, 0..3), any::<bool>())
            .prop_map(|(groups, more)| AdminResponse::Status { groups, more }),
        Just(AdminResponse::Quitting {}),
        (kind(), "\\PC{0,80}").prop_map(|(kind, message)| AdminResponse::Error { kind, message }),
    ]
}

proptest! {
    #[test]
    fn requests_round_trip_on_one_short_line(request in request()) {
        let line = request.encode();
        prop_assert!(line.len() <= MAX_REQUEST_LEN);
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        prop_assert_eq!(line.last(), Some(&b'\n'));
        prop_assert_eq!(AdminRequest::decode(&line).unwrap(), request);
    }

    #[test]
    fn responses_round_trip_on_one_line(response in response()) {
        let line = response.encode();
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        prop_assert_eq!(AdminResponse::decode(&line).unwrap(), response);
    }

    #[test]
    fn arbitrary_lines_are_decoded_or_refused(
        line in proptest::collection::vec(any::<u8>(), 0..200),
        request in request(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let _ = (AdminRequest::decode(&line), AdminResponse::decode(&line));
        // Lines that differ from a request in one byte.
        let mut near = request.encode();
        let at = at.index(near.len());
        near[at] = byte;
        let _ = (AdminRequest::decode(&near), AdminRequest::decode(&near[..at]));
    }
}

#[test]
fn lines_match_the_documentation() {
    let line = |request: &str| AdminRequest::decode(request.as_bytes());
    let group = || Bytes(b"weather".to_vec());
    for (text, request) in [
        (
            r#"{"version":1,"request":"create","group":"weather"}"#,
            AdminRequest::Create { group: group(), secret: None },
        ),
        (r#"{"version":1,"request":"status"}"#, AdminRequest::Status { group: None }),
        (
            r#"{"version":1,"request":"info","group":{"hex":"61ff"}}"#,
            AdminRequest::Info { group: Bytes(b"a\xff".to_vec()) },
        ),
        (r#"{"version":1,"request":"quit"}"#, AdminRequest::Quit {}),
    ] {
        assert_eq!(line(text).unwrap(), request);
        assert_eq!(request.encode(), format!("{text}\n").as_bytes());
    }
    assert!(matches!(line(r#"{"version":2,"request":"quit"}"#), Err(DecodeError::Version(2))));
    assert!(matches!(line(r#"{"request":"quit"}"#), Err(DecodeError::NoVersion)));
    for refused in [
        "",
        "[]",
        "{",
        r#"{"version":1}"#,
        r#"{"version":1,"request":"reboot"}"#,
        r#"{"version":1,"request":"create"}"#,
        r#"{"version":1,"request":"create","group":7}"#,
        r#"{"version":1,"request":"create","group":{"hex":"6"}}"#,
        r#"{"version":1,"request":"create","group":{"hex":"6é"}}"#,
        r#"{"version":1,"request":"create","group":{"hex":"61","x":"1"}}"#,
        r#"{"version":1,"request":"create","group":"g","force":true}"#,
        r#"{"version":1,"request":"quit","now":true}"#,
        r#"{"version":1,"request":"quit"} {"#,
    ] {
        assert!(matches!(line(refused), Err(DecodeError::Malformed(_))), "{refused}");
    }
    let deep = format!("{}{}", r#"{"version":1,"request":"#, "[".repeat(MAX_REQUEST_LEN));
    assert!(matches!(line(&deep), Err(DecodeError::Malformed(_))));
    let newer = br#"{"version":1,"answer":"error","kind":"sleepy","message":"Zzz."}"#;
    let newer = AdminResponse::decode(newer).unwrap();
    assert!(matches!(newer, AdminResponse::Error { kind: AdminErrorKind::Unknown, .. }));
}
