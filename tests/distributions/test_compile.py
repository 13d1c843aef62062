"""Distributions under ``torch.compile``, ``vmap`` and ``torch.export``: one graph, and the same numbers."""

import io
import math
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributions import kl_divergence

import esper_masks as em
from tests.enumeration import cluster, head_of, layout_of, random_logits
from tests.helpers import assert_near, random_states
from tests.programs import BATCHES, KINDS, assert_same, inputs, program_of, use_everything, whole

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_with_validation_on(kind: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(program_of(kind), fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        arguments = inputs(kind, batch)
        assert_same(compiled(*arguments), program_of(kind)(*arguments))
    assert counter.frame_count == 1
    logits, masks, noise = inputs(kind, BATCHES[-1])
    logits[3] = math.nan
    with pytest.raises(RuntimeError, match="a row is faulty; such a row has no legal action") as caught:
        compiled(logits, masks, noise)
    assert not isinstance(caught.value, em.InvalidStateMachineError)  # the device's own assertion


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("kind", ["13", "esper-2025-12"])
def test_one_graph_in_the_default_backend(kind: str) -> None:
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(program_of(kind), fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        arguments = inputs(kind, batch)
        assert_same(compiled(*arguments), program_of(kind)(*arguments))
    logits, masks, noise = inputs(kind, BATCHES[-1])
    logits[3] = math.nan
    with pytest.raises(RuntimeError, match="a row is faulty"):
        compiled(logits, masks, noise)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("kind", "validate"), [("13", "flag"), ("1000", "flag"), ("esper-2025-12", "flag"), ("esper-2025-12/64", "off")]
)
def test_flags_in_compiled_code(kind: str, validate: str) -> None:
    compiled = torch.compile(program_of(kind), fullgraph=True, dynamic=True, backend="aot_eager")
    logits, masks, noise = inputs(kind, 6)
    logits[3] = math.nan
    leaf = logits.clone().requires_grad_()
    results = compiled(leaf, masks, noise, validate)
    fine = torch.arange(6) != 3
    expected = program_of(kind)(logits, masks, noise, "flag")
    assert_same(tuple(result[fine] for result in results), tuple(result[fine] for result in expected))
    if validate == "flag":
        assert_same(results, expected)
        assert (results[0][3] == -1).all()
        assert results[2][3] != 0
        assert all((result[3] == 0).all() for result in results[4:])
        [gradient] = torch.autograd.grad(sum(result.sum() for result in results[4:]), leaf)
        assert gradient.isfinite().all()
        assert (gradient[3] == 0).all()


@pytest.mark.parametrize("kind", ["13", "esper-2025-12", "esper-2025-12/64"])
def test_gradients_are_those_of_eager_code(kind: str) -> None:
    compiled = torch.compile(program_of(kind), fullgraph=True, dynamic=True, backend="aot_eager")
    logits, masks, noise = inputs(kind, 6)
    leaf, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    for x, results in ((leaf, compiled(leaf, masks, noise)), (other, program_of(kind)(other, masks, noise))):
        sum(result.sum() for result in results[4:7]).backward()
        assert x.grad is not None
    assert_near(leaf.grad, other.grad, tolerance=2e-5)


@pytest.mark.parametrize("kind", ["13", "esper-2026-06"])
def test_torch_s_own_generator(kind: str) -> None:
    logits, masks, _ = inputs(kind, 400)
    compiled = torch.compile(
        lambda x, m: (em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical)(x, m).sample((3,)),
        fullgraph=True,
        backend="aot_eager",
    )
    first, second = compiled(logits, masks), compiled(logits, masks)
    assert not torch.equal(first, second)
    legal = masks.expand(3, -1, -1).gather(-1, first.unsqueeze(-1)) if kind.isdecimal() else masks.permits(first)
    assert legal.all()


def test_logits_for_each_op_need_their_tables_before() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))  # a layout of its own
    masks = engine(random_states(engine, 6))
    logits = {head.name: torch.randn(6, head.size) for head in engine.layout.heads}
    logits["blend"] = torch.randn(6, 4, 3)
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="a FactoredCategorical with logits for each op for blend on cpu once before"):
        compiled(logits, masks, torch.rand(6, 4))
    noise = torch.rand(6, 4)
    expected = whole(logits, masks, noise)
    torch.compiler.reset()
    assert_same(compiled(logits, masks, noise), expected)


# -- heads by slot ----------------------------------------------------------------------------------------------------


