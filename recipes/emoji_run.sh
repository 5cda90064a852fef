#!/bin/sh
# One run of the embedded set's table: sh recipes/emoji_run.sh SEED NAME [ROOT]
# NAME is softmax, arcmargin, <one of them>+<pair loss>, or <one of them>+longer. A finished run is skipped, an
# interrupted one goes on from its last checkpoint.
set -eu
seed=$1 name=$2 root=${3:-output/emoji}
python=${PYTHON:-python}
first=${name%%+*} second=${name#"$first"} second=${second#+}
run=$root/seed$seed/$name
