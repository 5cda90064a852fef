#!/bin/sh
# Words find pictures: the emoji's Unicode names by a frozen network for texts (MiniLM), less what all names share, and a
# head on a frozen network for images (EfficientNet-Lite0) that learns to put each image where its name is. Tested with
# 699 labels never trained on; the settings were chosen on held-out train labels (docs/modalities.md).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/words
common="--num_workers=0 --batch_size=64"
images="--model=EfficientNetLite0 --pretrained_model=imagenet --image_shape=3,128,128"
$python recipes/word_lists.py $root

# The network for texts: a layer behind MiniLM takes the mean of all train names away, by which any two would be alike.
$python train_pair.py --loss_name=pca --model=MiniLM --pretrained_model=published --train_list=$root/names.csv \
    --test_list=$root/names.csv --test_batch_size=64 --num_workers=0 --overwrite=True --model_save_dir=$root/texts
$python infer.py --pretrained_model=$root/texts $common --input $root/names.csv --output=$root/names.npz > $root/names.txt

# What the frozen network makes of images is made once; the head learns from it in seconds. Its own test is on the
# images that it learns from and says little: how words find images is seen below.
$python infer.py $images $common --input Ebay_train.txt --output=$root/train.npz > $root/features.txt
$python train_elem.py --features=$root/train.npz --test_features=$root/train.npz $images \
    --loss_name=norm_softmax --class_vectors=$root/names.npz --temperature=0.05 --head=mlp --embedding_size=384 \
    --optimiser=adamw --lr=0.001 --weight_decay=0.1 --lr_strategy=cosine --train_batch_size=256 \
    --total_iter_num=${WORDS_STEPS:-160} --display_iter_step=40 --test_iter_step=100000 --save_iter_step=100000 \
    --overwrite=True --model_save_dir=$root/images
$python recipes/join_towers.py $root/towers $root/images $root/texts

$python eval.py --pretrained_model=$root/towers --data_dir=data/emoji --test_list=$root/words_test.csv $common --metrics=recall@1,recall@5,recall@10 \
    --output_dir=$root/eval --picture=$root/eval/names.png --picture_queries=16
$python search.py build $root/images.index --pretrained_model=$root/towers $common --input Ebay_test.txt --overwrite=True
$python search.py find $root/images.index --num_workers=0 --k=5 --output $root/hits.json $root/hits.png --text \
    "a red fruit" "a vehicle that flies" "an angry face" "music" "a wild animal with stripes" "a house in the snow" \
    "two people in love" "something to write with"
