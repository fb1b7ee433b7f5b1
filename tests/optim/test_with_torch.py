"""Optimizers with FSDP2, torch.compile, and the Trainer of transformers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

SHARDED = (
    "m3",
    "nonlinear_momentum",
    "delta_momentum",
    "feature_momentum",
    "deep_momentum",
    "elementwise_memory",
)
PROGRAM = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from nestling.optim import OPTIMIZERS

def train(shard):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    if shard:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = OPTIMIZERS.load(name)(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    full = [p.full_tensor() if shard else p for p in model.parameters()]
    return torch.cat([p.detach().flatten() for p in full])

dist.init_process_group("gloo")
for name in sys.argv[1:]:
    error = float((train(True) - train(False)).abs().max())
    assert error < 1e-9, (name, error)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_steps_match_single_process(tmp_path):
    """Newton-Schulz of a sharded matrix equals that of the whole, through 20 steps."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    ]
    done = subprocess.run(
        [*command, str(path), *SHARDED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


COMPILED = """
import sys, torch
from optimizer_problems import MixedShapes, build

for name in sys.argv[1:]:
    weights = []
    for compiled in (False, True):
        module = MixedShapes()
        optimizer = build(name, module, lr=0.01)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(4):
            optimizer.zero_grad()
            module().backward()
            step()
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(*weights)
"""


@pytest.mark.slow
@pytest.mark.compile
def test_compiled_step_matches_eager(tmp_path):
    """Traced in a process without the type checks of the tests, which cannot be traced."""
    path = tmp_path / "program.py"
    path.write_text(COMPILED, encoding="utf-8")
    tests = str(Path(__file__).parents[1] / "support")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), tests])}
    done = subprocess.run(
        [sys.executable, str(path), *SHARDED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_works_with_transformers_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    from nestling.optim import M3, param_groups

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.map = nn.Linear(4, 2)

        def forward(self, x, labels):
            y = self.map(x)
            return {"loss": (y - labels).square().mean(), "logits": y}

    model, generator = Line(), torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, generator=generator)
    rows = [{"x": row, "labels": row[:2]} for row in x]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=60,
        per_device_train_batch_size=8,
        save_steps=30,
        logging_steps=60,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = M3(param_groups(model, weight_decay=0.01), lr=0.03)
    first = float(model(x, x[:, :2])["loss"].detach())
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None))
    trainer.train()
    assert float(model(x, x[:, :2])["loss"].detach()) < 0.1 * first
    assert (tmp_path / "checkpoint-30" / "optimizer.pt").exists()
