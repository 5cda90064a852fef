#!/bin/sh
# The hello world: digits to points of the plane, by pairs and the contrastive loss (docs/hello_mnist.md).
# SEED=1 draws other weights and pairs; HELLO_STEPS=20 tries it with few steps. Flags go to the training:
#   sh recipes/hello_mnist.sh --margin=4
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/hello
run=$root/seed${SEED:-0}
steps=${HELLO_STEPS:-800}

rm -rf "$run"
$python data/build_mnist.py $root/digits
$python train_pair.py --loss_name=siamese --model=ConvBackbone --image_shape=3,28,28 \
    --train_list=$root/digits/list.csv --test_list=$root/digits/list.csv \
    --train_batch_size=128 --augment=none --cache_bytes=100MB --cache_kind=decoded --num_workers=0 \
    --optimiser=adamw --lr=0.001 --lr_strategy=cosine --total_iter_num="$steps" --precision=fp32 --seed="${SEED:-0}" \
    --test_iter_step=50 --test_metrics=knn@5 --test_distance=squared_euclidean --test_loss=True --test_batch_size=250 \
    --report=True --save_iter_step=1000 --display_iter_step=50 --model_save_dir="$run" "$@"
$python eval.py --pretrained_model="$run" --metrics=knn@5,recall@1 --distance=squared_euclidean --batch_size=250 \
    --save_embeddings="$run/held_out.npz"
$python recipes/hello_report.py "$run"
