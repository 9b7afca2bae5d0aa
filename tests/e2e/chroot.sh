#!/bin/sh
# From nothing to flame graphs: a minimal Debian 12 with only git, make, gcc and ca-certificates, a
# clone of this tree's last commit, `make demo` and `make check`. Needs root, debootstrap and the
# network, takes some minutes and a gigabyte; so it is run by hand, not by make check-e2e:
#
#   tests/e2e/chroot.sh [DIR]        DIR is kept for the next run; by default a temporary one
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || { echo "chroot.sh: needs root" >&2; exit 1; }

dir=${1:-$(mktemp -d "${TMPDIR:-/tmp}/weft-chroot.XXXXXX")}
root=$dir/root
mirror=${WEFT_MIRROR:-http://deb.debian.org/debian}
log=$dir/log
cleanup() {
    umount "$root/proc" 2>/dev/null || :
    [ -n "${1:-}" ] || rm -rf "$dir"
}
trap 'cleanup "${1:-}"' EXIT
# shellcheck disable=SC2064 # the argument as it is now
trap "cleanup '${1:-}'; exit 1" INT TERM HUP

if [ ! -e "$root/etc/debian_version" ]; then
    mkdir -p "$root"
    debootstrap --variant=minbase --include=git,make,gcc,ca-certificates bookworm "$root" "$mirror"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
rm -rf "$root/src"
git -c safe.directory='*' clone -q --no-local . "$root/src"

inside() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp sh -c "cd /src && $1" \
        </dev/null
}
inside 'make demo' | tee "$log"
inside 'make check' | tee -a "$log"
tail -n 1 "$log" | grep -q '^[0-9]* passed, 0 failed$'
for p in profile heap allocs block mutex goroutine; do
    [ -s "$root/src/build/demo/$p.pb.gz" ] || { echo "no $p.pb.gz" >&2; exit 1; }
    [ -s "$root/src/build/demo/$p.svg" ] || { echo "no $p.svg" >&2; exit 1; }
done
inside 'go tool pprof -top build/demo/profile.pb.gz 2>&1' | head -n 20
echo "chroot.sh: make demo and make check pass in a minimal Debian"
