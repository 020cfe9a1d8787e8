#!/bin/sh
# Turns the folder ROOT into the root of a host of its own and becomes its init: systemd, as process 1.
# usage: boot.sh ROOT [SOURCE PATH]...      each SOURCE is seen at PATH, read-only
#
# Runs in namespaces of its own (`booted.rs` makes them): no mount is seen outside, and all of them go with systemd.
# Programs come from this machine's /usr, read-only; /etc, /var and /run are ROOT's own. Of the units that the
# distribution starts none runs but the journal.
set -eu
root=$1
shift

mount --bind "$root" "$root"
cd "$root"
mkdir -p etc/systemd/system proc sys dev run tmp var/lib var/tmp root mnt usr .usr
ln -sfn /run var/run
chmod 1777 tmp var/tmp

mount -t tmpfs -o mode=755 tmpfs .usr
mkdir .usr/upper .usr/work
mount -t overlay -o lowerdir=/usr,upperdir=.usr/upper,workdir=.usr/work overlay usr
for path in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$path" ]; then
        ln -sfn "$(readlink "/$path")" "$path"
    elif [ -d "/$path" ]; then
        mkdir -p "$path"
        mount --bind "/$path" "$path"
        mount -o remount,bind,ro "$path"
    fi
done
while [ $# -ge 2 ]; do
    if [ -d "$1" ]; then
        mkdir -p "./$2"
    else
        mkdir -p "./$(dirname "$2")"
        : > "./$2"
    fi
    mount --bind "$1" "./$2"
    mount -o remount,bind,ro "./$2"
    shift 2
done
mount -o remount,ro usr

# What this machine calls its users and addresses, and where its libraries are.
for file in ld.so.cache ld.so.conf passwd group hosts nsswitch.conf; do
    [ -e "etc/$file" ] || [ ! -e "/etc/$file" ] || cp "/etc/$file" "etc/$file"
done
for folder in ld.so.conf.d alternatives; do
    [ -e "etc/$folder" ] || [ ! -e "/etc/$folder" ] || cp -a "/etc/$folder" etc/
done
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
for unit in /usr/lib/systemd/system/*.target.wants/* /lib/systemd/system/*.target.wants/*; do
    name=$(basename "$unit")
    case "$name" in
        '*' | systemd-journald* | systemd-journal-flush.service) ;;
        *) ln -sfn /dev/null "etc/systemd/system/$name" ;;
    esac
done

# The kernel's files: this process namespace's own, and nothing in them that changes the machine.
mount -t proc -o nosuid,nodev,noexec proc proc
for path in proc/sys proc/sysrq-trigger proc/irq proc/bus; do
    [ -e "$path" ] || continue
    mount --bind "$path" "$path"
    mount -o remount,bind,ro "$path"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run

mkdir -p .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
# As on a host: what is mounted later is seen by services in mount namespaces of their own.
mount --make-rshared /
# `container` tells systemd that the kernel is not its own.
exec env -i container=private PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_boot,-sys_module,-sys_time,-sys_rawio,-syslog \
    /lib/systemd/systemd --log-target=journal --log-level=info --show-status=0
