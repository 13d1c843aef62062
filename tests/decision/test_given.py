"""What a caller gives beside the states: in every mode as the engine and the distribution take it, and in chunks."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.decision.chunks import values_per_row
from esper_masks.decision.given import over_rows
from esper_masks.decision.step import DecisionInputs
from esper_masks.distributions import forms
from esper_masks.masks import choices
from tests.decision.inputs import graphs
from tests.helpers import as_bools, assert_near, assert_same_masks, seeded
from tests.pods import assert_as_legal, engine_of, inputs, rows

BATCH = 40


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """Of a step. Traced, graphs are made as for compiled code, and not built."""
    if request.param == "traced":
        request.getfixturevalue("traced")
    return "eager" if request.param == "eager" else "compiled"


@pytest.mark.parametrize("mode", ["eager", pytest.param("traced", marks=pytest.mark.slow)], indirect=True)
def test_rows_reach_the_engine(mode: Any) -> None:
    engine = engine_of()
    step = em.DecisionStep(engine, mode=mode)
    states, logits, noise = inputs(engine, BATCH)
    for seed in range(2):
        row = rows(BATCH, seed=seed)
        masks = engine(states, row=row)
        assert_same_masks(step.masks(states, row=row), as_bools(masks))
        made, joint = step(states, logits, noise=noise, row=row), em.FactoredCategorical(logits, masks)
        assert torch.equal(made.actions, joint.sample(noise=noise))
        assert_near(made.log_prob, joint.log_prob(made.actions), 1e-5)
        assert_near(made.raw_entropy, joint.raw_entropy(), 1e-5)
        assert (made.actions[:, 3] == 3).any()  # CORDON, which only a row allows


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("mode", ["eager", pytest.param("traced", marks=pytest.mark.slow)], indirect=True)
def test_every_call_checks_the_masks_of_heads(mode: Any, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where masks that fit came before, and where a choice too few has as many words."""
    monkeypatch.setattr(choices, "LARGE", 0 if large else 1 << 62)
    engine = engine_of()
    step, (states, logits, noise) = em.DecisionStep(engine, mode=mode), inputs(engine, BATCH)
    row, room = rows(BATCH), torch.ones(BATCH, len(engine.slot_ids), 5, dtype=torch.bool)
    calls = [lambda **given: step(states, logits, noise=noise, **given), lambda **given: step.masks(states, **given)]
    for call in calls:
        call(row=row, head_masks={"node": room})
        for wrong in (room[..., :-1], room[:, :-1], room.int(), room[:-1], room[:, 0, :-1]):
            with pytest.raises(em.SlotStateError, match="head_masks 'node'"):
                call(row=row, head_masks={"node": wrong})
        with pytest.raises(em.SlotStateError, match=r"head_masks has 'slot'.*op and slot go to restrict="):
            call(row=row, head_masks={"slot": room[..., 0]})


@pytest.mark.parametrize("call", ["decide", "masks"])
@pytest.mark.usefixtures("traced")
def test_values_need_no_graph_and_names_need_one(call: str) -> None:
    engine = engine_of()
    step, (states, logits, noise) = em.DecisionStep(engine), inputs(engine, BATCH)

    def ask(**given: Any) -> None:
        masks = engine(states, **given)
        if call == "masks":
            assert_same_masks(step.masks(states, **given), as_bools(masks))
        else:
            made = step(states, logits, noise=noise, **given).actions
            assert torch.equal(made, em.FactoredCategorical(logits, masks).sample(noise=noise))

    first, second = rows(BATCH), rows(BATCH, seed=1)
    ask(row=first)
    ask(row=second)
    ask(row=dict(reversed(second.items())))  # the order of names is none
    ask(row=first, restrict={}, head_masks=None)
    assert graphs(step) == 1


