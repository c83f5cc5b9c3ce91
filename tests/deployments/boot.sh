#!/bin/sh
# Become process 1 of a small machine: $1 is an empty folder for what it writes, $2 the tree, $3 the
# folder of the Python that runs it. Called in namespaces of its own, so nothing of this is seen
# outside; /etc, /opt, /srv, /tmp, /run and /var are its own.
set -e
mount -t tmpfs tmpfs "$1"
for name in tmp run var etc work opt srv; do mkdir "$1/$name"; done
chmod 1777 "$1/tmp"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mkdir -p "$1/opt/warren/.venv/bin" "$1/opt/python" "$1/srv/warren"
mount --bind "$3" "$1/opt/python"
mount --bind "$2" "$1/srv/warren"
mount --rbind "$1/opt" /opt
mount --rbind "$1/srv" /srv
mount --bind "$1/var" /var
mkdir -p /var/tmp /var/lib /var/log
mount --bind "$1/run" /run
mount --bind "$1/tmp" /tmp
rm -f /etc/systemd/system/*.wants/* /etc/machine-id
echo uninitialized > /etc/machine-id
ln -sf /lib/systemd/system/basic.target /etc/systemd/system/default.target
for unit in systemd-udevd systemd-networkd systemd-resolved systemd-timesyncd systemd-logind; do
  ln -sf /dev/null "/etc/systemd/system/$unit.service"
done
# Where that Python was built, its own libpython is found by a path that a service may not enter.
echo /opt/python/lib > /etc/ld.so.conf.d/00-warren.conf
ldconfig 2>/dev/null
ip link set lo up
exec env -i container=warren PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --log-target=journal --show-status=0
