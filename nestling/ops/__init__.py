"""Pure tensor maps: recurrences as one-token steps and in chunk-parallel form."""

from nestling.ops.diagonal_delta_rule import (
    DiagonalState as DiagonalState,
)
from nestling.ops.diagonal_delta_rule import (
    diagonal_delta_rule as diagonal_delta_rule,
)
from nestling.ops.momentum_gated_delta_rule import (
    DeltaState as DeltaState,
)
from nestling.ops.momentum_gated_delta_rule import (
    momentum_gated_delta_rule as momentum_gated_delta_rule,
)
from nestling.ops.selective_scan import selective_scan as selective_scan
