#!/bin/sh
# Texts: the descriptions of Tux Paint's stamps in up to 75 languages, of which half of the stamps are trained on and the
# others found, by any of their descriptions in another language. The stamps are fetched by apt (161 MB, GPL-2) and stay
# in output/. STAMPS=FOLDER takes those of a folder; STAMPS_STEPS=5 tries it with few steps.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/texts
list=$root/stamps.csv
stamps=$(sh recipes/fetch_stamps.sh)
$python data/build_stamps.py "$stamps" "$list"

evaluate() { $python eval.py --test_list=$list --batch_size=512 --metrics=recall@1,recall@10,map@r --output_dir="$1/eval" --picture="$1/eval/neighbours.png" $2; }

evaluate $root/untrained --model=HashedNgrams
$python train_pair.py --loss_name=supcon --temperature=0.2 --model=HashedNgrams --train_list=$list --test_list=$list \
    --train_batch_size=256 --samples_each_class=4 --optimiser=adamw --lr=0.01 --lr_strategy=cosine --weight_decay=0 \
    --total_iter_num=${STAMPS_STEPS:-600} --display_iter_step=100 --test_iter_step=100000 --save_iter_step=100000 \
    --test_batch_size=512 --overwrite=True --model_save_dir=$root/supcon
evaluate $root/supcon --pretrained_model=$root/supcon
