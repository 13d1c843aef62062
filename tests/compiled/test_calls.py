"""How a call finds its compiled code: when there is a new graph, and what no graph is for; and the noise within it."""

from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import esper_masks as em
from esper_masks.compiled import calls
from esper_masks.decision import step as decision
from esper_masks.distributions import factored
from esper_masks.distributions.noise import ROUNDS, counted_uniforms, random_key, threefry
from tests.compiled.sums import Sums
from tests.decision.inputs import BATCH, composed, engine_of, inputs
from tests.helpers import FunctionRecorder, assert_near

# -- which graph ------------------------------------------------------------------------------------------------------


def test_the_first_graph_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each method, and only to whoever asked for it."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    run, one = calls.Compiled(Sums(), "add"), torch.ones(3)
    with caplog.at_level("INFO", logger="esper_masks"):
        for arguments in ((one, one, False), (one, one, True), (one.double(), one, False)):
            run(*arguments)
    assert len(run.forms) == 3
    said = "building Sums.add: this first call takes some 10 to 90 seconds"
    assert [(entry.levelname, entry.message) for entry in caplog.records] == [("INFO", said)]


def graphs(run: calls.Compiled) -> list[int]:
    return [len(made or ()) for _, made in run.forms.values()]


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> None:
    """Graphs are made but not built, where torch can choose among such: 2.11 only among those of its own compiler."""
    if torch.__version__ >= (2, 12):
        request.getfixturevalue("traced")


def test_equal_numbers_of_other_types_are_told_apart() -> None:
    assert len({calls._exact(number) for number in (1, True, 1.0)}) == 3


@pytest.mark.usefixtures("kept")
def test_sizes_have_a_graph_of_the_first_and_one_for_all() -> None:
    run = calls.Compiled(Sums(), "add")
    for batch, number in ((5, 1), (5, 1), (7, 2), (9, 2), (5, 2), (1000, 2)):
        one, other = torch.randn(batch), torch.randn(batch)
        assert torch.equal(run(one, other, False), one * 2 + other)
        assert graphs(run) == [number]
    one = torch.randn(1)
    assert torch.equal(run(one, one, False), one * 3)
    assert graphs(run) == [2, 1]


@pytest.mark.usefixtures("kept")
def test_a_graph_for_two_arguments_is_not_made_of_one() -> None:
    run = calls.Compiled(Sums(), "add")
    one, other = torch.randn(5), torch.randn(5)
    assert torch.equal(run(one, one, False), one * 3)
    assert torch.equal(run(one, other, False), one * 2 + other)
    whole = torch.randn(10)
    assert torch.equal(run(whole[:5], whole[5:], False), whole[:5] * 2 + whole[5:])
    assert graphs(run) == [1]


@pytest.mark.usefixtures("kept")
def test_what_a_graph_depends_on_is_told_apart() -> None:
    run = calls.Compiled(Sums(), "add")
    one, other = torch.randn(5, 6), torch.randn(5, 6)
    expected = one * 2 + other
    assert torch.equal(run(one, other, False), expected)
    assert run(one, other, True).dtype == torch.float64
    assert torch.equal(run(one.T.contiguous().T, other, False), expected)
    assert torch.equal(run(one.double(), other.double(), False), one.double() * 2 + other.double())
    assert torch.equal(
        run(torch.cat([one, one], 1)[:, ::2], other, False), torch.cat([one, one], 1)[:, ::2] * 2 + other
    )
    leaf = one.clone().requires_grad_()
    run(leaf, other, False).sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(one, 2))
    with torch.no_grad():
        assert not run(leaf, other, False).requires_grad
    with torch.inference_mode():
        assert torch.equal(run(one.clone(), other, False), expected)
    assert run(leaf, other, False).requires_grad
    ints = one.int(), other.int()
    assert torch.equal(run(*ints, False), ints[0] * 2 + ints[1])  # they cross as bits
    assert torch.equal(run(ints[0], other, False), ints[0] * 2 + other)


@pytest.mark.usefixtures("kept")
def test_another_number_of_threads_is_another_graph() -> None:
    run, one = calls.Compiled(Sums(), "add"), torch.randn(5)
    before = torch.get_num_threads()
    try:
        for threads, number in ((1, 1), (2, 2), (1, 2), (2, 2)):
            torch.set_num_threads(threads)
            assert torch.equal(run(one, one, False), one * 3)
            assert graphs(run) == [number]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("kept")
def test_only_so_many_arguments_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST", 4)
    run = calls.Compiled(Sums(), "add")
    for batch in range(2, 20):
        assert torch.equal(run(torch.ones(batch), torch.ones(batch), False), torch.full((batch,), 3.0))
        assert len(run.chosen) <= 4
    assert graphs(run) == [2]


