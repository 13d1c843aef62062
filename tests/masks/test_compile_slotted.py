"""One graph for every batch of heads by slot and second slots, packed or not; words of either width; export."""

import io
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import esper_masks as em
from esper_masks.bench.lifecycles import GUARDS, guarded
from tests.helpers import as_bools, assert_same_masks, random_states
from tests.masks.hand import BERTHS, many
from tests.masks.slotted import slotted_cases
from tests.programs import BATCHES

pytestmark = pytest.mark.usefixtures("fresh_compiler")
ENGINE = em.MaskEngine(BERTHS)


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    return name


def slotted_inputs(batch: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """States, rows and head masks of the rules ``BERTHS``."""
    columns = [torch.arange(batch * 3).view(batch, 3) % 3, torch.arange(batch * 3).view(batch, 3) % 4]
    states = torch.stack([*columns, torch.tensor([0, 3, 90_000])[columns[1].clamp_max(2)]], -1)
    room = torch.arange(batch * 9).view(batch, 3, 3) % 5 != 0
    return states, {"night": torch.arange(batch) % 2 == 0}, {"node": room}


def use_slotted(masks: em.ActionMasks) -> list[Tensor]:
    actions = torch.zeros(masks.op_words.shape[0], len(masks.layout.heads), dtype=torch.int64) + 1
    legal, acts = masks.acts_on(actions.unbind(-1))
    again = em.ActionMasks.from_packed(masks.layout, masks.pack())
    packed = [again.joint(), *list(again.values())]  # torch 2.12 traces no [*masks.values()]
    return [
        *list(masks.values()),
        masks.by_slot("node"),
        masks.joint(),
        masks.count(),
        masks.permits(actions),
        legal,
        acts,
        *packed,
    ]


def test_heads_by_slot_are_one_graph(backend: str) -> None:
    kept = torch.tensor([True, True, False])
    for engine in (ENGINE, em.MaskEngine(BERTHS, [f"s{i}" for i in range(3)])):
        counter = CompileCounterWithBackend(backend)

        def masks_of(states: Tensor, row: Any, head_masks: Any, engine: em.MaskEngine = engine) -> list[Tensor]:
            masks = engine(states, row=row, head_masks=head_masks, restrict={"slot": kept})
            return [masks.slot_words, *use_slotted(masks)]

        compiled = torch.compile(masks_of, fullgraph=True, dynamic=True, backend=counter)
        for batch in BATCHES:
            given = slotted_inputs(batch)
            for ours, expected in zip(compiled(*given), masks_of(*given), strict=True):
                assert torch.equal(ours, expected)
        assert counter.frame_count == 1


def test_masks_with_heads_by_slot_go_in_and_out(backend: str) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(
        lambda m: (m.restrict(node_by_slot=m.by_slot("node")), *use_slotted(m)),
        backend=counter,
        fullgraph=True,
        dynamic=True,
    )
    for batch in BATCHES:
        states, row, head_masks = slotted_inputs(batch)
        masks = ENGINE(states, row=row, head_masks=head_masks)
        again, *used = compiled(masks)
        assert_same_masks(again, as_bools(masks))
        for ours, expected in zip(used, use_slotted(masks), strict=True):
            assert torch.equal(ours, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("ops", [31, 62])
def test_words_of_either_width_compile(ops: int, backend: str) -> None:
    engine = em.MaskEngine(many(ops, 2))
    compiled = torch.compile(engine, fullgraph=True, dynamic=True, backend=backend)
    for batch in BATCHES:
        states = random_states(engine, batch, stages=range(-1, 4))
        assert_same_masks(compiled(states), as_bools(engine(states)))


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_compiles(name: str, backend: str) -> None:
    """Bounds and stages are members of an IntEnum here, which a compiler need not take for numbers."""
    engine = em.MaskEngine(guarded(name))
    states = random_states(engine, 300, stages=range(-1, 4))
    row = {"night": torch.arange(300) % 2 == 0, "free": torch.arange(300) % 3}
    compiled = torch.compile(engine, fullgraph=True, backend=backend)
    assert_same_masks(compiled(states, row=row), as_bools(engine(states, row=row)))


@settings(max_examples=25)
@given(st.data())
def test_random_guards_and_heads_compile(data: st.DataObject) -> None:
    torch.compiler.reset()
    case = data.draw(slotted_cases())
    compiled = torch.compile(case.engine, fullgraph=True, backend="eager")  # what the tracer makes of the program
    ours, masks = compiled(case.states, **case.given), case.engine(case.states, **case.given)
    assert_same_masks(ours, as_bools(masks))
    assert torch.equal(ours.pack(), masks.pack())


class Slotted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.engine = ENGINE

    def forward(self, states: Tensor, row: dict[str, Tensor], head_masks: dict[str, Tensor]) -> em.ActionMasks:
        return self.engine(states, row=row, head_masks=head_masks)


def test_export_of_heads_by_slot() -> None:
    batch = torch.export.Dim("batch", min=2)
    dynamic: Any = ({0: batch}, {"night": {0: batch}}, {"node": {0: batch}})
    program = torch.export.export(Slotted(), slotted_inputs(5), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for exported in (program, torch.export.load(buffer)):
        for size in (2, 7):
            states, row, head_masks = slotted_inputs(size)
            masks = exported.module()(states, row, head_masks)
            assert_same_masks(masks, as_bools(ENGINE(states, row=row, head_masks=head_masks)))


class Packing(nn.Module):
    """Packed masks of 40 ops, and what is legal by them once they are read again."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = em.MaskEngine(many(40, 2))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        packed = self.engine(states).pack()
        return packed, em.ActionMasks.from_packed(self.engine.layout, packed).joint()


@pytest.mark.slow
def test_onnx_keeps_both_halves_of_a_word(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module = Packing()
    states = random_states(module.engine, 9)
    expected = module(states)
    assert (expected[0][:, 1::2] != 0).any()  # upper halves
    shapes = [{0: torch.export.Dim("batch")}]
    program = torch.onnx.export(
        module, (states,), dynamo=True, dynamic_shapes=shapes, input_names=["states"], verbose=False
    )
    program.save(tmp_path / "masks.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "masks.onnx")
    for size in (1, 3, 257):
        states = random_states(module.engine, size)
        made = session.run(None, {"states": states.numpy()})
        for wanted, there in zip(module(states), map(torch.from_numpy, made), strict=True):
            assert torch.equal(there, wanted)
