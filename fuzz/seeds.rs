//! Writes the seeds of each target: `seeds TRANSCRIPTS DIRECTORY`. A program of one file, built by
//! `fuzz/run`.
//!
//! The seeds are the recorded conversations of `tests/transcripts` as scripts, and the cases of the
//! property tests: values that resemble function codes, strings of maximum length, changes, late
//! and repeated datagrams.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The named seeds of one target.
struct Seeds {
    dir: PathBuf,
}

impl Seeds {
    fn new(dir: &Path, target: &str) -> io::Result<Self> {
        let dir = dir.join(target);
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn add(&self, name: &str, script: &[u8]) -> io::Result<()> {
        fs::write(self.dir.join(name), script)
    }
}

/// One message of a recorded conversation.
struct Message {
    channel: String,
    from: String,
    bytes: Vec<u8>,
}

fn conversation(path: &Path) -> io::Result<Vec<Message>> {
    // Each line is `{"channel": "…", "from": "…", "hex": "…"}`, without any escapes.
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\": \""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    let bytes = |hex: &str| {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16)).collect()
    };
    let text = fs::read_to_string(path)?;
    let messages = text.lines().filter_map(|line| {
        let bytes: Result<_, _> = bytes(&field(line, "hex")?);
        Some(Message {
            channel: field(line, "channel")?,
            from: field(line, "from")?,
            bytes: bytes.ok()?,
        })
    });
    Ok(messages.collect())
}

/// A length byte and the bytes.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// A step of a script with its chunk.
fn with(operation: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![operation], chunk(bytes)].concat()
}

