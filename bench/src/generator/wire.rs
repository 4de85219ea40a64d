//! The protocols of the load generator: encoders, and decoders that check a response as far as
//! needed.

use kvs_proto::v2::request::Request;
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN};

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireProtocol {
    /// Protocol v2 of kvs.
    KvsV2,
    /// The protocol of Redis.
    Resp,
    /// The text protocol of memcached.
    Memcached,
}

/// The content of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireResponse {
    /// The put is done.
    Stored,
    /// A value of this length.
    Value(usize),
    /// No such key.
    NoSuchKey,
}

impl WireProtocol {
    pub(super) fn get(self, number: u32, key: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::KvsV2 => Request::Get(key).encode(number, out),
            Self::Resp => command(&[b"GET", key], out),
            Self::Memcached => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(key);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    pub(super) fn put(self, number: u32, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::KvsV2 => Request::Put { key, value, expected: None }.encode(number, out),
            Self::Resp => command(&[b"SET", key, value], out),
            Self::Memcached => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(key);
                out.extend_from_slice(b" 0 0 ");
                decimal(value.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The response at the front of these bytes and its length; `None` while it is incomplete.
    /// `Err`: the bytes are no response to this request.
    pub(super) fn decode(
        self,
        bytes: &[u8],
        number: u32,
    ) -> std::result::Result<Option<(WireResponse, usize)>, String> {
        match self {
            Self::KvsV2 => kvs_response(bytes, number),
            Self::Resp => redis_response(bytes),
            Self::Memcached => memcached_response(bytes),
        }
    }
}

fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.push(b'*');
    decimal(words.len(), out);
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.push(b'$');
        decimal(word.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder of 10 is a digit.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn kvs_response(
    bytes: &[u8],
    number: u32,
) -> std::result::Result<Option<(WireResponse, usize)>, String> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = FrameHeader::decode(header).map_err(|error| error.to_string())?;
    let len = header.body_len as usize;
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let reply = Response::decode(&header, body).map_err(|error| error.to_string())?;
    if reply.number != number {
        return Err(format!("a response to request {} instead of {number}", reply.number));
    }
    let response = match reply.status {
        Status::Ok if body.is_empty() => WireResponse::Stored,
        Status::Ok => WireResponse::Value(len),
        Status::NoSuchKey => WireResponse::NoSuchKey,
        status => return Err(format!("{status:?}")),
    };
    Ok(Some((response, HEADER_LEN + len)))
}

/// The first line without its terminator, and its length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

fn number_of(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn redis_response(bytes: &[u8]) -> std::result::Result<Option<(WireResponse, usize)>, String> {
    let Some((line, at)) = line(bytes) else { return Ok(None) };
    match line {
        b"+OK" => Ok(Some((WireResponse::Stored, at))),
        b"$-1" => Ok(Some((WireResponse::NoSuchKey, at))),
        [b'$', digits @ ..] => match number_of(digits) {
            Some(len) => match bytes.get(at + len..at + len + 2) {
                Some(b"\r\n") => Ok(Some((WireResponse::Value(len), at + len + 2))),
                Some(_) => Err("a value without its terminator".into()),
                None => Ok(None),
            },
            None => Err(line.escape_ascii().to_string()),
        },
        line => Err(line.escape_ascii().to_string()),
    }
}

fn memcached_response(bytes: &[u8]) -> std::result::Result<Option<(WireResponse, usize)>, String> {
    const END: &[u8] = b"\r\nEND\r\n";
    let Some((line, at)) = line(bytes) else { return Ok(None) };
    match line {
        b"STORED" => Ok(Some((WireResponse::Stored, at))),
        b"END" => Ok(Some((WireResponse::NoSuchKey, at))),
        line if line.starts_with(b"VALUE ") => {
            // VALUE key flags length
            let digits = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            let Some(len) = number_of(digits) else {
                return Err(line.escape_ascii().to_string());
            };
            match bytes.get(at + len..at + len + END.len()) {
                Some(END) => Ok(Some((WireResponse::Value(len), at + len + END.len()))),
                Some(_) => Err("a value without its terminator".into()),
                None => Ok(None),
            }
        }
        line => Err(line.escape_ascii().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The responses in these bytes, which arrive one by one.
    fn decode(wire: WireProtocol, bytes: &[u8]) -> std::result::Result<Vec<WireResponse>, String> {
        let (mut at, mut found) = (0, Vec::new());
        for end in 0..=bytes.len() {
            while let Some((response, len)) =
                wire.decode(&bytes[at..end], found.len() as u32 + 1)?
            {
                found.push(response);
                at += len;
            }
        }
        assert_eq!(at, bytes.len(), "unconsumed bytes");
        Ok(found)
    }

    #[test]
    fn redis_responses_are_decoded_at_any_cut() {
        let response =
            decode(WireProtocol::Resp, b"+OK\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n$2\r\n\r\n\r\n");
        let value = WireResponse::Value;
        assert_eq!(
            response.unwrap(),
            [WireResponse::Stored, value(3), WireResponse::NoSuchKey, value(0), value(2)]
        );
    }

    #[test]
    fn invalid_redis_responses_are_refused() {
        for bytes in [&b"-ERR no\r\n"[..], b":1\r\n", b"$x\r\n", b"$1\r\nabc\r\n", b"+QUEUED\r\n"] {
            assert!(decode(WireProtocol::Resp, bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn memcached_responses_are_decoded_at_any_cut() {
        let bytes =
            b"STORED\r\nVALUE k 0 3\r\nabc\r\nEND\r\nEND\r\nVALUE k 0 5\r\nEND\r\n\r\nEND\r\n";
        let response = decode(WireProtocol::Memcached, bytes).unwrap();
        assert_eq!(
            response,
            [
                WireResponse::Stored,
                WireResponse::Value(3),
                WireResponse::NoSuchKey,
                WireResponse::Value(5)
            ]
        );
    }

    #[test]
    fn invalid_memcached_responses_are_refused() {
        for bytes in [&b"ERROR\r\n"[..], b"VALUE k 0 x\r\n", b"VALUE k 0 1\r\nabcdefgh\r\n"] {
            assert!(decode(WireProtocol::Memcached, bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn kvs_responses_are_decoded_at_any_cut() {
        let mut bytes = Vec::new();
        Response::new(1, Status::Ok, 7).encode(&mut bytes);
        Response { body: b"abc", ..Response::new(2, Status::Ok, 7) }.encode(&mut bytes);
        Response::new(3, Status::NoSuchKey, 0).encode(&mut bytes);
        let response = decode(WireProtocol::KvsV2, &bytes).unwrap();
        assert_eq!(
            response,
            [WireResponse::Stored, WireResponse::Value(3), WireResponse::NoSuchKey]
        );
    }

    #[test]
    fn kvs_responses_to_other_requests_are_refused() {
        for (number, status) in [(2, Status::Ok), (1, Status::Limit), (1, Status::Unknown)] {
            let mut bytes = Vec::new();
            Response::new(number, status, 0).encode(&mut bytes);
            assert!(decode(WireProtocol::KvsV2, &bytes).is_err(), "{number} {status:?}");
        }
    }

    #[test]
    fn requests_match_the_protocols() {
        let bytes = |wire: WireProtocol| {
            let mut out = Vec::new();
            wire.get(1, b"key", &mut out);
            wire.put(2, b"key", b"twelve bytes", &mut out);
            out
        };
        assert_eq!(
            bytes(WireProtocol::Resp).as_slice(),
            b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n\
              *3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$12\r\ntwelve bytes\r\n"
        );
        assert_eq!(
            bytes(WireProtocol::Memcached).as_slice(),
            b"get key\r\nset key 0 0 12\r\ntwelve bytes\r\n"
        );
        assert_eq!(bytes(WireProtocol::KvsV2).len(), 2 * HEADER_LEN + 2 * 3 + 12);
    }
}
