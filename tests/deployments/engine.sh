#!/bin/sh
# Become process 1 of a machine with a container engine: $1 is its root, $2 the folder for what it
# writes, $3 the tree, the rest are arguments of dockerd. Called in namespaces of its own: no mount, no
# bridge and no rule of a firewall of the engine is seen outside.
set -e
root=$1 data=$2 tree=$3
shift 3
mkdir -p "$data/docker" "$data/run" "$data/tmp"
mount --bind "$root" "$root"
cd "$root"
mkdir -p proc sys dev run tmp var/lib/docker srv/warren old
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount --bind "$data/run" run
mount --bind "$data/tmp" tmp
mount --bind "$data/docker" var/lib/docker
mount --bind "$tree" srv/warren
# What Debian's maintainer scripts would have linked; they never ran here.
rm -rf var/run
ln -s ../run var/run
ln -sf xtables-nft-multi usr/sbin/iptables
ln -sf xtables-nft-multi usr/sbin/ip6tables
cp /etc/resolv.conf /etc/hosts etc/
ip link set lo up
# Not chroot: a process that enters a container's mount namespace, as `docker exec` and health checks
# do, finds the namespace's root, which chroot leaves at this machine's.
pivot_root . old
cd /
umount -l /old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root dockerd --bridge=none "$@"
