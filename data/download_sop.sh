#!/bin/sh
# Download Stanford Online Products (3.1 GB), unpack it to data/Stanford_Online_Products and check it.
#
#   sh data/download_sop.sh                           an interrupted download goes on where it stopped
#   SOP_ZIP=path/to.zip sh data/download_sop.sh       unpack and check a file that is already there
#
# Settings, all by environment: SOP_DIR (where to put it), SOP_URL (addresses to try, separated by spaces), PYTHON,
# and SOP_SIZE (bytes), SOP_SHA256, SOP_TRAIN, SOP_TEST ("images labels"). An empty SOP_SIZE or SOP_SHA256 is no check.
#
# The makers of the set (Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016;
# http://cvgl.stanford.edu/projects/lifted_struct/) publish its counts, but no checksum that we know of. Size and
# SHA-256 are those on record in TensorFlow Datasets; the counts have the last word.
set -eu

SOP_DIR=${SOP_DIR-$(dirname "$0")}
SOP_ZIP=${SOP_ZIP-}
SOP_URL=${SOP_URL-http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip \
ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip}
SOP_SIZE=${SOP_SIZE-3083860082}
SOP_SHA256=${SOP_SHA256-b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48}
SOP_TRAIN=${SOP_TRAIN-59551 11318}
SOP_TEST=${SOP_TEST-60502 11316}
PYTHON=${PYTHON-python3}

target=$SOP_DIR/Stanford_Online_Products
unpacking=$target.unpacking
downloaded=$target.zip
partial=$downloaded.part

fail() {
    echo "download_sop: $*" >&2
    exit 1
}

size() {
    wc -c < "$1" | tr -d ' '
}

sha256() {
    if command -v sha256sum > /dev/null; then sha256sum < "$1"; else shasum -a 256 < "$1"; fi | cut -d ' ' -f 1
}

# Print the first thing that is wrong with list $2 of folder $1, expected to hold $3 ("images labels"), or nothing.
list_problem() {
    [ -f "$1/$2" ] || { echo "$2 is missing"; return; }
    found=$(awk 'NR > 1 && NF { images++; if (!seen[$2]++) labels++ } END { print images + 0, labels + 0 }' "$1/$2")
    [ "$found" = "$3" ] || { echo "$2 has $found images and labels, expected $3"; return; }
    awk 'NR > 1 && NF { print $4 }' "$1/$2" | while read -r path; do
        [ -s "$1/$path" ] || { echo "$2 names $path, which is missing or empty"; break; }
    done
}

problem() {
    train=$(list_problem "$1" Ebay_train.txt "$SOP_TRAIN")
    if [ -n "$train" ]; then echo "$train"; else list_problem "$1" Ebay_test.txt "$SOP_TEST"; fi
}

# Fetch $1 into $partial, going on after the bytes that are there.
fetch() {
    if command -v curl > /dev/null; then
        curl --fail --location --retry 3 --connect-timeout 30 --speed-limit 1000 --speed-time 60 --progress-bar \
            --show-error --continue-at - --output "$partial" "$1"
    elif command -v wget > /dev/null; then
        wget --no-verbose --show-progress --tries=3 --timeout=60 --continue --output-document="$partial" "$1"
    else
        fail "neither curl nor wget is installed; install one of them, or fetch $1 by hand and set SOP_ZIP to the file"
    fi
}

complete() {
    [ -f "$partial" ] && [ -n "$SOP_SIZE" ] && [ "$(size "$partial")" -eq "$SOP_SIZE" ]
}

download() {
    for url in $SOP_URL; do
        if complete; then break; fi
        echo "downloading $url"
        if fetch "$url"; then mv "$partial" "$downloaded"; return; fi
    done
    if complete; then mv "$partial" "$downloaded"; return; fi
    [ -s "$partial" ] || rm -f "$partial"
    fail "no download from $SOP_URL. Run this again to go on (delete $partial to start afresh)," \
        "or fetch the file elsewhere and put it at $downloaded"
}

[ -d "$SOP_DIR" ] || fail "SOP_DIR=$SOP_DIR: there is no such folder"
if [ -e "$target" ]; then
    wrong=$(problem "$target")
    [ -z "$wrong" ] || fail "$target is there but not whole: $wrong. Move it away and run this again"
    echo "done already: $target is there, and its lists and images are complete"
    exit 0
fi

if [ -n "$SOP_ZIP" ]; then
    [ -f "$SOP_ZIP" ] || fail "SOP_ZIP=$SOP_ZIP: there is no such file"
else
    [ -f "$downloaded" ] || download
    SOP_ZIP=$downloaded
fi

again="Delete it and run this again, or set SOP_SIZE= SOP_SHA256= if you trust it: the counts are checked all the same"
if [ -n "$SOP_SIZE" ] && [ "$(size "$SOP_ZIP")" -ne "$SOP_SIZE" ]; then
    fail "$SOP_ZIP has $(size "$SOP_ZIP") bytes, expected $SOP_SIZE. $again"
fi
if [ -n "$SOP_SHA256" ]; then
    echo "checking $SOP_ZIP"
    [ "$(sha256 "$SOP_ZIP")" = "$SOP_SHA256" ] || fail "the SHA-256 of $SOP_ZIP is not $SOP_SHA256. $again"
fi

# Unpacked beside the target and renamed when whole, so that a folder of that name is always complete.
trap 'rm -rf "$unpacking"' EXIT
trap 'exit 130' INT TERM
rm -rf "$unpacking"
echo "unpacking $SOP_ZIP, which takes some minutes"
reason=$("$PYTHON" -m zipfile -e "$SOP_ZIP" "$unpacking" 2>&1) ||
    fail "cannot unpack $SOP_ZIP: $(printf '%s\n' "$reason" | tail -n 1)"
wrong=$(problem "$unpacking/Stanford_Online_Products")
[ -z "$wrong" ] || fail "$SOP_ZIP is not the whole data set: $wrong"
mv "$unpacking/Stanford_Online_Products" "$target"
echo "done: $target is complete; $SOP_ZIP is no longer needed"
