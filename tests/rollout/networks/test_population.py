"""Hosts trained together, against hosts trained one after another."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_masks.bench import sequential
from esper_masks.rollout.networks import memory
from esper_masks.rollout.networks.blueprints import BLUEPRINTS, Blueprint
from esper_masks.rollout.networks.hosts import CNNHost, MLPHost
from esper_masks.rollout.networks.layers import Shapes, linear
from esper_masks.rollout.networks.population import Networks, Population, TrainStats, batches_of
from tests.rollout.networks.lockstep import Control, Lifecycles, lockstep, samples

MLP_NAMES = ("norm", "gate", "low_rank", "light")
CNN_NAMES = (*MLP_NAMES, "conv")
HOST = MLPHost(inputs=7, width=8, depth=3, classes=4)
IMAGES, SEQUENCES = CNNHost((1, 6, 5), 4, depth=2), CNNHost((2, 13), 4, kernel=5, stride=2, pooled=False)
FAST = {"lr": 0.1}


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_whole_lifecycles_are_those_of_hosts_alone(isolated: bool, slots: int) -> None:
    rates = {**FAST, "isolated": isolated}
    population = Population(HOST, slots, MLP_NAMES, dtype=torch.float64, **rates)
    count = lockstep(population, rates, epochs=14, seed=slots)
    assert min(count.values()) > 0, count


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("host", [IMAGES, SEQUENCES], ids=["images", "sequences"])
def test_whole_lifecycles_in_convolutions(host: CNNHost, isolated: bool) -> None:
    rates = {**FAST, "isolated": isolated}
    population = Population(host, 3, CNN_NAMES, dtype=torch.float64, **rates)
    count = lockstep(population, rates, batch=3, epochs=10)
    assert min(count.values()) > 0, count


@pytest.mark.parametrize(
    ("host", "names"),
    [(HOST, ("half_rank", "narrow", "small", "heavy")), (IMAGES, ("conv_narrow", "conv_wide", "small", "half_rank"))],
    ids=["mlp", "cnn"],
)
def test_blueprints_of_other_sizes(host: MLPHost | CNNHost, names: tuple[str, ...]) -> None:
    population = Population(host, 3, names, dtype=torch.float64, isolated=False, **FAST)
    count = lockstep(population, {**FAST, "isolated": False}, batch=3, epochs=8)
    assert min(count.values()) > 0, count


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**31),
    slots=st.integers(1, 16),
    depth=st.integers(1, 4),
    names=st.lists(st.sampled_from(MLP_NAMES), min_size=1, max_size=4, unique=True),
    rates=st.fixed_dictionaries(
        {
            "isolated": st.booleans(),
            "lr": st.sampled_from([0.01, 0.1]),
            "seed_lr": st.sampled_from([None, 0.02]),
            "momentum": st.sampled_from([0.0, 0.9]),
            "weight_decay": st.sampled_from([0.0, 5e-4]),
            "clip": st.sampled_from([0.3, 1.0, math.inf]),
        }
    ),
    chunk=st.sampled_from([1, 2, 128]),
)
def test_any_settings(seed: int, slots: int, depth: int, names: list[str], rates: dict[str, Any], chunk: int) -> None:
    population = Population(MLPHost(3, 5, depth, 3), slots, names, dtype=torch.float64, chunk=chunk, **rates)
    lockstep(population, rates, batch=3, epochs=6, rows=4, seed=seed)


def test_hosts_and_seeds_have_rates_of_their_own() -> None:
    """And isolation is off in MLP hosts, and on in CNN hosts, where nobody says."""
    rates = {"lr": 0.1, "seed_lr": 0.01, "momentum": 0.5, "weight_decay": 0.01, "clip": 0.3}
    for host in (HOST, SEQUENCES):
        lockstep(Population(host, 3, MLP_NAMES, dtype=torch.float64, **rates), rates, batch=3, epochs=6)


CONTROLS = {
    "isolation off where on was meant": Control(isolated=True),
    "alpha": Control(alpha=0.99),
    "momentum left at germination": Control(keep_momentum=True),
    "all hosts clipped by one norm": Control(together=True),
    "no seed frozen": Control(thawed=True),
}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_the_comparison_can_fail(control: Control) -> None:
    population = Population(HOST, 3, MLP_NAMES, dtype=torch.float64, **FAST)
    with pytest.raises(AssertionError, match="apart"):
        lockstep(population, FAST, epochs=14, control=control, tolerance=1e-5)


def test_float32_over_a_few_steps() -> None:
    lockstep(Population(HOST, 3, MLP_NAMES), epochs=6, steps=1, tolerance=1e-4)


def lived(
    population: Population, others: int, batch: int, at: int, disturbed: float = 1.0, epochs: int = 6
) -> tuple[Networks, list[TrainStats]]:
    """Lifecycles of which those of host ``at`` are always the same, and ``others`` is the seed of its neighbours'."""
    mine, theirs = (torch.Generator().manual_seed(seed) for seed in (1, others))
    one = Lifecycles(population.slots, 1, len(population.names), mine)
    rest = Lifecycles(population.slots, batch, len(population.names), theirs)

    def put(whole: torch.Tensor, part: torch.Tensor, axis: int = -1) -> torch.Tensor:
        whole = whole.clone()
        whole.select(axis, at).copy_(part.select(axis, 0))
        return whole

    networks = population.fresh(put(torch.arange(batch) + others, torch.tensor([7])))
    told = []
    for epoch in range(epochs):
        culled, born = (put(b, a) for a, b in zip(one.move(), rest.move()))
        blueprint, alpha, ste = (put(b, a) for a, b in zip(one.seeds, rest.seeds))
        networks = population.clear(networks, culled)
        keys = put(torch.arange(batch) * others + epoch, torch.tensor([epoch]))
        networks = population.germinate(networks, born, blueprint, keys)
        x, y = (
            put(b, a, 1) for a, b in zip(samples(population, 3, 1, 16, mine), samples(population, 3, batch, 16, theirs))
        )
        if epoch > 1:
            x = put(x * disturbed, x[:, at : at + 1], 1)
        networks, stats = population.train(networks, blueprint, alpha, ste, batches_of(x, y), 3)
        told.append(stats)
    return networks, told


