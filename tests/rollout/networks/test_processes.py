"""A training on real networks in two processes of torchrun: other hosts in each, and a checkpoint that one resumes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esper_masks as em
from esper_masks.rollout import PPOConfig
from esper_masks.rollout.networks.samples import numbers_of
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.train import TrainSettings, build

SCRIPT = """
import sys
from pathlib import Path

import torch

import esper_masks as em
from esper_masks.rollout import PPOConfig
from esper_masks.rollout.networks.samples import numbers_of
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import TrainSettings, build

processes = Processes.from_env()
with processes.joined("cpu"):
    settings = TrainSettings(envs=6, width=8, world="networks", task="spirals", seed=2)
    ppo = build(em.ruleset("esper-2025-12"), settings, PPOConfig(steps=4, minibatches=2), "cpu", processes)
    numbers = [2 * (1 << 20) + processes.rank * 3 + at for at in range(3)]
    assert numbers_of(ppo.env.state.key).tolist() == numbers
    figures = [ppo.iterate() for _ in range(2)]
    assert figures[-1]["illegal_actions"] == 0
    flat = torch.cat([p.flatten() for p in ppo.policy.parameters()])
    assert torch.equal(processes.mean(flat.clone()), flat), "the processes have different models"
    checkpoint.save(ppo, settings.to_dict(), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_have_other_hosts_and_one_goes_on(tmp_path: Path) -> None:
    script, folder = tmp_path / "two.py", tmp_path / "log"
    script.write_text(SCRIPT, encoding="utf-8")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(script), str(folder)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = checkpoint.load(folder)
    settings = TrainSettings(**content["settings"])
    ppo = build(em.ruleset("esper-2025-12"), settings, PPOConfig(steps=4, minibatches=2))
    checkpoint.restore(ppo, content)
    assert numbers_of(ppo.env.state.key).tolist() == [2 * (1 << 20) + at for at in range(6)]
    assert ppo.env.state.epoch.tolist() == [8] * 6
    assert torch.isfinite(torch.tensor(ppo.iterate()["value_loss"]))
