//! Writes `include/kvs.h` from the doc comments and signatures in `kvs-lib/src/capi`: the six functions of the original
//! system first, then the `kvs_` ones. And from that the manual pages in `man/man3`.
//!
//! The files are committed, so that C programmers find them without a build; `make check-generated` fails when
//! they are not what this script writes.

mod header;
mod man;
mod roff;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use cbindgen::{Config, DocumentationStyle, ExportConfig, Language};

/// The codes, and the functions; the second leads to the third.
const SOURCES: [&str; 3] =
    ["kvs-lib/src/codes.rs", "kvs-lib/src/capi/mod.rs", "kvs-lib/src/capi/handles.rs"];

const HEADER: &str = "include/kvs.h";

const PAGES: &str = "man/man3";

/// The example of kvs(3).
const EXAMPLE: &str = "c-examples/put_get.c";

const HEAD: &str = "\
/*
 * kvs.h - key-value pairs shared by the programs of one machine, with a callback when a key changes.
 *
 * Generated from kvs-lib/src/capi; changes belong there.
 *
 *   cc program.c -lkvs
 *
 * Two ways   The six functions of the original system: one connection for the process, strings. And the kvs_
 *            functions: any number of connections (kvs_t), bytes with their lengths, versions, prefixes. Both
 *            may be used in one program.
 * Sessions   With a KVS-LocalServer of this project, sessions are framed: every call is one round trip and
 *            acknowledged. With one of the original system, with KVS_PROTOCOL=original in the environment, and in
 *            a group whose name has more than 95 bytes, they are as they were. The program need not know; what an original session cannot do returns -17.
 * Strings    Group names and secrets are NUL-terminated and have 1 to KVS_MAX_TEXT bytes. For keys and values
 *            see KVS_MAX_KEY and KVS_MAX_VALUE; in original sessions, and for the programs of the original system
 *            in the same group, they have at most KVS_MAX_TEXT bytes without NUL.
 * Threads    Every function may be called by any thread at any time, callbacks included. In a framed session
 *            threads do not wait for each other; in an original one calls take turns. Callbacks run on one thread
 *            of the library for each connection.
 * Time       No call waits longer for the server than KVS_TIMEOUT_MS (environment, 5000 unless set).
 * fork       A child starts unconnected and may establish a connection of its own; the parent's is not
 *            affected.
 * Signals    The library handles none, raises none (no SIGPIPE), and its thread has all blocked.
 *            pthread_cancel takes effect after the call, where the program next may be cancelled: the functions are no such
 *            places. PTHREAD_CANCEL_ASYNCHRONOUS must not be set during a call.
 * Closed     kvs_on_disconnect tells the end of a kvs_t. For the six functions there is no such event: a program
 *            that only waits for callbacks asks now and then: put_value(NULL, NULL) sends nothing, and
 *            returns -15 while connected and -2 when not. After connecting again the callbacks must be registered again.
 * Output     The library prints nothing, unless KVS_DEBUG=1 is in the environment: then one line to
 *            stderr for each call that fails. (A bug in the library, which is caught and makes a call
 *            return -15 and the connection close, says so there in any case.)
 *
 * Codes      Functions return 0 or 1 (see each), or a negative code. After -3 -4 -5 -6 -8 and -10 of a
 *            connected program the connection is closed; calls return -2 until establish_connection
 *            succeeds again; a kvs_t is for kvs_close. The same holds after the server has closed the connection, because the
 *            group was deleted or the server quits. When the server was killed, the first call returns one of these codes,
 *            mostly -3, and later ones -2; close_connection and kvs_close return -3 if they are the first.
 *            What each code means is said at the constants KVS_ERROR_CLOSE and following.
 */";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build");
    // What was written is written anew when it has been changed by hand.
    for path in SOURCES.iter().chain([&EXAMPLE, &HEADER, &PAGES]) {
        println!("cargo:rerun-if-changed={path}");
    }
    let root = std::env::var("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&root);
    let config = Config {
        language: Language::C,
        header: Some(HEAD.into()),
        include_guard: Some("KVS_H".into()),
        cpp_compat: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        usize_is_size_t: true,
        documentation_style: DocumentationStyle::C,
        // Not of the library: see `course/`.
        export: ExportConfig { exclude: vec!["kvs_course_open".into()], ..ExportConfig::default() },
        ..Config::default()
    };
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join(SOURCES[0]))
        .with_src(root.join(SOURCES[1]))
        .generate()?;
    let mut header = Vec::new();
    bindings.write(&mut header);
    let header = without_line_comments(&String::from_utf8(header)?);
    write(&root.join(HEADER), &header)?;

    let version = std::env::var("CARGO_PKG_VERSION")?;
    let example = fs::read_to_string(root.join(EXAMPLE))?;
    write_pages(&root.join(PAGES), &man::pages(&header, &version, &example))
}

/// Writes the pages, and removes those of functions that are no more.
fn write_pages(dir: &Path, pages: &[(String, String)]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    for (name, page) in pages {
        write(&dir.join(name), page)?;
    }
    let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_one = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| names.contains(name));
        let text = fs::read_to_string(&path)?;
        if !is_one && (text.starts_with(man::MARK) || text.starts_with(".so ")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Leaves a file, and its time, alone when nothing has changed.
fn write(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    if !fs::read_to_string(path).is_ok_and(|before| before == text) {
        fs::write(path, text)?;
    }
    Ok(())
}

/// cbindgen writes some comments of its own as `// …`, which C89 does not know.
fn without_line_comments(header: &str) -> String {
    let lines = header.lines().map(|line| match line.split_once(" // ") {
        Some((code, comment)) if code.starts_with(['#', '}']) => {
            format!("{} /* {comment} */\n", code.trim_end())
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}
