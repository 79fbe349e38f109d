"""What runs in the guest: the first process, which loads the drivers and then does what it is told.

It listens at a virtio-serial port, where each side writes lines:

    run ID SCRIPT       to the guest; the script in base64
    kill ID             to the guest: end the script and all that it started
    ready RELEASE       from the guest, once
    out ID PIECE        from the guest: what the script printed, in base64
    end ID STATUS       from the guest
"""

from __future__ import annotations

__all__ = ()  # of use to this room only

PORT = "paravirt"
"""The name of the port."""
KILLED = 128 + 9  # as a shell reports SIGKILL

INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /mnt /root /usr/bin /usr/sbin /sbin
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
exec </dev/console >/dev/console 2>&1
for module in $(cat /modules/order); do insmod /modules/$module; done

# A piece is small enough for its line to be one write, which no other line gets into.
pump() {{
    while dd bs=23000 count=1 2>/dev/null >/run/$1.piece && [ -s /run/$1.piece ]; do
        echo "out $1 $(base64 -w 0 /run/$1.piece)" >&3
    done
    echo "end $1 $(cat /run/$1.status 2>/dev/null || echo {KILLED})" >&3
    rm -f /run/$1.*
}}

# The script has a session of its own, so that it can be killed with all that it started.
start() {{
    mkfifo /run/$1.out
    echo "$2" | base64 -d >/run/$1.sh
    setsid sh -c "sh /run/$1.sh; echo \\$? >/run/$1.status" \\
        </dev/null >/run/$1.out 2>&1 3>&- &
    echo $! >/run/$1.pid
    pump $1 </run/$1.out &
}}

port=
while [ -z "$port" ]; do
    for found in /sys/class/virtio-ports/*; do
        [ "$(cat $found/name 2>/dev/null)" = {PORT} ] && port=/dev/${{found##*/}}
    done
done
exec 3<>$port
echo "ready $(uname -r)" >&3
# The port reads as ended while nobody is connected to it: at the start for a moment, in a
# migration, and for good if whoever started the guest is gone.
alone=0
while [ $alone -lt 100 ]; do
    while read -r verb id text <&3; do
        alone=0
        case $verb in
        run) start $id "$text" ;;
        kill) kill -9 -$(cat /run/$id.pid) ;;
        esac
    done
    alone=$((alone + 1))
    usleep 100000
done
poweroff -f
"""
