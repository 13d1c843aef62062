"""A training whose gradients and figures go by NCCL, in one process, and policies in bfloat16."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import esper_masks as em
from benchmarks.gpu.child import in_turn
from benchmarks.gpu.ppo import RULES, training
from benchmarks.gpu.report import Report
from esper_masks.rollout.training.processes import Processes

ENVS, QUICK = 16384, 256
WIDTHS = (64, 1024)
PRECISIONS = ("float32", "bfloat16")
ITERATIONS = 4
NEAR = 0.05  # of figures of two trainings: rounding changes an action here and there
TABLE = f"training, {RULES}, compiled, layers of width"


class Alone(Processes):
    """One process that says to itself, by the backend, what several say to one another."""

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool, device: torch.device) -> bool:
        return bool(self.sum(torch.tensor(float(flag), device=device)) > 0)

    def wait(self) -> None:
        dist.barrier()


@contextmanager
def group(device: str) -> Iterator[None]:
    """A group of this process alone, which meets itself in a file."""
    with tempfile.TemporaryDirectory() as folder:
        where = {"device_id": torch.device("cuda:0")} if device == "cuda" else {}
        backend = "nccl" if device == "cuda" else "gloo"
        address = (Path(folder) / "store").as_uri()
        dist.init_process_group(backend, init_method=address, rank=0, world_size=1, **where)
        yield
        dist.destroy_process_group()


def run(told: Report, device: str, quick: bool) -> None:
    widths = WIDTHS[: 1 if quick else None]
    policies = [["policy", str(width), precision] for width in widths for precision in PRECISIONS]
    in_turn(told, "training", device, quick, [["group"], ["logits"], *policies])


def work(
    told: Report, device: str, quick: bool, what: str, width: str = "", precision: str = "float32"
) -> Iterator[None]:
    envs = QUICK if quick else ENVS
    if what == "policy":
        yield from _policy(told, device, envs, int(width), precision)
    elif what == "logits":
        with told.piece("logits in bfloat16 are scored in float32"):
            _check_logits(device, envs)
        yield
    else:
        yield
        _group(told, device, envs)


def _group(told: Report, device: str, envs: int) -> None:
    alone = training("eager", envs, device)
    expected = [alone.iterate() for _ in range(2)]
    name = "NCCL" if device == "cuda" else "gloo"
    with told.piece(f"{name}: a training in a group of one is that without a group"), group(device):
        ppo = training("eager", envs, device, processes=Alone())
        ppo.learner.scoring = ppo.processes.averaged(ppo.learner.scoring, ppo.env.device)
        ppo.processes.wait()
        figures = [ppo.iterate() for _ in range(2)]
        assert ppo.processes.agreed(7, ppo.env.device) == 7
        for what in ("return_mean", "value_loss", "gradient_norm"):
            ours, other = figures[0][what], expected[0][what]
            assert abs(ours - other) <= NEAR * abs(other) + 1e-3, f"{what} is {ours}, without a group {other}"
        for name_of, each in (("without a group", expected), ("in a group of one", figures)):
            told.cell(f"{name}, eager", name_of, "million steps/s", each[1]["env_steps_per_s"] / 1e6, compared="rate")
        del ppo  # an averaged module that is part of a cycle would outlive the group
        gc.collect()


def _policy(told: Report, device: str, envs: int, width: int, precision: str) -> Iterator[None]:
    half = precision == "bfloat16"
    ppo = training("compiled", envs, device, autocast=half, width=width)
    ppo.iterate()
    yield
    with told.piece(f"{precision} layers of width {width} learn"):
        figures = [ppo.iterate() for _ in range(ITERATIONS)]
        assert not any(one["illegal_actions"] for one in figures)
        rate = max(one["env_steps_per_s"] for one in figures) / 1e6
        table, steps = f"{TABLE} {width}", (1 + ITERATIONS) * ppo.config.steps
        told.cell(table, precision, "million steps/s", rate, compared="rate")
        told.cell(table, precision, f"return after {steps} steps", figures[-1]["return_mean"])
    if half:
        with told.piece(f"bfloat16 layers of width {width} are near those in float32"):
            _check_layers(told, ppo, width)


def _check_layers(told: Report, ppo: em.rollout.PPO, width: int) -> None:
    """Logits are float32; a rollout's log-probabilities are those of the update, but for rounding."""
    policy = ppo.policy
    ppo.collector.rollout(ppo.state)
    rows = ppo.buffer.minibatch(torch.arange(min(ppo.rows, 4096), device=ppo.env.device))
    obs = ppo.obs_moments(rows.fields["obs"])
    with torch.no_grad():
        logits, _, _ = policy(obs)
        scored = policy.evaluate_actions(obs, rows.masks, rows.actions)
        policy.autocast = False
        single, _, _ = policy(obs)
        policy.autocast = True
    assert logits.dtype == torch.float32
    error = ((logits - single).norm() / single.norm()).item()
    told.cell(f"{TABLE} {width}", "bfloat16", "error of logits", error)
    assert 0 < error < 0.05, f"logits are {error:.1%} from those of float32 layers"
    apart = (scored.evaluation.log_prob - rows.log_prob).abs().max().item()
    told.cell(f"{TABLE} {width}", "bfloat16", "rollout and update apart, nats", apart)
    assert apart < 0.25, f"log-probabilities of rollout and update are {apart} apart"


def _check_logits(device: str, envs: int) -> None:
    engine = em.MaskEngine(em.ruleset(RULES), device=device)
    states, heads = engine.empty_slots(envs), len(engine.layout.heads)
    logits = torch.randn(envs, sum(head.size for head in engine.layout.heads), device=device).bfloat16()
    noise = torch.rand(envs, heads, device=device)
    step = em.DecisionStep(engine, mode="compiled")
    half, single = step(states, logits, noise=noise), step(states, logits.float(), noise=noise)
    assert half.log_prob.dtype == torch.float32
    assert (half.actions == single.actions).all(-1).float().mean() > 0.99
    leaf = logits.clone().requires_grad_()
    scored = step.evaluate(leaf, engine(states), half.actions)
    torch.testing.assert_close(scored.log_prob, half.log_prob, rtol=1e-4, atol=1e-4)
    scored.log_prob.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16
    assert leaf.grad.isfinite().all()
