#!/bin/sh
# Both stages on the embedded set, tested before, between and after. DEMO_STEPS=6 tries it with few steps.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/demo
runs=$root/seed0
first=
if [ -n "${DEMO_STEPS:-}" ]; then first="--total_iter_num=$DEMO_STEPS"; fi
rm -rf "$root"

# Each run is tested behind its last step; evaluated once more is what the pictures are of.
evaluate() { $python eval.py --batch_size=64 --output_dir="$runs/$1/eval" --picture="$runs/$1/eval/neighbours.png" "$2" ${3:-} ${4:-}; }

evaluate untrained --pretrained_model=imagenet --model=EfficientNetLite0 --image_shape=3,80,80
$python train_elem.py --config=configs/emoji_arcmargin.yaml --model_save_dir=$runs/arcmargin $first
# From here on an image is looked at in two sizes (docs/second_stage.md).
$python train_pair.py --config=configs/emoji_arcmargin_whitening.yaml --pretrained_model=$runs/arcmargin \
    --test_scales=1,1.2 --model_save_dir=$runs/arcmargin+whitening
evaluate arcmargin+whitening --pretrained_model=$runs/arcmargin+whitening --save_embeddings=$root/embeddings.npz
$python recipes/demo_report.py $root untrained arcmargin arcmargin+whitening
