#!/bin/sh
# The embedded set: the same 2x5 table over 3 seeds, two runs at a time with one thread each (an hour on 2 cores).
# LONGER=yes adds stage 1 alone trained for as many seconds as both stages.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
SEEDS=${SEEDS:-0 1 2} NPROC=${NPROC:-2} TABLE_FLAGS=--differences sh recipes/table.sh emoji "$@"
