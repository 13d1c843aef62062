"""One graph, no host read, an op count that the batch does not change: what a GPU job relies on."""

import copy
import io
import pickle
import shutil
from math import ceil, log2
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import esper_masks as em
from esper_masks.actions.tables import layout_tables
from tests.helpers import HOST_READS, OpRecorder, as_bools, assert_same_masks, assert_same_words, random_states
from tests.programs import BATCHES, consume

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    return name


def inputs(engine: em.MaskEngine, batch: int) -> tuple[Tensor, Tensor]:
    return random_states(engine, batch), torch.arange(batch, dtype=torch.int32) % 5


@pytest.mark.parametrize("name", em.rulesets())
def test_one_graph_for_every_batch(name: str, backend: str) -> None:
    engine = em.MaskEngine(em.ruleset(name), max_seeds=3)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(engine, fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        states, totals = inputs(engine, batch)
        masks = compiled(states, totals)
        assert isinstance(masks, em.ActionMasks)
        assert_same_words(masks, engine(states, totals))
        assert_same_masks(masks, as_bools(engine(states, totals)))
    assert counter.frame_count == 1


def test_default_compile_settles_after_two_batches() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(engine, fullgraph=True, backend=counter)
    for batch in (*BATCHES, *BATCHES, 11):
        states = random_states(engine, batch)
        assert_same_words(compiled(states), engine(states))
    assert counter.frame_count == 2  # static at first, then dynamic


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_every_argument_compiles(slots: int) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), [f"s{i}" for i in range(slots)])
    compiled = torch.compile(engine, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in BATCHES:
        states, totals = inputs(engine, batch)
        enabled = torch.rand(batch, slots) < 0.6
        limits = torch.arange(batch) % 3
        for kwargs in (
            {"max_seeds": 2},
            {"max_seeds": limits},
            {"max_seeds": limits, "enabled": enabled},
            {"enabled": enabled[0]},
        ):
            assert_same_words(compiled(states, totals, **kwargs), engine(states, totals, **kwargs))


def test_masks_go_into_a_compiled_function(backend: str) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(consume, fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        masks = engine(random_states(engine, batch))
        for ours, expected in zip(compiled(masks), consume(masks), strict=True):
            assert torch.equal(ours, expected)
    assert counter.frame_count == 1


def test_a_compiled_function_tells_layouts_apart() -> None:
    """Constants of one layout must not be baked into a graph that then serves another."""

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def blueprint_and_joint(masks: em.ActionMasks) -> tuple[Tensor, Tensor]:
        return masks["blueprint"], masks.joint()

    rules = em.ruleset("esper-2026-06")
    engines = [em.MaskEngine(rules), em.MaskEngine(rules, topology="transformer"), em.MaskEngine(rules, ["a", "b"])]
    for engine in engines + engines:
        masks = engine(random_states(engine, 5))
        blueprint, joint = blueprint_and_joint(masks)
        assert torch.equal(blueprint, masks["blueprint"])
        assert torch.equal(joint, masks.joint())


def test_a_copied_engine_compiles() -> None:
    """A copy once came without its tables, which a trace cannot make."""
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    states = random_states(engine, 5)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        joint = torch.compile(lambda s, e=other: e(s).joint(), fullgraph=True, backend="aot_eager")
        assert torch.equal(joint(states), engine(states).joint())


def test_masks_whose_tables_are_missing_say_so() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    masks = pickle.loads(pickle.dumps(engine(engine.empty_slots(5))))
    joint = torch.compile(lambda m: m.joint(), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="use these masks on cpu once before"):
        joint(masks)


def test_codec_compiles(backend: str) -> None:
    codec = em.MaskEngine(em.ruleset("esper-2025-12")).joint_actions

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def round_trip(index: Tensor) -> tuple[Tensor, Tensor]:
        actions = codec.decode(index)
        return actions, codec.encode(actions)

    for batch in BATCHES:
        index = torch.arange(batch) % codec.size
        actions, again = round_trip(index)
        assert torch.equal(actions, codec.decode(index))
        assert torch.equal(again, index)


def test_vmap() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), max_seeds=2)
    states, totals = inputs(engine, 12)
    expected = engine(states, totals)
    masks = torch.vmap(lambda s, t: engine(s, t))(states, totals)
    assert isinstance(masks, em.ActionMasks)
    assert masks.shape == (12,)
    assert_same_masks(masks, as_bools(expected))
    outer = torch.vmap(torch.vmap(lambda s, t: engine(s, t).joint()))(states.reshape(3, 4, 3, 3), totals.reshape(3, 4))
    assert torch.equal(outer.reshape(12, -1), expected.joint())
    heads = torch.vmap(lambda m: (m["style"], m.forced, m.slot_by_op))(masks)
    for ours, other in zip(heads, (expected["style"], expected.forced, expected.slot_by_op)):
        assert torch.equal(ours, other)
    narrow = torch.vmap(lambda m: m.restrict(slot=torch.tensor([True, False, True])))(masks)
    assert_same_masks(narrow, as_bools(expected.restrict(slot=torch.tensor([True, False, True]))))


