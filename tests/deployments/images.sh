#!/bin/sh
# Make an engine's root and the two images that no registry gives us here, from Debian's packages, into
# the folder $1, once. `python` is Debian's own, `rabbitmq` what tests/rabbitmq4/unpack takes apart.
set -e
PATH=$PATH:/usr/sbin
here=$(dirname "$(readlink -f "$0")")
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' | grep -m1 '/debian/\?$')
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

command -v debootstrap >/dev/null || apt-get install -qq -y --no-install-recommends debootstrap >&2
"$here/../rabbitmq4/unpack" forky
mkdir -p "$1"
if [ ! -e "$1/root" ]; then
    rm -rf "$1/fetched" "$1/engine"
    # Engine 26 and Compose 2.24 are what `subpath` needs: Debian 13 has them, Debian 12 has not.
    debootstrap --download-only --variant=minbase --keyring="$keyring" \
        --include=docker.io,docker-cli,docker-compose,docker-buildx,iptables,ca-certificates \
        trixie "$1/fetched" "$mirror" /usr/share/debootstrap/scripts/sid >"$1/unpack.log" 2>&1
    for package in "$1"/fetched/var/cache/apt/archives/base-files_*.deb \
        "$1"/fetched/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$1/engine"
    done
    mv "$1/engine" "$1/root"
    rm -rf "$1/fetched"
fi
if [ ! -e "$1/python" ]; then
    rm -rf "$1/bookworm"
    debootstrap --variant=minbase --include=python3,python3-pip --keyring="$keyring" \
        bookworm "$1/bookworm" "$mirror" >>"$1/unpack.log" 2>&1
    rm -f "$1/bookworm/usr/lib/python3.11/EXTERNALLY-MANAGED"
    rm -rf "$1"/bookworm/var/cache/apt/archives/*.deb
    ln -sf python3 "$1/bookworm/usr/bin/python"
    # Whom this machine's pip believes, the images' have to believe too.
    mkdir -p "$1/bookworm/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$1/bookworm/etc/ssl/certs/ca-certificates.crt"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$1/bookworm/etc/pip.conf"
    mv "$1/bookworm" "$1/python"
fi

rabbit=$1/rabbitmq
rm -rf "$rabbit"
for folder in etc/rabbitmq opt/bin tmp var/lib/rabbitmq var/log/rabbitmq run root dev proc sys; do
    mkdir -p "$rabbit/$folder"
done
chmod 1777 "$rabbit/tmp"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$rabbit/$name"; done
cp -al "$here/../../.rabbitmq4/forky/usr" "$rabbit/usr"
printf 'root:x:0:0::/root:/bin/sh\nrabbitmq:x:999:999::/var/lib/rabbitmq:/bin/sh\n' >"$rabbit/etc/passwd"
printf 'root:x:0:\nrabbitmq:x:999:\n' >"$rabbit/etc/group"
echo '[rabbitmq_management,rabbitmq_prometheus].' >"$rabbit/etc/rabbitmq/enabled_plugins"
cat >"$rabbit/opt/bin/docker-entrypoint.sh" <<'S'
#!/bin/sh
set -e
chown rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
exec setpriv --reuid=999 --regid=999 --clear-groups "$@"
S
cat >"$rabbit/opt/bin/rabbitmq-diagnostics" <<'S'
#!/bin/sh
exec setpriv --reuid=999 --regid=999 --clear-groups /usr/lib/rabbitmq/bin/rabbitmq-diagnostics "$@"
S
chmod 755 "$rabbit"/opt/bin/*
