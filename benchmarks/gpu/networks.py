"""Epochs of hosts in a second: populations of MLP and CNN hosts, step by step and a step as one CUDA graph."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.measuring import captured, launches, seconds
from benchmarks.gpu.report import Report
from esper_masks.bench.networks import HOSTS, STEPS, check, populated, samples
from esper_masks.rollout.networks.compact import Compact

SLOTS = 3
BATCHES, QUICK = (1024, 4096, 16384), (64,)
TABLE = f"epochs of {STEPS} steps of networks with {SLOTS} slots: thousand host-epochs/s (times as fast as eager)"
ALIKE = 1e-3  # what parameters may be apart after a step


def work(told: Report, device: str, quick: bool) -> Iterator[None]:
    """Nothing is built; hosts are few where they are large."""
    yield
    for name, host in HOSTS.items():
        with told.piece(f"{name}: hosts of a population become what they become alone"):
            check(host, SLOTS, device)
        for batch in QUICK if quick else BATCHES[: 3 if host.dims == 0 else 2]:
            with told.piece(f"{name}, {batch:,} hosts"):
                _measure(told, device, name, batch)
            if device == "cuda":
                torch.cuda.empty_cache()


def _measure(told: Report, device: str, name: str, batch: int) -> None:
    population, networks, seeds = populated(HOSTS[name], SLOTS, batch, device)
    parts = networks.host, networks.seeds, *seeds, (networks.host_momentum, networks.seed_momentum)
    compact = Compact(population.architecture, *parts)
    x, y = samples(HOSTS[name], batch, device)

    def once() -> None:
        compact.step(x[0], y[0], population.rates)

    once()
    row, column = f"{name}, eager", f"{batch:,}"
    each = seconds(once, device)
    told.cell(TABLE, row, column, batch / STEPS / each / 1e3, compared="rate")
    what = "kernels" if device == "cuda" else "ops"
    told.cell(f"{what} a step of networks", name, column, launches(once, device))
    if device == "cuda":
        replay = captured(once)
        before = [flat.clone() for flat in compact.flat]
        made = []
        for run in (once, replay):
            for flat, old in zip(compact.flat, before):
                flat.copy_(old)
            run()
            made.append(compact.flat[0].clone())
        apart = (made[0] - made[1]).abs().max().item()
        assert apart < ALIKE, f"parameters after a step in a CUDA graph are {apart} apart"
        assert not compact.diverged.any(), "a host diverged"
        rate = batch / STEPS / seconds(replay, device) / 1e3
        told.cell(TABLE, f"{name}, a CUDA graph", column, rate, compared="rate")
