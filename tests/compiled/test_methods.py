"""How a call finds its compiled code: when there is a new graph, what no graph is for, and what a key draws in one."""

from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import esper_masks as em
from esper_masks.compiled.methods import CompiledMethod, _exact
from esper_masks.decision.step import DecisionInputs
from esper_masks.distributions.noise import NoiseKey, keyed_uniforms
from tests.compiled.sums import Sums
from tests.decision.inputs import BATCH, composed, engine_of, inputs
from tests.helpers import FunctionRecorder, assert_near

# -- which graph ------------------------------------------------------------------------------------------------------


def test_the_first_graph_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each method, and only to whoever asked for it."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    run, one = CompiledMethod(Sums().add), torch.ones(3)
    with caplog.at_level("INFO", logger="esper_masks"):
        for arguments in ((one, one, False), (one, one, True), (one.double(), one, False)):
            run(arguments)
    assert len(run.graphs) == 3
    said = "building Sums.add: this first call takes some 10 to 90 seconds"
    assert [(entry.levelname, entry.message) for entry in caplog.records] == [("INFO", said)]


def graphs(run: CompiledMethod) -> list[int]:
    return [len(graphs.made or ()) for graphs in run.graphs.values()]


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> None:
    """Graphs are made but not built, where torch can choose among such: 2.11 only among those of its own compiler."""
    if torch.__version__ >= (2, 12):
        request.getfixturevalue("traced")


def test_equal_numbers_of_other_types_are_told_apart() -> None:
    assert len({_exact(number) for number in (1, True, 1.0)}) == 3


@pytest.mark.usefixtures("kept")
def test_sizes_have_a_graph_of_the_first_and_one_for_all() -> None:
    run = CompiledMethod(Sums().add)
    for batch, number in ((5, 1), (5, 1), (7, 2), (9, 2), (5, 2), (1000, 2)):
        one, other = torch.randn(batch), torch.randn(batch)
        assert torch.equal(run((one, other, False)), one * 2 + other)
        assert graphs(run) == [number]
    one = torch.randn(1)
    assert torch.equal(run((one, one, False)), one * 3)
    assert graphs(run) == [2, 1]


@pytest.mark.usefixtures("kept")
def test_a_graph_for_two_arguments_is_not_made_of_one() -> None:
    run = CompiledMethod(Sums().add)
    one, other = torch.randn(5), torch.randn(5)
    assert torch.equal(run((one, one, False)), one * 3)
    assert torch.equal(run((one, other, False)), one * 2 + other)
    whole = torch.randn(10)
    assert torch.equal(run((whole[:5], whole[5:], False)), whole[:5] * 2 + whole[5:])
    assert graphs(run) == [1]


@pytest.mark.usefixtures("kept")
def test_what_a_graph_depends_on_is_told_apart() -> None:
    run = CompiledMethod(Sums().add)
    one, other = torch.randn(5, 6), torch.randn(5, 6)
    expected = one * 2 + other
    assert torch.equal(run((one, other, False)), expected)
    assert run((one, other, True)).dtype == torch.float64
    assert torch.equal(run((one.T.contiguous().T, other, False)), expected)
    assert torch.equal(run((one.double(), other.double(), False)), one.double() * 2 + other.double())
    spread = torch.cat([one, one], 1)[:, ::2]
    assert torch.equal(run((spread, other, False)), spread * 2 + other)
    leaf = one.clone().requires_grad_()
    run((leaf, other, False)).sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(one, 2))
    with torch.no_grad():
        assert not run((leaf, other, False)).requires_grad
    with torch.inference_mode():
        assert torch.equal(run((one.clone(), other, False)), expected)
    assert run((leaf, other, False)).requires_grad
    ints = one.int(), other.int()
    assert torch.equal(run((*ints, False)), ints[0] * 2 + ints[1])  # they cross as bits
    assert torch.equal(run((ints[0], other, False)), ints[0] * 2 + other)


@pytest.mark.usefixtures("kept")
def test_another_number_of_threads_is_another_graph() -> None:
    run, one = CompiledMethod(Sums().add), torch.randn(5)
    before = torch.get_num_threads()
    try:
        for threads, number in ((1, 1), (2, 2), (1, 2), (2, 2)):
            torch.set_num_threads(threads)
            assert torch.equal(run((one, one, False)), one * 3)
            assert graphs(run) == [number]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("kept")
def test_only_so_many_keys_are_remembered() -> None:
    run = CompiledMethod(Sums().add)
    run.max_entries = 4
    for batch in range(2, 20):
        assert torch.equal(run((torch.ones(batch), torch.ones(batch), False)), torch.full((batch,), 3.0))
        assert len(run.entries) <= 4
    assert graphs(run) == [2]


def test_torch_may_be_told_to_keep_or_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.randn(5)
    compile = torch.compile
    with monkeypatch.context() as patch, torch.compiler.config.patch(force_disable_caches=True):
        patch.setattr(torch, "compile", lambda f, fullgraph, options: compile(f, backend="eager"))
        assert torch.equal(CompiledMethod(Sums().add)((one, one, False)), one * 3)
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    assert torch.equal(CompiledMethod(Sums().add)((one, one, False)), one * 3)