def test_torch_may_be_told_to_keep_or_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.randn(5)
    compile = torch.compile
    with monkeypatch.context() as patch, torch.compiler.config.patch(force_disable_caches=True):
        patch.setattr(torch, "compile", lambda f, fullgraph, options: compile(f, backend="eager"))
        assert torch.equal(calls.Compiled(Sums(), "add")(one, one, False), one * 3)
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    assert torch.equal(calls.Compiled(Sums(), "add")(one, one, False), one * 3)


@pytest.mark.usefixtures("traced")
def test_memory_to_write_to_may_be_part_of_a_graph() -> None:  # as it is where there is CUDA
    step = em.DecisionStep(engine_of())
    for seed in (0, 1):
        states, logits, noise = inputs(step.engine, seed=seed)
        out = step.allocate(BATCH, entropy=False)
        arguments = states, logits, None, 0, None, None, noise, None, out.actions.dtype, False
        assert calls.Compiled(step, "_decide")(*arguments, out=out) is None
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
        before = len(step._runs)
        with watching:
            assert torch.equal(step(states, logits, noise=noise).actions, actions)
        assert len(step._runs) == before
    assert torch.exp in watched.functions or Tensor.exp in watched.functions
    assert compiled(states, logits).log_prob.isfinite().all()


# -- noise ------------------------------------------------------------------------------------------------------------


def signed(*words: int) -> tuple[Tensor, Tensor]:
    one, two = torch.tensor(words, dtype=torch.int64).to(torch.int32)
    return one, two


@pytest.mark.parametrize(
    ("key", "counter", "rounds", "expected"),
    [  # known answers, published with the generator
        ((0, 0), (0, 0), 20, (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, 20, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 20, (0xC4923A9C, 0x483DF7A0)),
        ((0, 0), (0, 0), ROUNDS, (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, ROUNDS, (0xFD36D048, 0x2D17272C)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), ROUNDS, (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_known_answers(key: Any, counter: Any, rounds: int, expected: Any) -> None:
    assert [int(word) for word in threefry(signed(*key), signed(*counter), rounds)] == [
        int(w) for w in signed(*expected)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_counted_uniforms_are_uniform_and_independent(dtype: torch.dtype, heads: int) -> None:
    torch.manual_seed(0)
    made = counted_uniforms(random_key(), (200_000, heads), dtype)
    other = counted_uniforms(random_key(), (200_000, heads), dtype)
    assert len(made) == heads
    for noise in made:
        assert (noise.shape, noise.dtype) == ((200_000,), dtype)
        assert ((noise >= 0) & (noise < 1)).all()
        counts = torch.histc(noise, bins=100, min=0, max=1)
        assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square with 99 degrees of freedom: p < 0.0001
    places = torch.stack([*made, *other, *[noise.roll(1) for noise in made]]).corrcoef()
    assert (places - torch.eye(3 * heads, dtype=dtype)).abs().max() < 0.012


def test_a_row_draws_by_its_number() -> None:
    key = random_key()
    whole = counted_uniforms(key, (6, 7, 3), torch.float32)
    assert [noise.shape for noise in whole] == [(6, 7)] * 3
    for noise, part in zip(whole, counted_uniforms(key, (10, 3), torch.float32), strict=True):
        assert torch.equal(noise.flatten()[:10], part)
    assert counted_uniforms(key, (0, 2), torch.float32)[1].shape == (0,)
    assert counted_uniforms(key, (2,), torch.float32)[1].shape == ()


def test_every_bit_of_a_double_is_drawn() -> None:
    (noise,) = counted_uniforms(random_key(), (10_000, 1), torch.float64)
    bits = (noise * 2**53).long()
    assert torch.equal(bits.double() * 2**-53, noise)
    share = torch.stack([(bits >> i & 1).double().mean() for i in range(53)])
    assert ((share - 0.5).abs() < 0.03).all()


def test_compiled_code_draws_what_its_key_says(compiled: em.DecisionStep, monkeypatch: pytest.MonkeyPatch) -> None:
    key = random_key()
    monkeypatch.setattr(decision, "random_key", lambda: key)
    states, logits, _ = inputs(compiled.engine)  # some rows are left over by vectors
    noise = torch.stack(counted_uniforms(key, (BATCH, 4), torch.float32), -1)
    assert torch.equal(compiled(states, logits).actions, composed(compiled.engine, states, logits, noise).actions)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("stacked", [False, True])
def test_doubles_are_drawn_as_doubles(monkeypatch: pytest.MonkeyPatch, stacked: bool) -> None:
    key, step = random_key(), em.DecisionStep(engine_of())
    monkeypatch.setattr(decision, "random_key", lambda: key)
    monkeypatch.setattr(factored, "unrolls", lambda *_: not stacked)
    states, logits, _ = inputs(step.engine)
    noise = torch.stack(counted_uniforms(key, (BATCH, 4), torch.float64), -1)
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
