"""Optimizers as memories of gradients, and ``Leveled``, which writes each level at its period."""

from nestling.core.registry import Registry
from nestling.optim.deep_momentum import DeepMomentum
from nestling.optim.delta_gd import DeltaGD
from nestling.optim.delta_momentum import DeltaMomentum
from nestling.optim.elementwise_memory import ElementwiseMemory
from nestling.optim.feature_momentum import FeatureMomentum
from nestling.optim.groups import param_groups
from nestling.optim.leveled import Leveled
from nestling.optim.m3 import M3
from nestling.optim.nonlinear_momentum import NonlinearMomentum
from nestling.optim.ruled import Written

# each class has a name, a default learning rate (``default_lr``) and its memories of gradients
OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": "nestling.optim.torch_optimizers:AdamW",
        "momentum": "nestling.optim.torch_optimizers:Momentum",
        "sgd": "nestling.optim.torch_optimizers:SGD",
        "m3": "nestling.optim.m3:M3",
        "delta_momentum": "nestling.optim.delta_momentum:DeltaMomentum",
        "nonlinear_momentum": "nestling.optim.nonlinear_momentum:NonlinearMomentum",
        "feature_momentum": "nestling.optim.feature_momentum:FeatureMomentum",
        "deep_momentum": "nestling.optim.deep_momentum:DeepMomentum",
        "delta_gd": "nestling.optim.delta_gd:DeltaGD",
        "elementwise_memory": "nestling.optim.elementwise_memory:ElementwiseMemory",
    },
)

__all__ = [
    "M3",
    "OPTIMIZERS",
    "DeepMomentum",
    "DeltaGD",
    "DeltaMomentum",
    "ElementwiseMemory",
    "FeatureMomentum",
    "Leveled",
    "NonlinearMomentum",
    "Written",
    "param_groups",
]
