#!/usr/bin/env bash
#
# demo.sh - the whole system at work, on this machine's own figures.
#
# Starts both servers on private paths and ports, creates a group on the console, publishes
# /proc/meminfo and /proc/loadavg in it with meminfo.c while watch.c prints the changes of some
# keys, shows the group's information on the console, and stops everything. Exits 0 if all of that
# succeeds and no process or file remains. Build first (`make demo` does both):
#
#     cargo build --release && make -C c-examples && c-examples/demo.sh
#
# The script communicates with each process through fifos in a private directory. It opens their
# outputs for reading only, so that the end of a process is the end of its output. It never sleeps,
# and each wait has a TIMEOUT in seconds.

set -euo pipefail

TIMEOUT=5
ROUNDS=8
INTERVAL_MS=250
KEYS=(MemFree load1 lastpid)

examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
servers=$examples/../target/release

# The caller's own settings must not affect the demo.
unset KVS_LISTEN KVS_AUTH KVS_EXIT_ON_AUTH_LOSS KVS_VERBOSE KVS_TIMEOUT_MS KVS_DEBUG

work=$(mktemp -d "${TMPDIR:-/tmp}/kvs-demo.XXXXXX")
export KVS_SOCKET=$work/socket
export KVS_CALLBACK_SOCKET=$work/socket_cb

pids=() # everything started and not yet waited for

cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    if ((${#pids[@]} > 0)); then
        kill -KILL "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if ((status != 0)); then
        for log in "$work"/*.log; do
            [[ -s $log ]] && sed "s/^/${log##*/}: /" "$log" >&2
        done
        echo "demo: failed" >&2
    fi
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    echo "demo: $*" >&2
    exit 1
}

heading() {
    printf '\n--- %s\n' "$*"
}

# started PID: remembers a process for the end.
started() {
    pids+=("$1")
}

# finished PID NAME: waits for a process that has closed its output; it must have succeeded.
finished() {
    local pid=$1 name=$2 status=0 remaining=()
    wait "$pid" || status=$?
    for other in "${pids[@]}"; do
        [[ $other == "$pid" ]] || remaining+=("$other")
    done
    pids=(${remaining[@]+"${remaining[@]}"})
    ((status == 0)) || fail "$name exited with $status"
}

# show_until FD PREFIX PATTERN: prints a process's lines before the matching one, which is in $line.
show_until() {
    local fd=$1 prefix=$2 pattern=$3 status
    while true; do
        status=0
        IFS= read -r -t "$TIMEOUT" -u "$fd" line || status=$?
        ((status <= 128)) || fail "$prefix: '$pattern' did not come within $TIMEOUT s"
        ((status == 0)) || fail "$prefix: '$pattern' did not come before the end of the output"
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $line == $pattern ]] && return
        show "$prefix" "$line"
    done
}

# expect FD PREFIX PATTERN: as show_until, and prints the matching line.
expect() {
    show_until "$@"
    show "$2" "$line"
}

# drain FD PREFIX: prints a process's remaining lines.
drain() {
    local fd=$1 prefix=$2 status
    while true; do
        status=0
        IFS= read -r -t "$TIMEOUT" -u "$fd" line || status=$?
        ((status <= 128)) || fail "$prefix: neither a line nor the end within $TIMEOUT s"
        ((status == 0)) || return 0
        show "$prefix" "$line"
    done
}

# show PREFIX LINE: prints a line, and stores it for the check at the end.
show() {
    local row
    printf -v row '%-12s| %s' "$1" "$2"
    printf '%s\n' "$row"
    printf '%s\n' "$row" >>"$work/transcript"
}

# type_in FD PREFIX LINE: types a line on a server's console.
type_in() {
    show "$2" "> $3"
    printf '%s\n' "$3" >&"$1"
}

for program in "$servers"/KVS-AuthServer "$servers"/KVS-LocalServer "$examples"/{meminfo,watch}; do
    [[ -x $program ]] || fail "$program is missing; build first: make demo"
done
mkfifo "$work"/{auth,local}.{in,out} "$work/auth.err" "$work/watch.out"
# Opened for reading and writing, which does not block: a fifo opened for one direction waits for
# its other end.
exec {auth_in}<>"$work/auth.in" {local_in}<>"$work/local.in"

