#!/bin/sh
# Starts the release binary on free ports, runs every scenario at small size against it and stops it. The exit status is the
# first scenario's that broke a threshold. Summaries and the server's log go to artifacts/k6.
#
#   loadtest/k6/run.sh [scenario ...]
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
k6=${K6:-$root/.tools/bin/k6}
server=${AURALINK:-$root/target/release/auralink}
out=$root/artifacts/k6
for program in "$k6" "$server"; do
    if [ ! -x "$program" ]; then
        echo "$program is missing; loadtest/k6/README.md says how it is made" >&2
        exit 2
    fi
done
mkdir -p "$out"

# A port nobody listens on, UDP or TCP. Others may take it in between; the server then says so and ends.
free_port() {
    port=$1
    while grep -qi ":$(printf '%04x' "$port") " /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6; do
        port=$((port + 1))
    done
    echo "$port"
}
http=$(free_port 17880)
udp=$(free_port 17882)
export AURALINK_URL="http://127.0.0.1:$http" LIVEKIT_API_KEY=suitekey LIVEKIT_API_SECRET=a-secret-of-the-browser-suite-0123456789

"$server" serve --keys "$LIVEKIT_API_KEY: $LIVEKIT_API_SECRET" --node-ip 127.0.0.1 --bind 127.0.0.1 --port "$http" \
    --udp-port "$udp" >"$out/server.log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null' EXIT

# Nothing but a shell is assumed, so k6 itself asks whether the server is ready.
tries=0
until "$k6" run --quiet --no-usage-report "$here/ready.js" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 20 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "the server is not ready:" >&2
        cat "$out/server.log" >&2
        exit 2
    fi
done

result=0
for scenario in "${@:-join-storm twirp reconnect-wave}"; do
    for name in $scenario; do
        echo "=== $name"
        "$k6" run --quiet --no-usage-report --summary-export "$out/$name.json" "$here/$name.js"
        status=$?
        [ "$result" -eq 0 ] && result=$status
    done
done
if ! kill -0 "$pid" 2>/dev/null; then
    echo "the server ended during the run:" >&2
    tail -20 "$out/server.log" >&2
    exit 2
fi
exit "$result"
