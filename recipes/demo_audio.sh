#!/bin/sh
# Sounds: the spoken names of Tux Paint's stamps in 11 languages, each read by one voice or a few. Half of the languages
# are trained on; a clip of the others has to find one of its own, whatever it says. The stamps are those of demo_text.sh;
# STAMPS=FOLDER takes those of a folder; STEPS=2 tries it with few steps.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
root=output/sounds
list=$root/stamps.csv
stamps=$(sh recipes/fetch_stamps.sh)
$python data/build_stamps.py "$stamps" "$list" --sounds

sounds="--data_dir=$stamps --clip_seconds=1.5"
evaluate() { $python eval.py --test_list=$list $sounds --batch_size=64 --metrics=recall@1,map@r --output_dir="$1/eval" $2; }

evaluate $root/untrained --model=LogMelConv
# Five voices are soon learned by heart, so that a network gets few small steps of them, and the layer of a closed form.
$python train_pair.py --loss_name=supcon --temperature=0.5 --model=LogMelConv --train_list=$list --test_list=$list $sounds \
    --train_batch_size=50 --samples_each_class=10 --augment_sounds=window,gain,silence,bands \
    --optimiser=adamw --lr=0.0003 --lr_strategy=cosine --total_iter_num=${STEPS:-20} --display_iter_step=10 \
    --test_iter_step=100000 --save_iter_step=100000 --test_batch_size=64 --overwrite=True --model_save_dir=$root/supcon
$python train_pair.py --loss_name=whitening --pretrained_model=$root/supcon --train_list=$list --test_list=$list $sounds \
    --test_batch_size=64 --overwrite=True --model_save_dir=$root/whitened
evaluate $root/whitened "--pretrained_model=$root/whitened --report=$root/whitened/report.html"

# What weights know that thousands of voices trained.
if $python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('resemblyzer') is None)"; then
    evaluate $root/voices "--model=Resemblyzer --pretrained_model=published"
else
    echo "pip install --no-deps Resemblyzer brings weights for voices"
fi