@pytest.mark.usefixtures("traced")
def test_nothing_given_is_nothing() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    step, (states, logits, noise) = em.DecisionStep(engine), inputs(engine, BATCH)
    made = step(states, logits, noise=noise)
    for given in ({"row": None}, {"restrict": {}, "head_masks": None}):
        assert torch.equal(step(states, logits, noise=noise, **given).actions, made.actions)  # type: ignore[arg-type]
    assert graphs(step) == 1
    assert made.packed is None


def test_wrong_keywords_are_named() -> None:
    engine = engine_of()
    states, logits, _ = inputs(engine, BATCH)
    for mode in ("eager", "compiled"):
        step = em.DecisionStep(engine, mode=mode)  # type: ignore[arg-type]
        for call in (step.masks, lambda s, step=step, **given: step(s, logits, **given)):
            with pytest.raises(TypeError, match=r"no keyword 'rows'; beside the others there are row, head_masks, res"):
                call(states, rows={})
            with pytest.raises(em.SlotStateError, match=r"row must be a mapping from name to tensor, got torch\.bool"):
                call(states, row=torch.ones(BATCH, dtype=torch.bool))
    with pytest.raises(em.SlotStateError, match="row 'evictions' is missing"):
        em.DecisionStep(engine, mode="eager").masks(states)


@pytest.mark.cpu  # whose caches the chunks are for
def test_chunks_have_their_own_rows() -> None:
    engine = engine_of()
    step, whole = em.DecisionStep(engine, mode="eager"), em.DecisionStep(engine, mode="eager")
    states, logits, noise = inputs(engine, 90)
    step.chunk_values = values_per_row(engine.layout)[0] * 30
    sizes: list[int] = []
    step.register_forward_pre_hook(lambda _, __, named: sizes.append(len(named["states"])), with_kwargs=True)
    given: dict[str, Any] = {"states": states, "logits": logits, "noise": noise, "row": rows(90)}
    made, expected = step(**given), whole(**given)
    assert sizes == [90, 30, 30, 30]
    assert torch.equal(made.actions, expected.actions)
    assert torch.equal(made.slot_words, expected.slot_words)
    with pytest.raises(
        em.SlotStateError, match=r"row 'evictions' has shape \(91,\); states of this batch need \(90,\)"
    ):
        step(**{**given, "row": rows(91)})


def test_constraints_are_seen_over_all_rows() -> None:
    layout = engine_of().layout
    for name, axes in (("op", (4,)), ("slot", (3,)), ("slot_by_op", (4, 3)), ("node_by_slot", (3, 5))):
        for leading in ((), (1,), (6,), (2, 1), (2, 6)):
            for fewer in range(len(axes)) if leading == () else (0,):
                mask = torch.rand(*leading, *axes[fewer:]) < 0.5
                wide = over_rows({name: mask}, (2, 6), layout)[name]
                assert wide.shape[:2] == (2, 6)
                assert torch.equal(wide.expand(2, 6, *axes), mask.expand(2, 6, *axes))
    with pytest.raises(RuntimeError, match="expand"):
        over_rows({"op": torch.ones(5, 4)}, (2, 6), layout)


# -- head masks and restrictions --------------------------------------------------------------------------------------

# a graph for each of the cases is made below, by one step
MODES_AND_CASES = [*(("eager", case) for case in range(8)), pytest.param("traced", 7, marks=pytest.mark.slow)]


def limits(engine: em.MaskEngine, batch: int, seed: int = 0) -> list[dict[str, Any]]:
    """What a caller may give, from nothing to all of it."""
    generator, slots = seeded(seed), len(engine.slot_ids)

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < 0.6

    row = {"row": rows(batch, seed=seed)}
    restrict = {"op": some(4), "slot_by_op": some(batch, 4, slots), "zone": some(1, 2)}
    return [
        row,
        {**row, "head_masks": {"zone": some(batch, 2)}},
        {**row, "head_masks": {"node": some(batch, 5)}},
        {**row, "head_masks": {"node": some(batch, slots, 5)}},
        {**row, "restrict": {"slot": some(slots)}},
        {**row, "restrict": restrict},
        {**row, "restrict": {"node_by_slot": some(slots, 5)}},
        {**row, "head_masks": {"node": some(batch, slots, 5), "zone": some(batch, 2)}, "restrict": restrict},
    ]