def pods(batch: int, seed: int = 0, slots: int = 3, nodes: int = 4) -> tuple[dict[str, Tensor], em.ActionMasks, Tensor]:
    """Arguments of a decision on pods, whose nodes have a mask and logits in each slot."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(0, 2, (batch, slots), generator=generator)
    room = torch.rand(batch, slots, nodes, generator=generator) < 0.6
    masks, layout = cluster(states.tolist(), room, nodes)
    return (
        random_logits(layout, (batch,), by_slot=["node"], seed=seed),
        masks,
        torch.rand(batch, 3, generator=generator),
    )


def bind(logits: Any, masks: em.ActionMasks, noise: Tensor, validate: Any = "raise") -> tuple[Tensor, ...]:
    dist = em.FactoredCategorical(logits, masks, by_slot=("node",), min_prob={"node": 0.01}, validate=validate)
    action, score = dist.sample_and_log_prob(noise=noise)
    entropies = dist.raw_entropy(), dist.entropy(), dist.head_entropies()
    return action, dist.mode, dist.faults, dist.legal(action), dist.action_faults(action), score, *entropies


@pytest.mark.parametrize("shape", [{}, {"slots": 2, "nodes": 40}, {"slots": 9, "nodes": 16}])
def test_heads_by_slot_in_one_graph(shape: dict[str, int]) -> None:
    """Whose choices are unrolled; are long, in two choice words; and are long because there are many slots."""
    first = pods(4, **shape)
    bind(*first)  # makes the tables
    layout, counter = first[1].layout, CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(bind, fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        logits, masks, noise = pods(batch, **shape)
        masks = em.ActionMasks(layout, masks.slot_words, masks.op_words, masks.choices, masks.slot_mask)
        assert_same(compiled(logits, masks, noise), bind(logits, masks, noise))
    assert counter.frame_count == 1


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_heads_by_slot_in_the_default_backend() -> None:
    logits, masks, noise = pods(50)
    expected = bind(logits, masks, noise)
    assert_same(torch.compile(bind, fullgraph=True)(logits, masks, noise), expected)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_words_of_64_bits_in_the_default_backend() -> None:
    """With 62 ops the sign bit of an int64 is in every word of a row, and the last op is bit 61."""
    every = range(3)
    layout = layout_of(62, 2, [1, 30, 31, 61], [head_of("node", 3, {1: every, 31: every, 61: every}, 62)])
    generator = torch.Generator().manual_seed(0)
    given = {"op": (40, 62), "slot": (40, 2), "node": (40, 2, 3)}
    masks = em.ActionMasks.from_bools(layout, {n: torch.rand(s, generator=generator) < 0.7 for n, s in given.items()})
    logits, noise = random_logits(layout, (40,), by_slot=["node"]), torch.rand(40, 3, generator=generator)
    logits["op"][:20, 61] = 20.0
    expected = bind(logits, masks, noise, "flag")
    assert (expected[0][:, 2] == 61).any()
    assert_same(torch.compile(bind, fullgraph=True)(logits, masks, noise, "flag"), expected)


def test_heads_by_slot_need_their_tables_before() -> None:
    logits, masks, noise = pods(6)
    compiled = torch.compile(bind, fullgraph=True, backend="aot_eager")
    wanted = "a FactoredCategorical with logits for each slot for node and restricted choices for node on cpu once"
    with pytest.raises(Exception, match=wanted):
        compiled(logits, masks, noise)


@pytest.mark.parametrize("compiles", [False, True])
def test_vmap_of_heads_by_slot(compiles: bool) -> None:
    parts = [pods(5, seed) for seed in range(3)]
    layout = parts[0][1].layout
    each = [em.ActionMasks(layout, m.slot_words, m.op_words, m.choices, m.slot_mask) for _, m, _ in parts]
    logits = {name: torch.stack([part[0][name] for part in parts]) for name in parts[0][0]}
    logits["node"][1, 2] = math.nan
    noise = torch.stack([part[2] for part in parts])
    expected = [bind({name: x[i] for name, x in logits.items()}, each[i], noise[i], "flag") for i in range(3)]
    mapped = torch.vmap(bind)
    if compiles:
        mapped = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    results = mapped(logits, em.ActionMasks.stack(each), noise)
    for i, one in enumerate(expected):
        assert_same(tuple(result[i] for result in results), one)


class Binder(nn.Module):
    def __init__(self, layout: Any):
        super().__init__()
        self.layout, self.layer = layout, nn.Linear(6, 2 * 4 + 2 + 3)

    def forward(self, observations: Tensor, pairs: Tensor, room: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        ops, slots = torch.ones_like(pairs[:, :, 0]), torch.ones_like(pairs[:, 0])
        masks = em.ActionMasks.from_bools(self.layout, {"op": ops, "slot": slots, "node": room}, pairs)
        node, slot, op = self.layer(observations).split([8, 2, 3], -1)
        logits = {"slot": slot, "node": node.unflatten(-1, (2, 4)), "op": op}
        policy = em.FactoredCategorical(logits, masks, by_slot=("node",), validate="flag")
        return policy.sample_and_log_prob(noise=noise)


def test_export_of_a_head_by_slot() -> None:
    binder = Binder(pods(1, slots=2)[1].layout)

    def arguments(batch: int) -> tuple[Tensor, ...]:
        pairs = torch.rand(batch, 3, 2) < 0.7
        pairs[:, 0] = True
        return torch.randn(batch, 6), pairs, torch.rand(batch, 2, 4) < 0.6, torch.rand(batch, 3)

    binder(*arguments(3))
    batch = torch.export.Dim("batch", min=2, max=100_000)
    program = torch.export.export(binder, arguments(5), dynamic_shapes=({0: batch},) * 4)
    for size in (2, 7, 300):
        given = arguments(size)
        assert_same(program.module()(*given), binder(*given))


# -- vmap -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["13", "1000", "esper-2025-12"])
def test_vmap_over_an_extra_axis(kind: str) -> None:
    """Validation can read nothing there, so that a fault is a flag."""
    parts = [inputs(kind, 5, seed) for seed in range(4)]
    logits, noise = torch.stack([part[0] for part in parts]), torch.stack([part[2] for part in parts])
    logits[2, 3] = math.nan
    stack = torch.stack if kind.isdecimal() else em.ActionMasks.stack
    masks = stack([part[1] for part in parts])
    mapped = torch.vmap(program_of(kind))(logits, masks, noise)
    shared = torch.vmap(program_of(kind), in_dims=(0, None, 0))(logits, parts[1][1], noise)
    twice = torch.vmap(torch.vmap(program_of(kind), in_dims=(None, None, 0)), in_dims=(0, None, 0))
    nested = twice(logits, parts[1][1], noise.unsqueeze(1).expand(4, 2, *noise.shape[1:]))
    for i, (_, mask, _) in enumerate(parts):
        assert_same(tuple(result[i] for result in mapped), program_of(kind)(logits[i], mask, noise[i], "flag"))
        expected = program_of(kind)(logits[i], parts[1][1], noise[i], "flag")
        assert_same(tuple(result[i] for result in shared), expected)
        assert_same(tuple(result[i, 1] for result in nested), expected)
    compiled = torch.compile(torch.vmap(program_of(kind)), fullgraph=True, backend="aot_eager")
    assert_same(compiled(logits, masks, noise), mapped)
    sample = torch.vmap(lambda x, m: program_of(kind)(x, m, torch.rand(noise.shape[1:]))[0], randomness="different")
    assert sample(logits[:2], stack([part[1] for part in parts[:2]])).shape == mapped[0][:2].shape


@pytest.mark.parametrize("compiles", [False, True])
def test_vmap_of_gradients(compiles: bool) -> None:
    logits, masks, _ = inputs("esper-2025-12", 5)

    def entropy(x: Tensor) -> Tensor:
        return em.FactoredCategorical(x, masks).raw_entropy().sum()

    gradients = torch.vmap(torch.func.grad(entropy))
    if compiles:
        gradients = torch.compile(gradients, fullgraph=True, backend="aot_eager")
    leaf = logits.clone().requires_grad_()
    entropy(leaf).backward()
    bad = logits.clone()
    bad[2] = math.nan
    result = gradients(torch.stack([logits, bad]))
    assert_near(result[0], leaf.grad, tolerance=1e-5)
    assert (result[1, 2] == 0).all()
    with pytest.raises(RuntimeError, match="fault"):
        torch.func.grad(entropy)(bad)


# -- export -----------------------------------------------------------------------------------------------------------


class Agent(nn.Module):
    def __init__(self, validate: str):
        super().__init__()
        self.engine, self.layer, self.validate = em.MaskEngine(em.ruleset("esper-2025-12")), nn.Linear(6, 15), validate

    def forward(self, states: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        policy = em.FactoredCategorical(self.layer(observations), self.engine(states), validate=self.validate)
        action = policy.sample(noise=noise)
        return action, policy.log_prob(action)


@pytest.mark.parametrize("validate", ["flag", "raise"])
def test_export_of_engine_and_sampler(validate: str) -> None:
    agent = Agent(validate)

    def arguments(batch: int) -> tuple[Tensor, ...]:
        return random_states(agent.engine, batch), torch.randn(batch, 6), torch.rand(batch, 4)

    batch = torch.export.Dim("batch", min=2, max=100_000)
    program = torch.export.export(agent, arguments(5), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    reloaded = torch.export.load(file).module()
    for size in (2, 7, 300):
        given = arguments(size)
        assert_same(reloaded(*given), agent(*given))


# -- every method -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "floor"), [("3", 1e-4), ("3", 0.4), ("1000", 1e-4), ("esper-2025-12", 1e-4), ("esper-2025-12", 0.4)]
)
def test_every_method_in_one_graph_for_all_batches(kind: str, floor: float) -> None:
    make = em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical

    def everything(logits: Tensor, masks: Any, noise: Tensor, active: Tensor) -> list[Tensor]:
        settings: dict[str, Any] = {"active": active, "min_prob": floor, "validate": "flag"}
        return use_everything(make(logits, masks, **settings), make(logits + 1, masks, **settings), noise)

    everything(*inputs(kind, 4), torch.ones(4, dtype=torch.bool))  # torch notes the function of a divergence
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend=counter)
    for batch in (7, 9, 30):
        logits, masks, noise = inputs(kind, batch)
        logits[1], active = math.nan, torch.arange(batch) % 3 != 1  # a row that would be faulty, were it active
        assert_same(tuple(compiled(logits, masks, noise, active)), tuple(everything(logits, masks, noise, active)))
    assert counter.frame_count == 1


def test_divergence_of_policies_with_other_conditioned_heads() -> None:
    """Its contexts are those of both, whose tables eager code makes."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))  # a layout of its own
    masks = engine(random_states(engine, 6))
    logits = {head.name: torch.randn(6, head.size) for head in engine.layout.heads}
    blend, slot = logits | {"blend": torch.randn(6, 4, 3)}, logits | {"slot": torch.randn(6, 4, 3)}

    def divergence(p: Any, q: Any) -> Tensor:
        dists = (em.FactoredCategorical(x, masks, validate="flag") for x in (p, q))
        return kl_divergence(*dists)

    expected = divergence(blend, slot)
    assert_near(torch.compile(divergence, fullgraph=True, backend="aot_eager")(blend, slot), expected, tolerance=1e-5)
    both = {name: x if x.ndim == 3 else x.unsqueeze(1).expand(-1, 4, -1) for name, x in blend.items() if name != "op"}
    p = em.FactoredCategorical(both | {"op": blend["op"]}, masks)
    assert_near(kl_divergence(p, em.FactoredCategorical(slot, masks)), expected, tolerance=1e-5)


