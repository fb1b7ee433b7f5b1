#!/bin/sh
# Pretrain a family at a size, with the schedule of the papers:
#
#   recipes/pretrain.sh FAMILY SIZE OUT [options of nestling train]
#
# AdamW with a cosine from 4e-4, 0.5M tokens a step, rows of 4,096, weight decay 0.1 (arXiv
# 2501.00663); 15B tokens at 340m, 30B at 760m, 100B at 1.3b (arXiv 2505.23735, Table 7).
# TEXT: a folder of tokens (recipes/prepare.sh). LAUNCH: what starts the processes.
# ROWS: rows of the whole job that are read at once; the rest of a step's 128 are accumulated.
# RECOMPUTE: true computes the activations of a block again in the backward pass and keeps none.
set -eu
[ $# -ge 3 ] || { echo "usage: recipes/pretrain.sh FAMILY SIZE OUT [options]" >&2; exit 2; }
family=$1 size=$2 out=$3
shift 3
case $size in
    340m) steps=28610 ;;
    760m) steps=57220 ;;
    1.3b) steps=190735 ;;
    *) echo "SIZE is $size; choose 340m, 760m or 1.3b" >&2; exit 2 ;;
esac
rows=${ROWS:-4}
[ $((128 % rows)) -eq 0 ] || { echo "ROWS is $rows; choose a divisor of 128" >&2; exit 2; }
# LAUNCH is words
# shellcheck disable=SC2086
exec ${LAUNCH:-python -m nestling} train --preset "$family-$size" --corpus "${TEXT:-runs/fineweb-edu}" \
    --device "${DEVICE:-cuda}" --out "$out" --resume --steps "$steps" \
    --set batch_size="$rows" --set accumulation=$((128 / rows)) --set sequence_length=4096 \
    --set learning_rate=4e-4 --set schedule=cosine --set weight_decay=0.1 \
    --set precision=bfloat16 --set recompute="${RECOMPUTE:-true}" \
    --set save_every=500 --set evaluate_every=1000 --set evaluate_tokens=1000000 "$@"
