#!/bin/sh
# Stanford Online Products: 2 stage-1 runs, 8 stage-2 runs, 10 evaluations a seed, with the ancestor's flags.
# SEEDS="0 1 2" for more seeds, NPROC for more runs at a time (OMP_NUM_THREADS for the threads of each), LONGER=yes for
# stage 1 alone with the steps of both.
set -eu
cd "$(dirname "$0")/.."
[ -d data/Stanford_Online_Products ] || sh data/download_sop.sh
SEEDS=${SEEDS:-0} TABLE_FLAGS=--reference=ancestor sh recipes/table.sh sop "$@"
