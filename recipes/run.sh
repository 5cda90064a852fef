#!/bin/sh
# One run of a table: sh recipes/run.sh SET SEED NAME [ROOT]
# SET is emoji or sop (its flags: recipes/SET.flags). NAME is softmax or arcmargin (stage 1), <that>+<pair loss>
# (stage 2 from it), or <that>+longer (stage 1 alone with the seconds of both). A run that has its result.json is
# skipped, an interrupted one goes on from its last checkpoint.
set -eu
set_name=$1 seed=$2 name=$3 root=${4:-output/$1}
python=${PYTHON:-python}
run=$root/seed$seed/$name
first=${name%%+*} second=
case $name in *+*) second=${name#*+} ;; esac
. "$(dirname "$0")/$set_name.flags"

[ -f "$run/result.json" ] && { echo "done already: $run"; exit 0; }
script=train_elem.py
eval "own=\${elem_$first:-}"
case $second in
    "") flags="$common $elem --loss_name=$first $own" ;;
    longer) flags="$common $elem --loss_name=$first $own $longer" ;;
    *)
        script=train_pair.py
        eval "own=\"\${pair_$second} \${pair_${first}_$second:-}\""
        flags="$common $pair --loss_name=$second --pretrained_model=$root/seed$seed/$first $own"
        ;;
esac
if [ -f "$run/last.pt" ]; then
    flags="--checkpoint=$run"
else
    flags="$flags --seed=$seed --model_save_dir=$run --overwrite=True"
fi
# shellcheck disable=SC2086  # the flags hold no spaces of their own
$python $script $flags ${EXTRA:-}
if [ "${EVALUATE:-$evaluate}" = yes ]; then
    $python eval.py --pretrained_model="$run" $testing --picture="$run/eval/neighbours.png"
fi