@pytest.mark.usefixtures("traced")
def test_memory_to_write_to_may_be_part_of_a_graph() -> None:  # as it is where there is CUDA
    step = em.DecisionStep(engine_of())
    for seed in (0, 1):
        states, logits, noise = inputs(step.engine, seed=seed)
        out = step.allocate(BATCH, entropy=False)
        given = DecisionInputs(states, logits, None, 0, noise=noise, dtype=out.actions.dtype, entropy=False)
        assert CompiledMethod(step.decide)(given, out) is None
        expected = composed(step.engine, states, logits, noise)
        assert torch.equal(out.actions.long(), expected.actions)
        assert torch.equal(out.slot_words.int(), expected.slot_words)
        assert_near(out.log_prob, expected.log_prob, 1e-5)


# -- where there is no graph ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_transforms_and_modes_see_each_op(compiled: em.DecisionStep, warm: bool) -> None:
    """Compiled code takes the memory of what it is given, and what they give has none."""
    engine = compiled.engine
    states, logits, noise = inputs(engine)
    step = compiled if warm else em.DecisionStep(engine)
    if warm:
        step(states, logits)
    masks, actions = engine(states), composed(engine, states, logits, noise).actions
    leaf = logits.clone().requires_grad_()
    joint = em.FactoredCategorical(leaf, masks)
    gradient = torch.func.grad(lambda x: step.evaluate(x, masks, actions).log_prob.sum())(logits)
    assert_near(gradient, torch.autograd.grad(joint.log_prob(actions).sum(), leaf)[0], 1e-5)
    scored = torch.vmap(lambda x: step.evaluate(x, masks, actions).log_prob)(torch.stack([logits, logits.flip(0)]))
    assert_near(scored[0], joint.log_prob(actions).detach(), 1e-5)
    drawn = torch.vmap(lambda s, x: step(s, x).actions, randomness="different")(
        states[:1].expand(200, 1, 3, 2), logits[:1].expand(200, 1, 15)
    )
    assert len(drawn.unique(dim=0)) > 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(step(states, logits).actions) is not Tensor
    watched = FunctionRecorder()
    for watching in (watched, torch.autograd.forward_ad.dual_level(), torch.compiler.set_stance("force_eager")):
        before = len(step.runs)
        with watching:
            assert torch.equal(step(states, logits, noise=noise).actions, actions)
        assert len(step.runs) == before
    assert torch.exp in watched.functions or Tensor.exp in watched.functions
    assert compiled(states, logits).log_prob.isfinite().all()


# -- noise ------------------------------------------------------------------------------------------------------------


def key_of(seed: int) -> NoiseKey:
    """The next key that torch's own generator gives, which is then as it was."""
    torch.manual_seed(seed)
    key = NoiseKey.draw()
    torch.manual_seed(seed)
    return key


def test_compiled_code_draws_what_its_key_says(compiled: em.DecisionStep) -> None:
    states, logits, _ = inputs(compiled.engine)  # some rows are left over by vectors
    noise = torch.stack(keyed_uniforms(key_of(3), (BATCH, 4)), -1)
    assert torch.equal(compiled(states, logits).actions, composed(compiled.engine, states, logits, noise).actions)


@pytest.mark.usefixtures("traced", "form")
def test_doubles_are_drawn_as_doubles() -> None:
    step = em.DecisionStep(engine_of())
    states, logits, _ = inputs(step.engine)
    noise = torch.stack(keyed_uniforms(key_of(3), (BATCH, 4), torch.float64), -1)
    made = step(states, logits.double())
    assert torch.equal(made.actions, composed(step.engine, states, logits.double(), noise).actions)
    assert made.log_prob.dtype == torch.float64


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_step_draws_from_torchs_generator(compiled: em.DecisionStep, mode: str) -> None:
    step = compiled if mode == "compiled" else em.DecisionStep(compiled.engine, mode="eager")
    states, logits, _ = inputs(step.engine)
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append([step(states, logits).actions for _ in range(3)])
    assert all(map(torch.equal, *made))
    assert not torch.equal(made[0][0], made[0][1])


WRONG: list[tuple[str, Callable[[em.DecisionStep, Tensor, Tensor], Any]]] = [
    ("total_seeds", lambda step, states, logits: step(states, logits, [0] * BATCH, max_seeds=2)),
    ("enabled must be", lambda step, states, logits: step(states, logits, enabled=[True, False, True])),
    ("noise must be", lambda step, states, logits: step(states, logits, noise=[[0.5] * 4] * BATCH)),
    ("states", lambda step, states, logits: step.masks([[1, 2]])),
]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("words", "call"), WRONG, ids=[words for words, _ in WRONG])
def test_what_no_key_is_made_of_is_named(words: str, call: Callable[..., Any]) -> None:
    states, logits, _ = inputs(engine_of())
    with pytest.raises((ValueError, em.SlotStateError), match=words):
        call(em.DecisionStep(engine_of()), states, logits)


@pytest.mark.usefixtures("traced")
def test_any_mapping_of_logits_will_do() -> None:
    step = em.DecisionStep(engine_of())
    states, logits, noise = inputs(step.engine)
    parts = dict(zip(step.engine.layout.head_names, logits.split([h.size for h in step.engine.layout.heads], -1)))
    expected = composed(step.engine, states, logits, noise)
    for mapping in (parts, MappingProxyType(parts), UserDict(parts)):
        made = step(states, mapping, noise=noise)
        assert torch.equal(made.actions, expected.actions)
        assert step.evaluate(mapping, step.engine(states), made.actions).log_prob.isfinite().all()