@pytest.mark.parametrize(("mode", "case"), MODES_AND_CASES, indirect=["mode"])
def test_a_step_is_its_pieces_whatever_is_given(mode: Any, case: int) -> None:
    engine = engine_of()
    step = em.DecisionStep(engine, mode=mode)
    states, logits, noise = inputs(engine, BATCH)
    given = limits(engine, BATCH)[case]
    masks = engine(states, **given)
    assert_same_masks(step.masks(states, **given), as_bools(masks))
    joint = em.FactoredCategorical(logits, masks, validate="flag")
    made = step(states, logits, noise=noise, **given)
    assert torch.equal(made.actions, joint.sample(noise=noise))
    acted = made.actions[:, -1] >= 0  # the others are rows that what is given leaves without an action
    assert masks.permits(made.actions)[acted].all()
    assert made.packed is not None  # CORDON is legal without a slot
    again = em.ActionMasks.from_packed(engine.layout, made.packed)
    assert_same_masks(again, as_bools(masks))
    scored = step.evaluate(logits, again, made.actions, active=acted, head_entropies=True)
    assert torch.equal(scored.log_prob, made.log_prob)
    assert_near(scored.log_prob, em.FactoredCategorical(logits, masks, active=acted).log_prob(made.actions), 1e-5)
    assert_near(scored.head_entropies, em.FactoredCategorical(logits, masks, active=acted).head_entropies(), 1e-5)
    assert not scored.faults.any()


@pytest.mark.parametrize(("mode", "case"), MODES_AND_CASES, indirect=["mode"])
def test_a_step_writes_into_a_buffer_that_is_made_for_it(mode: Any, case: int) -> None:
    engine = engine_of()
    step = em.DecisionStep(engine, mode=mode)
    states, logits, noise = inputs(engine, BATCH)
    every = limits(engine, BATCH)
    names = {keyword: tuple(every[case].get(keyword) or ()) for keyword in ("head_masks", "restrict")}
    buffer = em.RolloutBuffer(engine, 2, BATCH, **names)
    for at, given in enumerate((every[case], every[0])):  # and one that needs no more than the rules do
        step(states, logits, noise=noise, out=buffer.at(at), **given)
        made = step(states, logits, noise=noise, **given)
        assert torch.equal(buffer.actions[at].long(), made.actions)
        assert torch.equal(buffer.log_prob[at], made.log_prob)
        assert_as_legal(buffer.masks(at), engine(states, **given))
    out = step.allocate(BATCH, **names)
    assert step(states, logits, noise=noise, out=out, **every[case]) is out
    assert_as_legal(em.ActionMasks.from_packed(engine.layout, out.packed), engine(states, **every[case]))


@pytest.mark.slow
@pytest.mark.cpu  # which promises the same bits
def test_built_code_is_its_pieces_too() -> None:
    engine = engine_of()
    step, (states, logits, noise) = em.DecisionStep(engine), inputs(engine, 333)
    given = limits(engine, 333)[-1]
    masks, made = engine(states, **given), step(states, logits, noise=noise, **given)
    joint = em.FactoredCategorical(logits, masks, validate="flag")
    assert (made.actions == joint.sample(noise=noise)).all(-1).float().mean() > 0.99  # but where noise is on an edge
    acted = made.actions[:, -1] >= 0
    assert masks.permits(made.actions)[acted].all()
    again = em.ActionMasks.from_packed(engine.layout, made.packed)
    assert_as_legal(again, masks)
    scored = step.evaluate(logits, again, made.actions, active=acted)
    assert torch.equal(scored.log_prob[acted], made.log_prob[acted])


