"""One graph for every batch, of the engine, its masks and its codec; and export."""

import copy
import io
import pickle
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import esper_masks as em
from esper_masks.actions.tables import layout_tables
from tests.helpers import as_bools, assert_same_masks, assert_same_words, random_states, states_and_totals
from tests.programs import BATCHES, consume

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    return name


@pytest.mark.parametrize("name", em.rulesets())
def test_one_graph_for_every_batch(name: str, backend: str) -> None:
    engine = em.MaskEngine(em.ruleset(name), max_seeds=3)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(engine, fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        states, totals = states_and_totals(engine, batch)
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
        states, totals = states_and_totals(engine, batch)
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