@pytest.mark.cpu
@pytest.mark.parametrize("disturbed", [1.0, math.nan], ids=["other actions and data", "neighbours without numbers"])
@pytest.mark.parametrize("host", [MLPHost(16, 8), MLPHost(7, 5, 2, 3), IMAGES, SEQUENCES], ids=str)
def test_neighbours_change_nothing(host: MLPHost | CNNHost, disturbed: float) -> None:
    names = CNN_NAMES if isinstance(host, CNNHost) else MLP_NAMES
    population = Population(host, 3, names, isolated=False, chunk=8)
    for at in (0, 10):
        networks, told = lived(population, 2, 11, at)
        other, told_other = lived(population, 3, 11, at, disturbed)
        for name, part, part_other in zip(Networks._fields, networks, other):
            assert torch.equal(part[..., at], part_other[..., at]), name
            if math.isnan(disturbed):
                assert part_other.isfinite().all()
        for epoch, (stats, stats_other) in enumerate(zip(told, told_other)):
            for name, part, part_other in zip(TrainStats._fields, stats, stats_other):
                assert torch.equal(part[..., at], part_other[..., at]), f"{name} of epoch {epoch}"
            lost = [i != at and math.isnan(disturbed) and epoch > 1 for i in range(11)]
            assert stats_other.diverged.tolist() == lost


def test_a_seed_in_training_changes_nothing_even_without_numbers() -> None:
    """The loss is that of the host; the seed's gradient has none, so no step is taken."""
    population = Population(HOST, 1, ["light"])
    networks = population.fresh(torch.arange(2))
    first = torch.tensor([[0, 0]])
    networks = population.germinate(networks, first == 0, first, torch.arange(2))
    networks.seeds[0, -1, 0] = math.inf
    alpha, ste = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    batches = batches_of(*samples(population, 1, 2, 8, torch.Generator().manual_seed(0)))
    _, stats = population.train(networks, first, alpha, ste, batches, 1)
    _, without = population.train(networks, torch.full_like(first, -1), alpha, ste, batches, 1)
    assert torch.equal(stats.loss, without.loss)
    assert stats.loss.isfinite().all()


