//! The program: console, signals, options, exit codes.

use std::net::UdpSocket;
use std::process::Command as Process;

use kvs_proto::link::original::LinkCommand;

use crate::harness::*;
use crate::process::*;

#[test]
fn console_accepts_quit_only() {
    let (mut program, _) = ServerProcess::start(&mut command());
    for line in ["quit", "Quit now", "", "Create group"] {
        program.type_line(line);
        assert_eq!(program.printed.recv_timeout(TIMEOUT).unwrap(), "Unknown Command");
    }
    program.type_line("Quit");
    let (status, printed, _) = program.end();
    assert_eq!(printed, ["Exiting Authentification Server..."]);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn end_of_input_does_not_quit_and_a_signal_does() {
    for signal in ["TERM", "INT"] {
        let (mut program, address) = ServerProcess::start(&mut command());
        drop(program.input.take());
        // It serves after the end of its input.
        let local = RawLocalServer::connect(address, address.ip());
        assert!(local.create("g", "abcde"));
        local.disconnect();
        local.wait_until_closed();
        assert!(program.child.try_wait().unwrap().is_none());
        program.signal(signal);
        let (status, printed, _) = program.end();
        assert_eq!(printed.last().unwrap(), "Exiting Authentification Server...");
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
    }
}

#[test]
fn operations_are_logged_on_request_and_secrets_never() {
    let session = |command: &mut Process| {
        let (mut program, address) = ServerProcess::start(command);
        let local = RawLocalServer::connect(address, address.ip());
        assert!(local.create("group one", "s3cr7"));
        assert_eq!(local.secret("group one"), Some(text("s3cr7")));
        // The group is deleted with the link; that is logged, too.
        local.disconnect();
        local.wait_until_closed();
        program.type_line("Quit");
        let (_, printed, logged) = program.end();
        assert!(!printed.concat().contains("s3cr7") && !logged.concat().contains("s3cr7"));
        logged.iter().any(|line| line.contains("GetSecret"))
    };
    assert!(!session(&mut command()));
    assert!(session(command().arg("-v")));
    assert!(session(command().arg("--verbose")));
    assert!(session(command().env("KVS_VERBOSE", "1")));
    assert!(!session(command().env("KVS_VERBOSE", "0")));
}

#[test]
fn server_survives_running_out_of_descriptors() {
    let limited = "ulimit -S -n 32; ulimit -H -n 64; exec \"$0\"";
    let mut shell = Process::new("sh");
    let (mut program, address) =
        ServerProcess::start(shell.env_remove("KVS_VERBOSE").args(["-c", limited, PROGRAM]));
    let first = RawLocalServer::connect(address, address.ip());
    // More than the soft limit allows.
    let within: Vec<UdpSocket> = (0..20).map(|_| socket(address.ip())).collect();
    for client in &within {
        send_connect(client, address);
    }
    // More than the hard limit allows.
    let beyond: Vec<UdpSocket> = (0..20).map(|_| socket(address.ip())).collect();
    for client in &beyond {
        client.send_to(&LinkCommand::Connect.encode(), address).unwrap();
    }
    let refusal = "not answered: no more sockets";
    while !program.logged.recv_timeout(TIMEOUT).expect("the refusal is logged").contains(refusal) {}
    // The other refusals, all before the creation ends, are not logged: no peer can fill the log.
    assert!(first.create("g", "abcde"));
    assert!(!program.logged.try_iter().any(|line| line.contains(refusal)));
    first.disconnect();
    first.wait_until_closed();
    send_connect(&socket(address.ip()), address);
    program.type_line("Quit");
    assert_eq!(program.end().0.code(), Some(0));
}

#[test]
fn failed_start_reports_the_reason_and_exits_with_1() {
    let owner = socket(own_ip());
    let taken = owner.local_addr().unwrap();
    let finished = run(command().args(["--listen", &taken.to_string()]));
    assert_eq!(finished.status.code(), Some(1));
    let message = String::from_utf8(finished.stderr).unwrap();
    let start = format!("KVS-AuthServer: cannot listen on {taken}: ");
    assert!(message.starts_with(&start) && message.contains("in use"), "{message}");
    assert!(finished.stdout.is_empty());
}

#[test]
fn invalid_options_exit_with_2_and_help_names_all() {
    for wrong in [&["--listen", "somewhere"][..], &["--listen"], &["--unknown"], &["word"]] {
        assert_eq!(run(command().args(wrong)).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(run(command().env("KVS_LISTEN", "somewhere")).status.code(), Some(2));
    let help = String::from_utf8(run(command().arg("--help")).stdout).unwrap();
    let words = [
        "--listen",
        "KVS_LISTEN",
        "127.0.0.1:58032",
        "--verbose",
        "KVS_VERBOSE",
        "--links-per-machine",
        "KVS_LINKS_PER_MACHINE",
        "--groups-per-machine",
        "KVS_GROUPS_PER_MACHINE",
        "--confirm-wait",
        "KVS_CONFIRM_WAIT",
        "Quit",
    ];
    for word in words {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    let version = String::from_utf8(run(command().arg("--version")).stdout).unwrap();
    assert_eq!(version.trim(), format!("KVS-AuthServer {}", env!("CARGO_PKG_VERSION")));
}
