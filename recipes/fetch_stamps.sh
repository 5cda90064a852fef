#!/bin/sh
# Prints the folder of Tux Paint's stamps: STAMPS, or where they are fetched to by apt the first time (161 MB, GPL-2;
# output/texts/package, of which nothing is part of this repository).
set -eu
cd "$(dirname "$0")/.."
root=output/texts
stamps=${STAMPS:-$root/package/usr/share/tuxpaint/stamps}
if [ ! -d "$stamps" ]; then
    mkdir -p "$root/package"
    (cd "$root" && apt-get download tuxpaint-stamps-default) >&2
    dpkg-deb -x "$root"/tuxpaint-stamps-default_*.deb "$root/package"
    rm "$root"/tuxpaint-stamps-default_*.deb
fi
echo "$stamps"