def test_a_step_without_numbers_is_not_taken() -> None:
    """Neither by the host nor by its seeds, and the next step is taken again."""
    population = Population(HOST, 3, MLP_NAMES)
    networks = population.fresh(torch.arange(4))
    blueprint = torch.tensor([[0, 1, 2, 3], [3, -1, -1, 0], [-1, 2, 1, 0]])
    networks = population.germinate(networks, blueprint >= 0, blueprint, torch.arange(4))
    alpha, ste = torch.full((3, 4), 0.5), torch.zeros(3, 4, dtype=torch.bool)
    x, y = samples(population, 3, 4, 8, torch.Generator().manual_seed(0))
    whole, _ = population.train(networks, blueprint, alpha, ste, batches_of(x[[0, 2]], y[[0, 2]]), 2)
    x[1, 2, 0, 0] = math.inf
    made, stats = population.train(networks, blueprint, alpha, ste, batches_of(x, y), 3)
    assert stats.diverged.tolist() == [False, False, True, False]
    for part, wanted in zip(made, whole):
        assert torch.equal(part[..., 2], wanted[..., 2])
        assert not torch.equal(part[..., 1], wanted[..., 1])


class Doubled(Blueprint):
    """One's own: the layer's positive part of a linear map, times a number for each feature."""

    zeros = ("scale",)
    dims = (0,)

    def shapes(self, features: int, dims: int) -> Shapes:
        return {"weight": (features, features), "scale": (features,)}

    def apply(self, h: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        made = linear(h, parameters["weight"]).relu()
        return h + made * parameters["scale"].unsqueeze(2)


class DoubledAlone(torch.nn.Module):
    def __init__(self, width: int, dims: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(width, width))
        self.scale = torch.nn.Parameter(torch.empty(width))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + torch.relu(h @ self.weight.t()) * self.scale


def test_a_blueprint_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLUEPRINTS, "doubled", Doubled())
    monkeypatch.setitem(sequential.SEEDS, "doubled", DoubledAlone)
    population = Population(HOST, 2, ["light", "doubled"], dtype=torch.float64)
    assert population.seed_parameters == (8 * 16 + 16 + 16 * 8 + 8, 8 * 8 + 8)
    assert min(lockstep(population, batch=3, epochs=8).values()) > 0
    with pytest.raises(ValueError, match="blueprint 'doubled' is for hosts with 0 axes of space, and these have 2"):
        Population(IMAGES, 2, ["doubled"])


