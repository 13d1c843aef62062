"""Rollouts, of environment, policy, decisions and buffer: without a synchronization, and as one CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.child import in_turn
from benchmarks.gpu.measuring import captured, launches, seconds
from benchmarks.gpu.ppo import CONFIG, endless, training
from benchmarks.gpu.report import Report
from esper_masks.rollout import PPO

ENVS, QUICK = 4096, 256
TABLE = f"a rollout of {CONFIG.steps} steps, esper-2025-12"


def run(told: Report, device: str, quick: bool) -> None:
    modes = ["eager", "compiled", *(["cuda-graph"] if device == "cuda" else [])]
    in_turn(told, "rollouts", device, quick, [[mode] for mode in modes])


def work(told: Report, device: str, quick: bool, mode: str) -> Iterator[None]:
    envs = QUICK if quick else ENVS
    ppo = training(mode, envs, device)
    once, places = endless(ppo)
    for _ in range(2):  # all is compiled, captured and allocated
        once()
        _score(ppo)
    yield
    if device == "cuda":
        with told.piece(f"{mode}: a rollout does not synchronize"), _no_synchronization():
            once()
        with told.piece(f"{mode}: a minibatch is scored, with its gradient, without synchronizing"):
            index = _index(ppo)
            with _no_synchronization():
                _score(ppo, index)
    with told.piece(f"{mode}: rollouts are legal"):
        once()
        _check_legal(ppo, places)
    took = seconds(once, device)
    what = "kernels" if device == "cuda" else "ops"
    told.cell(TABLE, mode, "ms", 1000 * took, compared="time")
    told.cell(TABLE, mode, "million steps/s", envs * CONFIG.steps / took / 1e6)
    told.cell(TABLE, mode, f"{what} a step", launches(once, device) / CONFIG.steps)
    if device == "cuda" and mode != "cuda-graph":  # a graph cannot be replayed within another's capture
        with told.piece(f"{mode}: a whole rollout in one CUDA graph"):
            _capture(told, mode, ppo)


def _capture(told: Report, mode: str, ppo: PPO) -> None:
    once, places = endless(ppo)
    generator = ppo.env._generator
    replay = captured(once, [generator])
    before = [place.clone() for place in places]

    def acted(run: object, seed: int) -> torch.Tensor:
        """Actions of a rollout from one beginning by one noise."""
        for place, value in zip(places, before):
            place.copy_(value)
        torch.manual_seed(seed)
        generator.manual_seed(seed)
        run()  # type: ignore[operator]
        _check_legal(ppo, places)
        return ppo.buffer.actions.clone()

    first, again, other = (acted(replay, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again), "the same noise gave other actions"
    assert not torch.equal(first, other), "other noise gave the same actions"
    alike = (acted(once, 1)[0] == first[0]).all(-1).float().mean().item()
    assert alike > 0.99, f"only {alike:.1%} of the first decisions are those without a graph, for the same noise"
    name, each = f"{mode}, one CUDA graph", seconds(replay, "cuda")
    told.cell(TABLE, name, "ms", 1000 * each, compared="time")
    told.cell(TABLE, name, "million steps/s", ppo.env.num_envs * CONFIG.steps / each / 1e6)
    told.cell(TABLE, name, "kernels a step", launches(replay, "cuda") / CONFIG.steps)


def _check_legal(ppo: PPO, places: list[torch.Tensor]) -> None:
    buffer = ppo.buffer
    assert buffer.active.all(), "a row did not act"
    assert buffer.masks().permits(buffer.actions.long()).all(), "an action is illegal"
    assert not places[-3].any(), "the environment met an illegal action"
    assert all(field.isfinite().all() for field in buffer.fields.values()), "something is not finite"


def _index(ppo: PPO) -> torch.Tensor:
    return torch.randperm(ppo.rows, device=ppo.env.device)[: ppo.rows // CONFIG.minibatches]


def _score(ppo: PPO, index: torch.Tensor | None = None) -> None:
    rows = ppo.buffer.minibatch(_index(ppo) if index is None else index)
    scored = ppo.learner.scoring(rows, None)
    ppo.optimizer.zero_grad(set_to_none=True)
    (scored.evaluation.log_prob.mean() + scored.values.mean()).backward()


@contextmanager
def _no_synchronization() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
