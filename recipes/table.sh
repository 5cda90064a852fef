#!/bin/sh
# All runs of a set's table, NPROC at a time, then the table: SEEDS="0 1 2" NPROC=2 sh recipes/table.sh SET [ROOT]
set -eu
set_name=$1 root=${2:-output/$1}
here=$(dirname "$0")
export PYTHON="${PYTHON:-python}"
all() { # each line of names crossed with the seeds
    for seed in $SEEDS; do for name in "$@"; do echo "$set_name $seed $name $root"; done; done
}
runs() { all "$@" | xargs -P "${NPROC:-1}" -L 1 sh "$here/run.sh"; }
runs softmax arcmargin
runs softmax+triplet softmax+quadruplet softmax+eml softmax+npairs \
    arcmargin+triplet arcmargin+quadruplet arcmargin+eml arcmargin+npairs
if [ "${LONGER:-no}" = yes ]; then runs softmax+longer arcmargin+longer; fi
$PYTHON "$here/table.py" "$root" ${TABLE_FLAGS:-}
