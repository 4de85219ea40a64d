//! The application's role of protocol v1 against a server that sends arbitrary bytes: every
//! exchange ends, each step receives a bounded number of bytes, and each result has the bytes that
//! prove it.

use kvs_proto::Protocol;
use kvs_proto::v1::client::{
    CallbackEvent, CallbackListener, CallbackStep, ChannelKind, Incoming, LoginExchange,
    LoginResult, LoginStep, Operation, OperationExchange, OperationResult, OperationStep, Outgoing,
};
use kvs_proto::{INT_LEN, MAX_TEXT, Text};

use crate::Input;

/// Replays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    while let Some(kind) = input.byte() {
        match kind % 7 {
            0 => login(&mut input),
            1 => operation(Operation::Get(input.text()), &mut input),
            2 => operation(Operation::Delete(input.text()), &mut input),
            3 => operation(Operation::Watch(input.text()), &mut input),
            4 => operation(Operation::Close, &mut input),
            5 => {
                let key = input.text();
                let value = match input.choice(4) {
                    0 => Text::new(b"").expect("empty"),
                    _ => input.text(),
                };
                operation(Operation::Put { key, value }, &mut input);
            }
            _ => listen(&mut input),
        }
    }
}

/// `len` bytes from the server: usually a likely integer or a text, else bytes of the input.
fn receive(input: &mut Input<'_>, len: usize) -> Vec<u8> {
    let mut bytes = match input.choice(8) {
        0..=2 => 1i32.to_ne_bytes().to_vec(),
        3 => (-1i32).to_ne_bytes().to_vec(),
        4 => i32::from(input.choice(u8::MAX)).to_ne_bytes().to_vec(),
        5 => input.text().as_bytes().to_vec(),
        _ => input.chunk().to_vec(),
    };
    bytes.resize(len, 0);
    bytes
}

fn login(input: &mut Input<'_>) {
    let (group, secret) = (input.text(), input.text());
    let offer = match input.choice(2) {
        0 => Protocol::V1,
        _ => Protocol::V2,
    };
    let mut login = LoginExchange::new(group, secret, offer);
    let mut hello = group.as_bytes().to_vec();
    let offers = offer == Protocol::V2 && hello.len() <= 95;
    if offers {
        hello.extend(b"\0kvs2");
    }
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        match login.next() {
            LoginStep::Receive(channel, _) => {
                let bytes: [u8; INT_LEN] = receive(input, INT_LEN)
                    .try_into()
                    .expect("`receive` returns the length that it is given");
                received.push((channel, i32::from_ne_bytes(bytes)));
                if login.received(bytes).is_err() {
                    return;
                }
            }
            LoginStep::Send(text) => {
                sent.push(text);
                login.sent();
            }
            LoginStep::ConnectCallback => {
                assert_eq!(
                    sent,
                    [&hello[..], secret.as_bytes()],
                    "the secret precedes the callback channel"
                );
                login.connected();
            }
            LoginStep::Done(result) => {
                let yes = |channel| (channel, 1);
                let (main, callback) = (ChannelKind::Main, ChannelKind::Callback);
                // The flags, the response to the group, and the verdict on the secret.
                let responses: &[(ChannelKind, i32)] = match result {
                    LoginResult::LoggedIn(Protocol::V1) => {
                        &[yes(main), yes(main), yes(callback), yes(main)]
                    }
                    LoginResult::LoggedIn(Protocol::V2) => {
                        assert!(offers, "v2 was not offered");
                        &[yes(main), (main, 2), yes(callback), yes(main)]
                    }
                    LoginResult::NoSuchGroup => &[yes(main), (main, 0)],
                    LoginResult::WrongSecret => {
                        let kind = received.get(1).map_or(0, |(_, kind)| *kind);
                        assert!(kind == 1 || (kind == 2 && offers), "{kind}");
                        &[yes(main), (main, kind), yes(callback), (main, 0)]
                    }
                };
                assert_eq!(received, responses);
                return;
            }
        }
    }
    panic!("the login does not end: {login:?}");
}

fn operation(operation: Operation, input: &mut Input<'_>) {
    let mut exchange = OperationExchange::new(operation);
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let mut received: Vec<Vec<u8>> = Vec::new();
    for _ in 0..10 {
        match exchange.next() {
            OperationStep::Send(what, bytes) => {
                assert!(bytes.len() <= MAX_TEXT);
                assert_eq!(what == Outgoing::FunctionCode, sent.is_empty());
                sent.push(bytes.to_vec());
                exchange.sent();
            }
            OperationStep::Receive(expected, len) => {
                // The buffer of the caller has this size.
                assert!(len <= MAX_TEXT + 1);
                assert!(len == INT_LEN || expected == Incoming::Value);
                // Sometimes fewer bytes than requested: no caller does so, and it is refused.
                let short = input.choice(32) == 31;
                let bytes = receive(input, if short { len / 2 } else { len });
                received.push(bytes.clone());
                if exchange.received(&bytes).is_err() {
                    return;
                }
                assert!(!short, "{bytes:?} was accepted in place of {len} bytes");
            }
            OperationStep::Done(result) => {
                check(operation, &result, &sent, &received);
                return;
            }
        }
    }
    panic!("the operation does not end: {exchange:?}");
}

fn check(operation: Operation, result: &OperationResult, sent: &[Vec<u8>], received: &[Vec<u8>]) {
    let int = |int: i32| int.to_ne_bytes().to_vec();
    let (strings, responses) = match operation {
        Operation::Put { key, value } => (vec![key, value], vec![int(1), int(1)]),
        Operation::Close => (vec![], vec![]),
        Operation::Get(key) | Operation::Delete(key) | Operation::Watch(key) => {
            let response = match result {
                OperationResult::NoSuchKey => vec![int(1), int(-1)],
                OperationResult::Done => vec![int(1), int(1)],
                OperationResult::Value(value) => {
                    assert!(value.len() <= MAX_TEXT && !value.contains(&0));
                    vec![int(1), int(value.len() as i32), [value, &b"\0"[..]].concat()]
                }
            };
            (vec![key], response)
        }
    };
    assert_eq!(received, responses);
    assert!(matches!(result, OperationResult::Value(_)) <= matches!(operation, Operation::Get(_)));
    let strings: Vec<_> = strings.iter().map(Text::as_bytes).collect();
    assert_eq!(sent[1..], strings);
}

fn listen(input: &mut Input<'_>) {
    let mut listener = CallbackListener::default();
    let mut flags = 0;
    for _ in 0..20 {
        match listener.next() {
            CallbackStep::Receive(len) => {
                assert!(len <= 100);
                let bytes = receive(input, len);
                let Ok(event) = listener.received(&bytes) else { return };
                match event {
                    None => assert_eq!((bytes, len), (1i32.to_ne_bytes().to_vec(), INT_LEN)),
                    Some(CallbackEvent::Close) => assert_eq!(bytes, (-1i32).to_ne_bytes()),
                    Some(CallbackEvent::Changed(key)) => {
                        assert_eq!((bytes, flags), (key.padded::<100>().to_vec(), 1));
                        flags = 0;
                    }
                }
            }
            CallbackStep::Send(bytes) => {
                assert_eq!(bytes, 1i32.to_ne_bytes());
                flags += 1;
                listener.sent();
            }
        }
        if input.0.is_empty() {
            return;
        }
    }
}
