"""Comparisons that say where two masks differ, and the inputs that tests share."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import esper_masks as em

ROOT = Path(__file__).parents[1]  # of the repository
SHARED = ROOT.parent / "shared"

HERE = torch.get_default_device()  # that tests have their tensors on: --device
NONDETERMINISM = 0.0 if HERE.type == "cpu" else 1e-9  # of gradients in float64: a GPU adds in any order


def shared(name: str) -> Path:
    """A file of the reference data; where it is absent, as in a user's clone, the test is skipped."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference data {name} is not here")
    return path


def assert_same_masks(ours: em.ActionMasks, theirs: Mapping[str, Any], states: Tensor | None = None) -> None:
    """Every head and ``slot_by_op`` equal, or an error that names the first difference and its environment."""
    layout = ours.layout
    for name in theirs:
        mask = ours.slot_by_op if name == "slot_by_op" else ours.joint() if name == "joint" else ours[name]
        other = torch.as_tensor(theirs[name], dtype=torch.bool)
        assert mask.dtype == torch.bool
        other = other.reshape(mask.shape) if not other.numel() and not mask.numel() else other
        assert mask.shape == other.shape, f"{name}: shape {tuple(mask.shape)}, the other {tuple(other.shape)}"
        if torch.equal(mask, other):
            continue
        differences = (mask != other).nonzero()
        *env, last = differences[0].tolist()
        if name == "slot_by_op":
            env, what = env[:-1], f"{layout.ops[env[-1]]} in slot {layout.slot_ids[last]}"
        else:
            what = f"whole action {last}" if name == "joint" else f"{name} {layout.head(name).choices[last]}"
        here = bool(mask[tuple(differences[0].tolist())])
        held = "" if states is None else f", its slots hold {states[tuple(env)].tolist()}"
        raise AssertionError(
            f"env {env}: {what} -> {here}, the other -> {not here} ({len(differences)} differences in all){held}"
        )


def assert_same_words(ours: em.ActionMasks, theirs: em.ActionMasks) -> None:
    assert torch.equal(ours.slot_words, theirs.slot_words)
    assert torch.equal(ours.op_words, theirs.op_words)


def as_bools(masks: em.ActionMasks) -> dict[str, Tensor]:
    return {**masks, "slot_by_op": masks.slot_by_op, "joint": masks.joint()}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(HERE).manual_seed(seed)


def random_states(engine: em.MaskEngine, batch: int, seed: int = 0, stages: Sequence[int] = range(-2, 13)) -> Tensor:
    """States with real stages and others, ages around every threshold."""
    generator = seeded(seed)
    states = engine.empty_slots(batch)
    shape = states.shape[:-1]
    states[..., 0] = torch.tensor(list(stages))[torch.randint(len(stages), shape, generator=generator)].int()
    states[..., 1] = torch.randint(-1, 8, shape, generator=generator)
    for column in range(2, states.shape[-1]):
        states[..., column] = torch.randint(0, 3, shape, generator=generator)
    return states


def states_and_totals(engine: em.MaskEngine, batch: int) -> tuple[Tensor, Tensor]:
    return random_states(engine, batch), torch.arange(batch, dtype=torch.int32) % 5


def switch_settings(rules: em.MaskRules) -> Iterator[dict[str, object]]:
    """Every combination of rule switches."""
    for values in product(*rules.switches.values()):
        yield dict(zip(rules.switches, values))


# reading a value back to the host, or a shape that depends on one
HOST_READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default", "is_nonzero", "lift_fresh")


class OpRecorder(TorchDispatchMode):
    """Names of the aten ops that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


class FunctionRecorder(torch.overrides.TorchFunctionMode):
    """Functions of torch that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(function)
        return function(*args, **(kwargs or {}))


def assert_near(ours: Tensor, expected: Any, tolerance: float | None = None) -> None:
    """Equal up to rounding, infinities where the other has them, or an error that names the worst place."""
    other = torch.as_tensor(expected, dtype=torch.float64, device=ours.device)
    mine = ours.detach().double()
    assert mine.shape == other.shape, f"shape {tuple(mine.shape)}, the other {tuple(other.shape)}"
    rounding = 1e-12 if ours.dtype == torch.float64 else 2e-6
    allowed = (rounding if tolerance is None else tolerance) * (1 + other.abs())
    wrong = (mine != other) & ~((mine - other).abs() <= allowed.nan_to_num(posinf=0))
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(f"{wrong.sum()} differ, the first at {place}: {mine[place]}, the other {other[place]}")


def assert_equal_on_cpu(ours: Tensor, expected: Tensor) -> None:
    """Equal to the last bit; on another device, where other code may round otherwise, what is real only nearly."""
    if HERE.type == "cpu" or not ours.is_floating_point():
        assert torch.equal(ours, expected)
    else:
        assert_near(ours, expected, tolerance=1e-5)


def chi_square_is_plausible(counts: Tensor, probs: Tensor) -> bool:
    """Whether frequencies fit probabilities: chi-square within six deviations of its mean, nothing impossible drawn."""
    expected = probs.double() * counts.sum()
    possible = expected > 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = int(possible.sum()) - 1
    return not counts[~possible].any() and bool(statistic <= freedom + 6 * (2 * freedom) ** 0.5)