class Changed(Blueprint):
    """Something wrong."""

    def __init__(self, **wrong: Any):
        self.wrong = wrong

    def shapes(self, features: int, dims: int) -> Shapes:
        return {"weight": (features, features)}

    def init(self, uniform: Any) -> dict[str, torch.Tensor]:
        return self.wrong.get("init", super().init)(uniform)

    def apply(self, h: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        return self.wrong.get("apply", lambda h: h)(h)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"apply": lambda h: h[:, 1:]}, r"blueprint 'changed' gives \[2, 7, 3\] for \[2, 8, 3\]: it must give back"),
        ({"apply": lambda h: h.double()}, "blueprint 'changed' gives torch.float64 for torch.float32"),
        (
            {"init": lambda uniform: {}},
            r"its init gives nothing for 'weight', which has shape \[8, 8\]",
        ),
        ({"init": lambda uniform: {"weight": uniform["weight"][:, 1:]}}, r"its init gives \[7, 8\] for 'weight'"),
    ],
)
def test_a_blueprint_that_does_not_fit(wrong: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLUEPRINTS, "changed", Changed(**wrong))
    with pytest.raises(ValueError, match=says):
        Population(HOST, 2, ["norm", "changed"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"slots": 0}, "slots must be an int of 1 to 16, got 0"),
        ({"slots": 17}, "slots must be an int of 1 to 16, got 17"),
        ({"slots": True}, "slots must be an int of 1 to 16, got True"),
        ({"blueprints": []}, "blueprints names none; there are norm, gate, low_rank, half_rank, narrow"),
        ({"blueprints": ["norm", "dense"]}, "no blueprint is called 'dense'; there are norm"),
        ({"blueprints": ["norm", "norm"]}, "blueprints names 'norm' twice"),
        ({"blueprints": ["conv"]}, "blueprint 'conv' is for hosts with 1 or 2 axes of space, and these have 0"),
        ({"host": "mlp"}, "host must be an MLPHost or a CNNHost, got 'mlp'"),
        ({"lr": -1.0}, "lr must be a number of at least 0, got -1.0"),
        ({"clip": math.nan}, "clip must be a number of at least 0, got nan"),
        ({"momentum": math.inf}, "momentum must be a number of at least 0, got inf"),
        ({"chunk": 0}, "chunk must be an int of at least 1, got 0"),
        ({"dtype": torch.int32}, "dtype must be torch.float32 or torch.float64, got torch.int32"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_population_cannot_be(changes: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"host": HOST, "slots": 3, "blueprints": MLP_NAMES} | changes
    with pytest.raises(ValueError, match=says):
        Population(arguments.pop("host"), arguments.pop("slots"), arguments.pop("blueprints"), **arguments)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MLPHost(0, 8), "inputs must be an int of at least 1, got 0"),
        (lambda: MLPHost(4, 8, depth=2.0), "depth must be an int of at least 1, got 2.0"),
        (lambda: CNNHost((8, 8, 8, 8), 4), r"shape must be \(channels, length\) or \(channels, height, width\), got"),
        (lambda: CNNHost((8,), 4), r"shape must be \(channels, length\)"),
        (lambda: CNNHost((1, 8), 4, kernel=4), "kernel must be odd, so that a convolution has a middle, got 4"),
    ],
)
def test_what_a_host_cannot_be(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_beginning_is_a_function_of_its_key() -> None:
    """Of nothing else: not of the batch, nor of where in it a host is; and other keys, slots and blueprints differ."""
    population = Population(HOST, 3, MLP_NAMES)
    keys = torch.tensor([5, -7, 1 << 40, 5])
    networks = population.fresh(keys)
    assert torch.equal(networks.host[:, 0], networks.host[:, 3])
    assert torch.equal(population.fresh(keys[2:3]).host[:, 0], networks.host[:, 2])
    assert not torch.equal(networks.host[:, 0], networks.host[:, 1])
    assert not torch.equal(networks.host[:, 0], population.fresh(torch.tensor([5 + (1 << 32)])).host[:, 0])
    bounds = networks.host[: 7 * 8].abs()
    assert 0.9 * (6 / 7) ** 0.5 < bounds.max() <= (6 / 7) ** 0.5
    where, blueprint = torch.ones(3, 4, dtype=torch.bool), torch.full((3, 4), 3)
    made = population.germinate(networks, where, blueprint, keys).seeds
    assert torch.equal(made[..., 0], made[..., 3])
    assert not torch.equal(made[0], made[1])
    alone = population.germinate(population.fresh(keys[:1]), where[:, :1], blueprint[:, :1], keys[:1]).seeds
    assert torch.equal(alone[..., 0], made[..., 0])
    sparse = population.germinate(networks, where & (torch.arange(4) == 2), blueprint, keys).seeds
    assert torch.equal(sparse[..., 2], made[..., 2])
    assert not sparse[..., :2].any()


def test_memory_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hosts take when all slots have the largest seed, in bytes."""
    population = Population(HOST, 3, MLP_NAMES)
    networks = population.fresh(torch.arange(10))
    kept = sum(part.numel() * part.element_size() for part in networks)
    assert population.bytes_per_host() * 10 >= 2 * kept
    assert population.bytes_per_host() < Population(HOST, 4, MLP_NAMES).bytes_per_host()
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000 * population.bytes_per_host() + 5)
    memory.check_memory(population, 1000)
    with pytest.raises(ValueError, match=r"1,001 hosts need [\d.]+ GB, .* and [\d.]+ GB are free: 1,000 would fit"):
        memory.check_memory(population, 1001)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    memory.check_memory(population, 10**12)
