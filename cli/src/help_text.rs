//! The parts of `--help` that clap does not generate: examples, exit codes, environment, JSON.

/// After `-h` and `--help`.
pub(crate) const EXAMPLES_AND_EXIT_CODES: &str = "\
Examples:
  export KVS_GROUP=weather KVS_SECRET_FILE=~/.weather-secret
  kvs put temperature 21.5
  kvs get temperature
  kvs put picture <sky.png && kvs get picture >copy.png
  kvs watch temperature --exec 'echo it has $(cat) degrees'
  kvs status >/dev/null || echo 'the server is down'
  kvs admin create weather --secret-file ~/.weather-secret
  kvs                                  opens a prompt
  kvs <commands                        runs one command per line

Exit codes:
  0  success
  1  no such key
  2  wrong command line, or the group or the secret is missing
  3  no connection: no server, connection lost, or timeout
  4  refused: wrong secret, no such group, or too many connections
  5  conflict: the key does not have the version of --if-version
  6  limit: a key or value is too large, your user has reached a limit, or the
     protocol does not support the operation
  7  file or system error";

/// After `--help` alone.
pub(crate) const DETAILS: &str = "\
Environment (an empty variable counts as unset; an option overrides its variable,
and both override the file of --config):
  KVS_GROUP            the group
  KVS_SECRET_FILE      a file whose first line is the secret; only its owner
                       should be able to read it
  KVS_SECRET           the secret itself; overrides KVS_SECRET_FILE, but not
                       --secret-file
  KVS_SOCKET           the socket of the server
  KVS_CALLBACK_SOCKET  the socket for callback channels; ignored with --socket
  KVS_TIMEOUT_MS       the timeout of a call in milliseconds
  KVS_CONFIG           the configuration file
  XDG_CONFIG_HOME      without KVS_CONFIG, the configuration file is
                       kvs/kvs.toml in this directory or in ~/.config
  KVS_PROTOCOL         original: always use protocol v1, the original one
  XDG_STATE_HOME       the history of the prompt is kvs/history in this
                       directory or in ~/.local/state

Without a command:
  On a terminal kvs opens a prompt for the same commands, with a history, the
  tab key, and watches that report above the line while you type. \"help\" lists
  the commands. Without a terminal kvs reads commands from standard input, one
  per line, with the quoting of the shell and # for comments. A failed command
  does not stop the others; the exit code is that of the last failed command.
  Each value is printed with a line feed.

JSON (--json): one object per line. Results go to standard output:
  get     {\"key\":\"temperature\",\"value\":\"21.5\",\"version\":7}
  put     {\"key\":\"temperature\",\"version\":8}
  delete  {\"key\":\"temperature\",\"deleted\":true}
  keys    {\"key\":\"temperature\"}
  watch   {\"event\":\"changed\",\"key\":\"door\",\"value\":\"open\",\"version\":9}
          {\"event\":\"deleted\",\"key\":\"door\"}
          {\"event\":\"initial\",…} like \"changed\", with --initial
  status  {\"server\":\"/tmp/server_sock\",\"group\":\"weather\",
           \"session\":\"framed\",\"keys\":1,\"round_trip_us\":35.2}
  Bytes that are not UTF-8 are base64 in a field whose name ends with _base64:
  \"key_base64\", \"value_base64\", \"group_base64\", \"server_base64\". \"session\" is
  \"framed\" for protocol v2 and \"original\" for protocol v1, which has no
  \"version\" and whose \"keys\" is null.

  Errors, warnings and the start of a watch go to standard error:
          {\"error\":\"no_such_key\",\"message\":\"there is no key …\",
           \"key\":\"temperature\",\"exit_code\":1}
          {\"warning\":\"exposed_secret\",\"message\":\"…\"}
          {\"event\":\"watching\",\"group\":\"weather\"}
          {\"note\":\"…\"} for the user at a terminal
  The errors, by exit code:
    1  no_such_key
    2  usage, no_group, no_secret
    3  no_server, no_login, timed_out, connection_lost
    4  refused, wrong_secret, no_such_group
    5  conflict, with the current \"version\" of the key (0: no such key)
    6  too_large, limit, unsupported
    7  system";