/// Values at the edges of the rule that separates them from function codes.
fn values() -> Vec<Vec<u8>> {
    let long = vec![b'v'; 99];
    let four = [&long[..95], &[1, 2, 3, 4]].concat();
    vec![b"v".to_vec(), vec![4], vec![1, 2, 3], long, four, b"\xff\xfe".to_vec()]
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(transcripts), Some(dir)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: seeds TRANSCRIPTS DIRECTORY",
        ));
    };

    let texts = Seeds::new(&dir, "text")?;
    for (n, value) in values().iter().enumerate() {
        texts.add(&format!("value-{n}"), value)?;
    }
    for (name, text) in [
        ("padded", &b"key\0\0\0"[..]),
        ("dirty", b"key\0\0x"),
        ("terminal", b"k\n\x1b[31m \xc2\x9b\xc3\xa9\\"),
        ("too-long", &[b'x'; 100]),
    ] {
        texts.add(name, text)?;
    }

    let app_server = Seeds::new(&dir, "app_server")?;
    let local_server = Seeds::new(&dir, "local_server")?;
    for name in ["app-full-session", "app-unknown-group", "app-wrong-secret"] {
        let messages = conversation(&transcripts.join(format!("{name}.jsonl")))?;
        app_server.add(name, &as_app_server(&messages))?;
        local_server.add(name, &as_local_server(&messages))?;
    }
    let login = [with(2, b"g"), vec![4], with(2, b"s"), vec![4]].concat();
    for (n, value) in values().iter().enumerate() {
        let put = [vec![1, 0], with(2, b"k")].concat();
        for code in 0..=5 {
            let glued = [with(3, value), vec![code]].concat();
            let rest = [with(2, b"k"), vec![1, 1], with(2, b"k"), vec![1, 4]].concat();
            let script = [&login[..], &put, &glued, &rest].concat();
            app_server.add(&format!("value-{n}-{code}"), &script)?;
        }
    }
    for offer in [&b"g\0kvs2"[..], b"g\0kvs", b"g\0kvs32", b"g\0x"] {
        let name = format!("offer-{}", offer.escape_ascii());
        let script = [with(0, offer), vec![4], with(2, b"s"), vec![4]].concat();
        app_server.add(&name.replace('\\', "-"), &script)?;
    }
    let change =
        [with(6, b"key"), vec![7], with(6, &[b'k'; 99]), with(8, &[1]), with(8, &[0, 0, 0])];
    app_server.add("changes", &[change.concat(), vec![9]].concat())?;

    // Two applications, one subscribed to the changes of the other, on one reactor and on two.
    let enter = |slot: u8, name: u8| vec![slot << 6 | 16, name, 0, 0];
    let watch = [vec![1 << 6 | 19, 1], chunk(b"a"), vec![20, 2, 1]].concat();
    let changes = [vec![1 << 6 | 19, 1], chunk(b"b"), vec![21, 22]].concat();
    for (name, between) in [("in-turn", vec![]), ("another-between", enter(2, 3))] {
        let script = [enter(0, 1), between, enter(1, 2), watch.clone(), changes.clone()].concat();
        local_server.add(name, &script)?;
    }
    let flood =
        [enter(0, 1), vec![17, 3, 15, 1, 0, 64, 15, 1, 0, 64, 15, 1, 0, 64, 17, 0]].concat();
    local_server.add("reads-nothing", &flood)?;
    let group_one = vec![16, 4, 1, 0, 19, 1, 1, b'v', 20, 2, 1, 14, 1, 10, 13, 10];
    local_server.add("group-deleted", &group_one)?;
    let silent = vec![0, 1, 1 << 6 | 1, 2, 10, 13, 10, 7, 0, 12, 0];
    local_server.add("never-sends", &silent)?;
    let late = [vec![0, 5, 10, 23, 0, 10], with(5, b"abcde"), vec![9, 0, 12, 0, 1, 5, 9, 1, 10]];
    local_server.add("callback-comes-late", &late.concat())?;

    // The usual responses to each operation.
    let app_client = Seeds::new(&dir, "app_client")?;
    let key = chunk(b"key");
    let responses = |last: &[u8]| [&[0, 0, 0, 0][..], last].concat();
    for (name, script) in [
        ("login", [vec![0], chunk(b"g"), chunk(b"s"), vec![0, 0, 0, 0]].concat()),
        ("get", [vec![1], key.clone(), vec![0, 0, 0, 4, 2, 0, 6, 3], b"v1\0".to_vec()].concat()),
        ("get-missing", [vec![1], key.clone(), responses(&[3])].concat()),
        ("delete", [vec![2], key.clone(), responses(&[0])].concat()),
        ("watch", [vec![3], key.clone(), responses(&[0])].concat()),
        ("close", vec![4]),
        ("put", [vec![5], key.clone(), vec![1], chunk(b"v"), responses(&[])].concat()),
        ("changes", [vec![6, 0, 6, 100], b"key".to_vec(), vec![0; 97], vec![0, 6, 3]].concat()),
    ] {
        app_client.add(name, &script)?;
    }

    // A request of each kind, whole and cut; a response and an event.
    let v2 = Seeds::new(&dir, "v2")?;
    for kind in 0..10 {
        let head = vec![3, 1, kind % 3, kind];
        let request = [head, chunk(b"key"), chunk(b"value"), vec![kind % 2, 1]];
        v2.add(&format!("request-{kind}"), &request.concat())?;
        let twice = [&request.concat()[..], &request.concat(), &[2, 0, 2, 22]].concat();
        v2.add(&format!("cut-{kind}"), &twice)?;
    }
    for (name, kind, key) in [("response", 128, 0), ("event", 192, 3), ("unknown", 99, 0)] {
        let frame = [vec![1, kind, u8::from(key > 0), key, 1, 1], chunk(b"key"), vec![0, 0]];
        v2.add(name, &frame.concat())?;
    }

    let auth_server = Seeds::new(&dir, "auth_server")?;
    for name in ["auth-full-session"] {
        let messages = conversation(&transcripts.join(format!("{name}.jsonl")))?;
        let sent = messages.iter().filter(|message| message.from == "local-server");
        let script: Vec<u8> = sent.flat_map(|message| with(6, &message.bytes)).collect();
        auth_server.add(name, &script)?;
        // The same, with a copy of each datagram from another address.
        let sent = messages.iter().filter(|message| message.from == "local-server");
        let twice = sent.flat_map(|m| [with(6, &m.bytes), with(1 << 6 | 6, &m.bytes)].concat());
        auth_server.add("two-at-once", &twice.collect::<Vec<u8>>())?;
    }
    for (name, command) in [("find", 2), ("new", 3), ("get", 4), ("delete", 5)] {
        let script = [vec![0, command, 3, 1], with(4, b"abcde"), vec![5, 2, 7]].concat();
        auth_server.add(name, &script)?;
    }

    let auth_client = Seeds::new(&dir, "auth_client")?;
    for (name, script) in [
        ("find", [vec![0], chunk(b"g"), vec![0, 0]].concat()),
        ("new", [vec![1], chunk(b"g"), chunk(b"abcde"), vec![0, 0, 0]].concat()),
        ("secret", [vec![2], chunk(b"g"), vec![0, 0, 4], chunk(b"abcde")].concat()),
        ("delete", [vec![3], chunk(b"g"), vec![0, 3]].concat()),
        ("repeated", [vec![2], chunk(b"g"), vec![0, 0, 0, 0, 3]].concat()),
    ] {
        auth_client.add(name, &script)?;
    }
    Ok(())
}

/// Each send is one read, and each response is positive.
fn as_app_server(messages: &[Message]) -> Vec<u8> {
    let mut script = Vec::new();
    for message in messages.iter().filter(|message| message.from == "app") {
        match message.channel.as_str() {
            "main" => script.extend([with(0, &message.bytes), vec![4]].concat()),
            _ => script.extend([with(6, b"k1"), with(8, &message.bytes)].concat()),
        }
    }
    script
}

/// The same, with the group and the secret of `local_server`.
fn as_local_server(messages: &[Message]) -> Vec<u8> {
    let mut script = vec![0, 1, 10];
    let mut sent = 0;
    for message in messages.iter().filter(|message| message.from == "app") {
        match (message.channel.as_str(), sent) {
            ("main", 0) => script.extend([vec![23, 0], vec![10]].concat()),
            ("main", 1) => script.extend([with(2, b"abcde"), vec![1, 1, 10, 12, 0, 10]].concat()),
            ("main", _) => script.extend([with(2, &message.bytes), vec![10]].concat()),
            _ => script.extend([6, 10]),
        }
        sent += usize::from(message.channel == "main");
    }
    script
}
