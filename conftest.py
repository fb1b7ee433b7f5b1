"""What pytest does with kernels: not imported without Triton, interpreted without a GPU."""

import os
from importlib.util import find_spec

import torch

collect_ignore_glob = [] if find_spec("triton") else ["nestling/ops/*/triton*.py"]
if not torch.cuda.is_available():
    # Triton reads this when it is first imported, by whatever test that is
    os.environ["TRITON_INTERPRET"] = "1"
