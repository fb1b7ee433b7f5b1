#!/bin/sh
# One machine with eight GPUs: recipes/eight_gpus.sh FAMILY SIZE OUT [options of nestling train]
set -eu
export LAUNCH="torchrun --standalone --nproc-per-node 8 -m nestling" ROWS="${ROWS:-32}"
exec "$(dirname "$0")/pretrain.sh" "$@" --shard full
