//! The generator against a server that responds to every request.

use std::io::{Cursor, Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::thread;

use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN};

use super::{Generator, Load, Source, WireProtocol};
use crate::keys::{Keys, Shape};
use crate::measure::{Interrupt, Limit, Measurement};

/// A server for one connection, on which every key exists.
fn serve(mut stream: BlockingStream, wire: WireProtocol, value: &'static [u8]) {
    let mut bytes = Cursor::new(Vec::new());
    let mut header = [0; HEADER_LEN];
    while stream.read_exact(&mut header).is_ok() {
        assert_eq!(wire, WireProtocol::KvsV2);
        let header = FrameHeader::decode(&header).unwrap();
        let mut body = vec![0; header.body_len as usize];
        stream.read_exact(&mut body).unwrap();
        let body = if header.kind == 1 { value } else { b"" };
        let response = Response { body, ..Response::new(header.number, Status::Ok, 1) };
        bytes.get_mut().clear();
        response.encode(bytes.get_mut());
        // The response arrives in two pieces.
        let (front, rest) = bytes.get_ref().split_at(HEADER_LEN - 5);
        stream.write_all(front).unwrap();
        stream.write_all(rest).unwrap();
    }
}

#[test]
fn generator_sends_all_requests_and_checks_all_responses() {
    for (clients, depth, threads) in [(1, 1, 1), (3, 4, 1), (5, 2, 2)] {
        let mut servers = Vec::new();
        let mut generator =
            Generator::connect(WireProtocol::KvsV2, clients, depth, threads, || {
                let (ours, theirs) = BlockingStream::pair().unwrap();
                servers.push(thread::spawn(move || serve(theirs, WireProtocol::KvsV2, b"value")));
                Ok((ours, None))
            })
            .unwrap();
        let keys = Keys::draw(Shape::SHORT, 10, crate::keys::Distribution::Uniform, 1);
        let load = Load { source: Source::Drawn(&keys), value: b"value", reads: 50 };
        let measurement = Measurement {
            limit: Limit::Operations(300),
            warm_up: Limit::Operations(20),
            position: 0,
            interrupt: Interrupt::default(),
        };
        let outcome = generator.run_once(&load, measurement.limit, &measurement).unwrap();
        assert_eq!(outcome.times.len(), 300);
        let wrong = Load { value: b"another", ..load };
        let result = generator.run_once(&wrong, measurement.limit, &measurement);
        assert!(result.is_err(), "a value of the wrong length");
        drop(generator);
        servers.into_iter().for_each(|server| drop(server.join()));
    }
}