def test_masks_are_a_pytree() -> None:
    from torch.utils import _pytree as pytree

    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    masks = engine(random_states(engine, 6)).restrict(op=torch.arange(6) != 3)
    leaves, spec = pytree.tree_flatten(masks)
    assert len(leaves) == 3  # slot words, op words, the slots that the words no longer tell
    assert_same_masks(pytree.tree_unflatten(leaves, spec), as_bools(masks))
    doubled = pytree.tree_map(lambda t: torch.cat([t, t]), masks)
    assert doubled.shape == (12,)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(masks)[0]]
    assert paths == [".slot_words", ".op_words", ".slot"]


class Pipeline(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.engine = em.MaskEngine(em.ruleset("esper-2026-06"))

    def forward(self, states: Tensor) -> tuple[em.ActionMasks, Tensor]:
        masks = self.engine(states)
        return masks, masks.joint()


def test_a_trace_leaves_no_tensor_of_its_own_behind() -> None:
    """Constants made while tracing once stayed in the layout as fake tensors, and broke every later call."""
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    engine.layout._tables.clear()
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        layout_tables(engine.layout, torch.device("cpu"))
    assert not engine.layout._tables
    assert engine(engine.empty_slots(1)).joint().sum() > 1


def test_export_and_save() -> None:
    module = Pipeline()
    dynamic: Any = {"states": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(module, (random_states(module.engine, 5),), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for exported in (program, torch.export.load(buffer)):
        for batch in BATCHES:
            states = random_states(module.engine, batch)
            masks, joint = exported.module()(states)
            assert isinstance(masks, em.ActionMasks)
            assert masks.layout == module.engine.layout
            assert_same_masks(masks, as_bools(module.engine(states)))
            assert torch.equal(joint, masks.joint())


def ops_of(engine: em.MaskEngine, batch: int) -> list[str]:
    states, totals = inputs(engine, batch)
    with OpRecorder() as recorder:
        engine(states, totals, enabled=torch.ones(len(engine.slot_ids), dtype=torch.bool))
    return [op for op in recorder.ops if "ones" not in op]


@pytest.mark.parametrize("name", em.rulesets())
def test_op_count_grows_with_log_slots_alone(name: str) -> None:
    counts = {}
    for slots in (1, 2, 3, 4, 7, 8, 9, 16, 33, 64):
        engine = em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(slots)], max_seeds=2)
        ops = ops_of(engine, 2)
        assert ops == ops_of(engine, 1000) == ops_of(engine, 0), "the batch must not change the ops"
        counts[slots] = len(ops)
    assert counts[1] <= 30
    for slots, count in counts.items():
        assert count == counts[1] + 3 * ceil(log2(slots))  # two views and one OR a step


def test_nothing_reads_the_device() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), max_seeds=2)
    states, totals = inputs(engine, 50)
    consume(engine(states, totals))  # constants are made once
    with OpRecorder() as recorder:
        masks = engine(states, totals, max_seeds=totals, enabled=torch.rand(50, 3) < 0.5)
        consume(masks)
        engine.joint_actions.encode(engine.joint_actions.decode(masks.op_words))
    assert len(recorder.ops) > 100
    assert [op for op in recorder.ops if any(name in op for name in HOST_READS)] == []


def test_the_recorder_sees_host_reads() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    with OpRecorder() as recorder:
        engine.check_slots(engine.empty_slots(2))
        int(engine(engine.empty_slots(1)).op_words)
    assert any("nonzero" in op for op in recorder.ops)
    assert any("_local_scalar_dense" in op for op in recorder.ops)
