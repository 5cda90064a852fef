#!/bin/sh
# Both stages on the embedded set, evaluated before, between and after. DEMO_STEPS="6 4" tries it with few steps.
set -eu
cd "$(dirname "$0")/.."
export PYTHON="${PYTHON:-python}"
root=output/demo
runs=$root/seed0
rm -rf "$root"
if [ -n "${DEMO_STEPS:-}" ]; then short="--total_iter_num="; fi
$PYTHON eval.py --model=EfficientNetLite0 --pretrained_model=imagenet --image_shape=3,80,80 --batch_size=64 \
    --output_dir=$runs/untrained/eval --picture=$runs/untrained/eval/neighbours.png
EVALUATE=yes EXTRA="${short:+$short${DEMO_STEPS% *}}" sh recipes/run.sh emoji 0 arcmargin $root
EVALUATE=yes EXTRA="${short:+$short${DEMO_STEPS#* }}" sh recipes/run.sh emoji 0 arcmargin+eml $root
$PYTHON infer.py --pretrained_model=$runs/arcmargin+eml --batch_size=64 --output=$root/embeddings.npz > $root/features.txt
tail -n 1 $root/features.txt
$PYTHON recipes/demo_report.py $root untrained arcmargin arcmargin+eml
