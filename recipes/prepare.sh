#!/bin/sh
# FineWeb-Edu as tokens of a vocabulary of 32,000: recipes/prepare.sh [OUT]
set -eu
exec ${LAUNCH:-python -m nestling} data prepare "hf:HuggingFaceFW/fineweb-edu#text" \
    --configuration "${CONFIGURATION:-sample-100BT}" --vocab-size 32000 --held-out 0.0005 \
    --out "${1:-runs/fineweb-edu}"