def test_a_place_that_is_too_narrow_is_named() -> None:
    engine = engine_of()
    states, logits, _ = inputs(engine, BATCH)
    given = limits(engine, BATCH)[-1]
    for mode in ("eager", "compiled"):
        step = em.DecisionStep(engine, mode=mode)  # type: ignore[arg-type]
        for out in (
            step.allocate(BATCH),
            step.allocate(BATCH, restrict=("op",)),
            em.RolloutBuffer(engine, 1, BATCH).at(0),
        ):
            with pytest.raises(
                ValueError, match=r"out has \d+ packed words a row, and the masks need \d+: make the bu"
            ):
                step(states, logits, out=out, **given)
        out = step.allocate(BATCH)
        with pytest.raises(ValueError, match="out has 0 packed words a row"):
            step(states, logits, out=out._replace(packed=None), row=given["row"])
        with pytest.raises(ValueError, match=r"packed of out cannot be torch\.int16"):
            step(states, logits, out=out._replace(packed=out.packed.short()), row=given["row"])
        with pytest.raises(ValueError, match="out has no packed words, and the masks need"):  # in code around a step
            step.decide(DecisionInputs(states, logits, None, 0, given=given), out._replace(packed=None))


@pytest.mark.usefixtures("traced")
def test_restricted_masks_need_no_distribution_in_eager_code_first() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    states, logits, _ = inputs(engine, BATCH)
    masks = engine(states).restrict(blueprint=torch.arange(5) != 2, blend_by_slot=torch.ones(3, 3, dtype=torch.bool))
    actions = torch.zeros(BATCH, 4, dtype=torch.int64)
    scored = em.DecisionStep(engine).evaluate(logits, masks, actions)  # builds tables that a trace cannot
    assert_near(scored.log_prob, em.FactoredCategorical(logits, masks).log_prob(actions), 1e-5)


@pytest.mark.usefixtures("traced")
def test_one_graph_for_each_set_of_names() -> None:
    engine = engine_of()
    step, (states, logits, noise) = em.DecisionStep(engine), inputs(engine, BATCH)
    for seed in range(2):
        for number, given in enumerate(limits(engine, BATCH, seed), 1):
            made = step(states, logits, noise=noise, **given)
            joint = em.FactoredCategorical(logits, engine(states, **given), validate="flag")
            assert torch.equal(made.actions, joint.sample(noise=noise))
            assert graphs(step) == (number if seed == 0 else 8)


