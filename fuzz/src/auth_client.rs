//! The local server's role of the link: a [`ClientExchange`] that receives arbitrary datagrams ends
//! only with a response that it has received in order, and sends only what its request needs.

use kvs_proto::Text;
use kvs_proto::link::original::{
    ClientExchange, ExchangeProgress, GroupRequest, GroupResponse, encode_secret,
};

use crate::Input;

/// Replays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    while let Some(kind) = input.byte() {
        let name = input.text();
        match kind % 4 {
            0 => exchange(GroupRequest::Find(name), &mut input),
            1 => exchange(GroupRequest::New { name, secret: input.text() }, &mut input),
            2 => exchange(GroupRequest::Secret(name), &mut input),
            _ => exchange(GroupRequest::Delete(name), &mut input),
        }
    }
}

fn exchange(request: GroupRequest, input: &mut Input<'_>) {
    let (mut exchange, first) = ClientExchange::start(request);
    let word: &[u8] = match request {
        GroupRequest::Find(_) => b"FindGroup",
        GroupRequest::New { .. } => b"NewGroup",
        GroupRequest::Secret(_) => b"GetSecret",
        GroupRequest::Delete(_) => b"DeleteGroup",
    };
    assert_eq!(Text::from_padded(&first), Text::new(word).ok());
    assert_eq!(first.len(), 100);
    let mut model = ExchangeModel::of(request);
    let mut is_done = false;
    while let Some(kind) = input.byte() {
        let datagram = match kind % 8 {
            0..=2 => 1i32.to_ne_bytes().to_vec(),
            3 => (-1i32).to_ne_bytes().to_vec(),
            4 => input.text().as_bytes().to_vec(),
            5 | 6 => input.chunk().to_vec(),
            // The next request.
            _ => return,
        };
        let progress = exchange.receive(&datagram);
        if is_done {
            assert_eq!(progress, ExchangeProgress::Ignored, "{datagram:?} after the end");
            continue;
        }
        assert_eq!(progress, model.receive(&datagram), "{datagram:?}");
        is_done = matches!(progress, ExchangeProgress::Done(_));
    }
}

/// The datagrams that the exchange has still to send, and the response that it needs then.
struct ExchangeModel {
    to_send: std::vec::IntoIter<Vec<u8>>,
    /// The name is sent: a verdict is pending.
    named: bool,
    wants_secret: bool,
}

impl ExchangeModel {
    fn of(request: GroupRequest) -> Self {
        let (to_send, wants_secret) = match request {
            GroupRequest::Find(name) | GroupRequest::Delete(name) => {
                (vec![name.as_bytes().to_vec()], false)
            }
            GroupRequest::New { name, secret } => {
                (vec![name.as_bytes().to_vec(), encode_secret(&secret).to_vec()], false)
            }
            GroupRequest::Secret(name) => {
                (vec![name.as_bytes().to_vec(), 1i32.to_ne_bytes().to_vec()], true)
            }
        };
        Self { to_send: to_send.into_iter(), named: false, wants_secret }
    }

    fn receive(&mut self, datagram: &[u8]) -> ExchangeProgress {
        let int = <[u8; 4]>::try_from(datagram).map(i32::from_ne_bytes).ok();
        let last = self.to_send.as_slice().is_empty();
        if int == Some(-1) && self.named {
            return ExchangeProgress::Done(GroupResponse::No);
        }
        if last && self.wants_secret {
            let is_text = (1..=99).contains(&datagram.len()) && !datagram.contains(&0);
            return match Text::new(datagram).ok().filter(|_| is_text) {
                Some(secret) => ExchangeProgress::Done(GroupResponse::Secret(secret)),
                None => ExchangeProgress::Ignored,
            };
        }
        if int != Some(1) {
            return ExchangeProgress::Ignored;
        }
        self.named = true;
        match self.to_send.next() {
            Some(next) => ExchangeProgress::Send(next),
            None => ExchangeProgress::Done(GroupResponse::Yes),
        }
    }
}