# -- the ratio --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("kind", ["4", "1000", "esper-2025-12"])
def test_the_ratio_in_compiled_code_is_one(kind: str) -> None:
    """Rollout and update are two graphs. By default inductor may leave one of them, or the last rows of a batch, to the
    scalar exp, which rounds unlike the vectorized one; the option keeps all rows vectorized.
    """
    make = em.MaskedCategorical if kind.isdecimal() else em.FactoredCategorical

    def rollout(logits: Tensor, masks: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
        dist = make(logits, masks, validate="flag")
        action = dist.sample(noise=noise)
        return action, dist.log_prob(action)

    def update(logits: Tensor, masks: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        dist = make(logits, masks, validate="flag")
        return dist.log_prob(action), dist.raw_entropy()

    options = {"cpp.enable_tiling_heuristics": False}
    rollout, update = (torch.compile(f, fullgraph=True, dynamic=True, options=options) for f in (rollout, update))
    for batch in (7, 64, 1001):
        logits, masks, noise = inputs(kind, batch)
        with torch.no_grad():
            action, old = rollout(logits, masks, noise)
        assert torch.equal(update(logits.clone().requires_grad_(), masks, action)[0], old)
        rows = torch.randperm(batch)[: batch // 3]
        part = masks[rows] if kind.isdecimal() else masks.select(rows)
        assert torch.equal(update(logits[rows].requires_grad_(), part, action[rows])[0], old[rows])