@pytest.mark.cpu
@pytest.mark.parametrize("case", range(8))
def test_chunks_are_given_their_part(case: int) -> None:
    engine = engine_of()
    step, whole = em.DecisionStep(engine, mode="eager"), em.DecisionStep(engine, mode="eager")
    states, logits, noise = inputs(engine, 90)
    limited = limits(engine, 90)[case]
    with forms.use("stacked"):
        [computed] = em.FactoredCategorical(logits, engine(states, **limited), validate="flag")._form.softmax.illegal
    step.chunk_values = computed[..., :30].numel()  # of 30 rows in the stacked form: the quick one has no more
    sizes: list[int] = []
    step.register_forward_pre_hook(lambda _, __, named: sizes.append(len(named["states"])), with_kwargs=True)
    given: dict[str, Any] = {"states": states, "logits": logits, "noise": noise, **limited}
    made, expected = step(**given), whole(**given)
    assert sizes == [90, 30, 30, 30]
    for mine, other in zip(made[:3], expected[:3], strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(made.packed, expected.packed)


@pytest.mark.parametrize(
    ("mode", "case"),
    [*(("eager", case) for case in (None, 0, 2, 3)), pytest.param("traced", None, marks=pytest.mark.slow)],
    indirect=["mode"],
)
def test_logits_of_each_slot(mode: Any, case: int | None) -> None:
    engine = engine_of() if case is not None else em.MaskEngine(em.ruleset("esper-2025-12"))
    head = "blueprint" if case is None else "node"
    states, logits, noise = inputs(engine, BATCH)
    sizes = [each.size for each in engine.layout.heads]
    parts = dict(zip(engine.layout.head_names, logits.split(sizes, -1)))
    parts[head] = torch.randn(BATCH, 3, 5, generator=seeded(1))
    step, given = (
        em.DecisionStep(engine, mode=mode, by_slot=(head,)),
        {} if case is None else limits(engine, BATCH)[case],
    )
    masks = engine(states, **given)
    joint = em.FactoredCategorical(parts, masks, by_slot=(head,), validate="flag")
    made = step(states, parts, noise=noise, **given)
    assert (made.actions == joint.sample(noise=noise)).all(-1).float().mean() > 0.97
    assert_near(made.raw_entropy, joint.raw_entropy(), 1e-5)
    scored = step.evaluate(parts, masks, made.actions, head_entropies=True)
    acted = made.actions[:, -1] >= 0
    assert torch.equal(scored.log_prob[acted], made.log_prob[acted])
    assert_near(scored.head_entropies, joint.head_entropies(), 1e-5)
    assert step.by_slot == (head,)


def test_wrong_heads_by_slot_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"by_slot=\('slot',\); wanted the names of heads whose logits depend on the sl"
    ):
        em.DecisionStep(engine_of(), by_slot=("slot",))
    with pytest.raises(ValueError, match="by_slot names 'zone', which CORDON uses without a slot"):
        em.DecisionStep(engine_of(), by_slot=("zone",))
    step = em.DecisionStep(engine_of(), by_slot=("node",), mode="eager")
    with pytest.raises(AttributeError):
        step.by_slot = ()  # type: ignore[misc]
    states, logits, _ = inputs(step.engine, BATCH)
    with pytest.raises(ValueError, match="flat logits have no room for slots"):
        step(states, logits, row=rows(BATCH))


class Acting(torch.nn.Module):
    """What is exported: engine and distribution, with masks as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = engine_of()

    def forward(self, states: Tensor, logits: Tensor, noise: Tensor, night: Tensor, left: Tensor, room: Tensor) -> Any:
        masks = self.engine(states, row={"night": night, "evictions": left}, head_masks={"node": room})
        policy = em.FactoredCategorical(logits, masks, validate="flag")
        action = policy.sample(noise=noise)
        return action, policy.log_prob(action), masks.joint(), masks.pack()


def arguments(engine: em.MaskEngine, batch: int) -> tuple[Tensor, ...]:
    row = rows(batch, seed=batch)
    room = torch.rand(batch, 3, 5, generator=seeded(batch)) < 0.6
    return *inputs(engine, batch, batch), row["night"], row["evictions"], room


@pytest.mark.slow
def test_export() -> None:
    module = Acting()
    module(*arguments(module.engine, 5))  # lookup tables, which a trace cannot make
    batch = torch.export.Dim("batch", min=2, max=100_000)
    program = torch.export.export(module, arguments(module.engine, 5), dynamic_shapes=({0: batch},) * 6)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (program.module(), torch.export.load(file).module()):
        for rows_ in (7, 300):
            given = arguments(module.engine, rows_)
            for mine, other in zip(exported(*given), module(*given), strict=True):
                if mine.is_floating_point():
                    assert_near(mine, other, 1e-5)
                else:
                    assert torch.equal(mine, other)


@pytest.mark.slow
def test_onnx(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module = Acting()
    module(*arguments(module.engine, 5))
    names, batch = ["states", "logits", "noise", "night", "left", "room"], torch.export.Dim("batch")
    program = torch.onnx.export(
        module,
        arguments(module.engine, 8),
        dynamo=True,
        dynamic_shapes=[{0: batch}] * 6,
        input_names=names,
        output_names=["action", "log_prob", "joint_mask", "packed"],
        verbose=False,
    )
    program.save(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    for size in (1, 3, 257):
        given = arguments(module.engine, size)
        made = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given)})
        with torch.no_grad():
            for wanted, there in zip(module(*given), map(torch.from_numpy, made), strict=True):
                torch.testing.assert_close(there, wanted)
