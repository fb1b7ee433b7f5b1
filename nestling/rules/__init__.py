"""Update rules and objectives, shared by memories and optimizers.

A rule is one file and one line of ``RULES``. It can write a level in context, and is an optimizer
(``nestling.optim.Written``) as well.
"""

from nestling.rules.adam import Adam
from nestling.rules.delta_momentum import DeltaMomentum
from nestling.rules.dgd import DGD
from nestling.rules.elementwise_memory import ElementwiseMemory
from nestling.rules.feature_momentum import FeatureMomentum
from nestling.rules.gradient import Gradient
from nestling.rules.m3 import M3
from nestling.rules.momentum import Momentum
from nestling.rules.muon import Muon
from nestling.rules.nonlinear_momentum import NonlinearMomentum
from nestling.rules.objective import OBJECTIVES, Objective, objective
from nestling.rules.rule import Evidence, GradientRecord, Rule, RuleOptions

RULES: dict[str, type[Rule]] = {
    "gradient": Gradient,
    "momentum": Momentum,
    "adam": Adam,
    "delta_momentum": DeltaMomentum,
    "muon": Muon,
    "nonlinear_momentum": NonlinearMomentum,
    "feature_momentum": FeatureMomentum,
    "elementwise_memory": ElementwiseMemory,
    "m3": M3,
    "dgd": DGD,
}

__all__ = [
    "DGD",
    "M3",
    "OBJECTIVES",
    "RULES",
    "Adam",
    "DeltaMomentum",
    "ElementwiseMemory",
    "Evidence",
    "FeatureMomentum",
    "Gradient",
    "GradientRecord",
    "Momentum",
    "Muon",
    "NonlinearMomentum",
    "Objective",
    "Rule",
    "RuleOptions",
    "objective",
]