heading "The authentication server starts, on a free UDP port"
"$servers/KVS-AuthServer" --listen 127.0.0.1:0 \
    <"$work/auth.in" >"$work/auth.out" 2>"$work/auth.err" &
auth=$!
started "$auth"
exec {auth_out}<"$work/auth.out" {auth_err}<"$work/auth.err"
show_until "$auth_err" AuthServer "*listening on *"
address=${line##*listening on }
show AuthServer "listening on $address"
cat <&"$auth_err" >"$work/auth.log" &
auth_log=$!
started "$auth_log"

heading "The local server of this machine starts, and is given a port by the authentication server"
"$servers/KVS-LocalServer" --auth "$address" --socket "$KVS_SOCKET" \
    <"$work/local.in" >"$work/local.out" 2>"$work/local.log" &
local=$!
started "$local"
exec {local_out}<"$work/local.out"
expect "$local_out" LocalServer "Port Number: *"
expect "$auth_out" AuthServer "New Local Server Connected"

heading "The administrator creates a group on the local server's console"
type_in "$local_in" LocalServer "Create group"
expect "$local_out" LocalServer "Insert group id:"
type_in "$local_in" LocalServer "machine"
expect "$local_out" LocalServer "Group *"
[[ $line == "Group created with secret "?????! ]] || fail "the group was not created"
secret=${line#Group created with secret }
secret=${secret%!}
expect "$auth_out" AuthServer "Group created!"

# publish ROUNDS: runs the publisher; its exit code is the pipeline's (pipefail).
publish() {
    "$examples/meminfo" -i "$INTERVAL_MS" -n "$1" machine "$secret" 2>&1 |
        while IFS= read -r line; do show meminfo "$line"; done
}

heading "A first round of /proc/meminfo and /proc/loadavg, so that there are keys to watch"
publish 1 || fail "meminfo failed"

heading "A second program watches ${KEYS[*]} while the publisher refreshes everything"
"$examples/watch" machine "$secret" "${KEYS[@]}" >"$work/watch.out" 2>"$work/watch.log" &
watch=$!
started "$watch"
exec {watch_out}<"$work/watch.out"
expect "$watch_out" watch "watching *"
drain "$watch_out" watch &
changes=$!
started "$changes"
publish "$ROUNDS" || fail "meminfo failed"

heading "What the administrator sees: the applications, past and present, and what they watch"
type_in "$local_in" LocalServer "Show application status"
# The response has no end mark; the prompt of the next command follows it.
printf 'Show group info\nmachine\n' >&"$local_in"
show_until "$local_out" LocalServer "Insert group id:"

heading "What the administrator sees: the group"
show LocalServer "> Show group info"
show LocalServer "$line"
show LocalServer "> machine"
expect "$local_out" LocalServer "Number of key-value pairs: *"

heading "The group is deleted: its applications are notified and close their connections"
type_in "$local_in" LocalServer "Delete group"
expect "$local_out" LocalServer "Insert group id:"
type_in "$local_in" LocalServer "machine"
expect "$auth_out" AuthServer "Group deleted!"
expect "$local_out" LocalServer "Group deleted!"
finished "$changes" "the display of watch's output"
finished "$watch" watch

heading "Both servers quit"
type_in "$local_in" LocalServer "Quit"
drain "$local_out" LocalServer
finished "$local" KVS-LocalServer
type_in "$auth_in" AuthServer "Quit"
drain "$auth_out" AuthServer
finished "$auth" KVS-AuthServer
finished "$auth_log" "the copy of AuthServer's log"

for key in "${KEYS[@]}"; do
    grep -q "^watch *| $key = " "$work/transcript" || fail "watch saw no change of $key"
done
((${#pids[@]} == 0)) || fail "still running: ${pids[*]}"
for path in "$KVS_SOCKET" "$KVS_CALLBACK_SOCKET" /tmp/app_socket_{,cb_}"$watch"; do
    [[ ! -e $path ]] || fail "left behind: $path"
done

heading "Done: every program exited with 0 and nothing is left behind"
