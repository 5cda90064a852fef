#!/bin/sh
# Stage 1 of the embedded set in float32 and in bfloat16 over 3 seeds: is the same learnt? Two runs at a time with one
# thread each (half an hour on 2 cores).
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHON="${PYTHON:-python}"
root=${1:-output/precision}
for precision in fp32 bf16; do
    for seed in ${SEEDS:-0 1 2}; do echo "emoji $seed arcmargin $root/$precision"; done |
        EXTRA="--precision=$precision ${EXTRA:-}" xargs -P "${NPROC:-2}" -L 1 sh recipes/run.sh
done
for precision in fp32 bf16; do
    echo "$precision"
    $PYTHON recipes/table.py "$root/$precision"
done
