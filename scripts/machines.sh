#!/usr/bin/env bash
# Machines to try a cluster on, made of this one: each with a network address, a host name, processes, /tmp/ray and
# /dev/shm of its own. They share the disk, so any folder is shared storage. Linux, as root; needs ip, unshare, nsenter.
#
#     scripts/machines.sh up head one two laptop        # 10.77.0.11, .12, ... in this order
#     scripts/machines.sh on head "ray start --head --num-cpus=0"
#     scripts/machines.sh cut one                       # pull its network cable
#     scripts/machines.sh mend one                      # and plug it in again
#     scripts/machines.sh crash head                    # everything on it dies at once; it is up again, empty
#     scripts/machines.sh down                          # take all away
#
# What listens on a machine's own 127.0.0.1 is reached from another through `tunnel`, the stand-in for `ssh -L`:
#
#     scripts/machines.sh tunnel laptop 8265 head       # laptop's 127.0.0.1:8265 is head's
set -euo pipefail

STATE=${MACHINES_STATE:-/tmp/machines}
BRIDGE=machines0

start() { # NAME: its first process, whose end is the machine's
    local name=$1
    mkdir -p "$STATE/$name/home"
    ip netns exec "machine-$name" unshare --pid --fork --mount-proc --mount --uts bash -c "
        hostname $name
        mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && mount -t tmpfs -o size=2g none /dev/shm
        exec sleep infinity" < /dev/null > /dev/null 2>&1 &
    local outer=$!
    disown
    until pgrep -P "$outer" -x sleep > "$STATE/$name/pid"; do sleep 0.1; done
}

inside() { # NAME COMMAND: in a login of its own there
    local name=$1
    shift
    exec nsenter -t "$(cat "$STATE/$name/pid")" -p -m -n -u env -i HOME="$STATE/$name/home" PATH="$PATH" \
        TERM="${TERM:-dumb}" LANG=C.UTF-8 bash -c "cd; $*"
}

names() { ls "$STATE" 2> /dev/null || true; }

case ${1:-} in
    up)
        shift
        ip link add $BRIDGE type bridge
        ip addr add 10.77.0.1/24 dev $BRIDGE
        ip link set $BRIDGE up
        number=11
        for name in "$@"; do
            ip netns add "machine-$name"
            ip link add "to-$name" type veth peer name eth0 netns "machine-$name"
            ip link set "to-$name" master $BRIDGE up
            ip -n "machine-$name" addr add "10.77.0.$number/24" dev eth0
            ip -n "machine-$name" link set eth0 up
            ip -n "machine-$name" link set lo up
            ip -n "machine-$name" route add default via 10.77.0.1
            start "$name"
            echo "$name 10.77.0.$number"
            number=$((number + 1))
        done
        ;;
    on) shift && inside "$@" ;;
    cut) ip link set "to-$2" down ;;
    mend) ip link set "to-$2" up ;;
    crash)
        kill -9 "$(cat "$STATE/$2/pid")"
        start "$2"
        ;;
    tunnel) # NAME PORT TO: a TCP port there, a socket on the shared disk between, a TCP port here
        socket=$STATE/tunnel-$2-$4-$3
        rm -f "$socket"
        relay='
import asyncio, sys
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data); await writer.drain()
    finally:
        writer.close()
async def main(side, port, path):
    async def serve(reader, writer):
        try:
            far = await (asyncio.open_connection("127.0.0.1", port) if side == "to" else asyncio.open_unix_connection(path))
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, far[1]), pump(far[0], writer), return_exceptions=True)
    server = await (asyncio.start_unix_server(serve, path) if side == "to" else asyncio.start_server(serve, "127.0.0.1", port))
    await server.serve_forever()
asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))'
        for side in to from; do
            name=$([ $side = to ] && echo "$4" || echo "$2")
            (inside "$name" "exec python3 -c '$relay' $side $3 $socket") < /dev/null > /dev/null 2>&1 &
            disown
        done
        ;;
    down)
        for name in $(names); do
            [ -f "$STATE/$name/pid" ] && kill -9 "$(cat "$STATE/$name/pid")" 2> /dev/null || true
            ip link del "to-$name" 2> /dev/null || true
            ip netns del "machine-$name" 2> /dev/null || true
        done
        ip link del $BRIDGE 2> /dev/null || true
        rm -rf "$STATE"
        ;;
    *)
        sed -n '2,/^set /{/^set /!p}' "$0"
        exit 2
        ;;
esac
