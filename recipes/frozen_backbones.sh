#!/bin/sh
# What the networks that packages carry give as they are, and with a head that learns for a minute from their features:
# Recall@1 on the embedded set's test half. Settings were chosen on held-out train labels, with the first network alone.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/frozen
common="--num_workers=0 --batch_size=64"
mkdir -p $root
for model in EfficientNetLite0 EfficientNetLite2 MobileNetV2; do
    network="--model=$model --pretrained_model=imagenet --image_shape=3,80,80"
    $python eval.py $network $common --output_dir=$root/$model/untrained
    $python infer.py $network $common --input Ebay_train.txt --output=$root/$model/train.npz > $root/features.txt
    $python infer.py $network $common --input Ebay_test.txt --output=$root/$model/test.npz > $root/features.txt
    lane="--features=$root/$model/train.npz --test_features=$root/$model/test.npz $network --overwrite=True"
    $python train_elem.py $lane --loss_name=arcmargin --arc_scale=30 --head=residual --optimiser=adamw --lr=0.001 \
        --weight_decay=0.1 --lr_strategy=cosine --train_batch_size=256 --total_iter_num=300 --display_iter_step=100 \
        --test_iter_step=100000 --save_iter_step=100000 --model_save_dir=$root/$model/residual
    $python train_pair.py $lane --loss_name=whitening --epsilon=0.1 --total_share=0.1 --model_save_dir=$root/$model/whitening
done
