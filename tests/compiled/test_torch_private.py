"""What is done with a torch that lacks a private name: each is taken away in turn."""

import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.compiled import methods, torch_kept, torch_private
from esper_masks.distributions import faults
from esper_masks.errors import InvalidStateMachineError
from tests.compiled.sums import Sums
from tests.decision.inputs import composed, engine_of, inputs
from tests.helpers import FunctionRecorder, assert_near

PACKAGE = Path(em.__file__).parent
Taken = Callable[[str], None]


@pytest.fixture
def hide() -> Iterator[Taken]:
    """Make a name of torch look absent."""

    def forget() -> None:
        torch_private.compiles_ahead.cache_clear()
        torch_private.watches.cache_clear()
        torch_kept.can_keep.cache_clear()
        torch_kept.can_revive.cache_clear()
        torch_private.warn_lost.cache_clear()

    forget()
    yield torch_private.ABSENT.add
    torch_private.ABSENT.clear()
    forget()


@pytest.fixture
def take(hide: Taken, monkeypatch: pytest.MonkeyPatch) -> Taken:
    """The same, and compile without building."""
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, fullgraph, options: compile(f, fullgraph=fullgraph, backend="aot_eager")
    )
    return hide


def lost(caught: list[warnings.WarningMessage], name: str = "") -> list[str]:
    """What is said to be lost for want of a name: torch 2.11 lacks more where nothing is built."""
    return [str(warning.message) for warning in caught if f"has no torch.{name}" in str(warning.message)]


def test_this_torch_has_every_name() -> None:
    names = (*torch_private.COMPILING, *torch_private.WATCHING, *torch_private.BATCHING, "_assert_async")
    names += (*torch_private.TRANSFORMS, *torch_kept.KEEPING, *torch_kept.REVIVING, torch_private.EXPORTING)
    names += (torch_private.DTYPE_RULES, *torch_private.INSTRUCTION_SETS, torch_private.EXPORTS)
    names += (torch_private.ALIKE, torch_private.COPYING)
    assert [name for name in names if torch_private.lacks(name)] == []
    assert torch_private.compiles_ahead()
    every = torch_private.Known(vmap=True, exports=True, assertions=True, transforms=True, copies=True)
    assert every == torch_private.KNOWN
    assert torch_private.known_options(methods.CPU_OPTIONS) == methods.CPU_OPTIONS


@pytest.mark.parametrize("name", ["_C.nothing", "nothing.at.all", "_dynamo.convert_frame.nothing", "float32.nothing"])
def test_a_name_that_no_torch_has_is_lacking(name: str) -> None:
    assert torch_private.lacks(name)


@pytest.mark.parametrize("name", [*torch_private.COMPILING, *torch_private.WATCHING])
def test_without_a_name_calls_go_through_torch_compile(take: Taken, name: str) -> None:
    take(name)
    one, other = torch.randn(5), torch.randn(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = methods.CompiledMethod(Sums().add)
        for _ in range(2):
            assert torch.equal(run((one, other, False)), one * 2 + other)
        assert torch.equal(run((one[:3].int(), one[:3].int(), False)), one[:3].int() * 3)
        assert torch.equal(methods.CompiledMethod(Sums().add)((one, one, True)), (one * 3).double())
    assert all(not graphs.made for graphs in run.graphs.values())
    [said] = lost(caught)
    assert f"torch.{name}: a call of compiled code takes some tens of microseconds longer" in said


@pytest.mark.parametrize("name", [*torch_kept.KEEPING, *torch_kept.REVIVING])
def test_without_a_name_no_code_is_kept(
    take: Taken, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_MASKS_CACHE", str(tmp_path / "kept"))
    take(name)
    one = torch.randn(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for told in ("one", "other"):
            assert torch.equal(methods.CompiledMethod(Sums().add, told=partial(str, told))((one, one, False)), one * 3)
    [said] = lost(caught, name)
    assert f"torch.{name}: compiled code is not kept for the next process" in said
    assert list(tmp_path.rglob("*.graph")) == []


@pytest.mark.parametrize("name", [torch_private.DTYPE_RULES, *torch_private.INSTRUCTION_SETS])
def test_without_a_name_the_compiler_does_all_that_it_does(take: Taken, name: str) -> None:
    take(name)
    one = torch.randn(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = methods.CompiledMethod(Sums().add, told=partial(str, name))
        assert torch.equal(run((one, one, False)), one * 3)
    [said] = [said for said in lost(caught) if name in said]
    assert "a first call of compiled code takes a fifth longer" in said


def plain_alike(tensors: list[Tensor]) -> Callable[..., bool]:
    """What ``alike`` asks of as many tensors without a gradient, in Python."""
    told = [(type(t), t.dtype, t.device, t.shape, t.stride(), t.requires_grad) for t in tensors]
    return lambda *others: told == [(type(t), t.dtype, t.device, t.shape, t.stride(), t.requires_grad) for t in others]


OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "values": lambda x: x + 1,
    "view": lambda x: x.view(x.shape),
    "dtype": lambda x: x.double(),
    "size": lambda x: x[:1],
    "axes": lambda x: x[None],
    "strides": lambda x: x.T.contiguous().T if x.ndim > 1 else x.repeat_interleave(2)[::2],
    "meta": lambda x: x.to("meta"),
    "gradient": lambda x: x.clone().requires_grad_(),
    "class": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "conjugate": lambda x: torch._neg_view(x),
    "number": lambda x: 1,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("at", [0, 1])
def test_which_tensors_are_alike(name: str, at: int) -> None:
    tensors = [torch.randn(3, 4), torch.randn(5)]
    fits = torch_private.alike(tensors)
    assert fits is not None
    others = [OTHERS[name](tensor) if place == at else tensor.clone() for place, tensor in enumerate(tensors)]
    wanted = name in ("values", "view")
    assert fits(*others) is wanted
    if isinstance(others[at], Tensor) and not others[at].is_neg():
        assert plain_alike(tensors)(*others) is wanted


def test_alike_is_of_what_sees_an_op_first() -> None:
    tensors = [torch.randn(3, 4), torch.randn(5)]
    fits = torch_private.alike(tensors)
    assert fits is not None
    seen: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        seen.append(fits(*tensors))
        return x.sum()

    torch.func.vmap(ask)(torch.zeros(2, 3))
    torch.func.grad(ask)(torch.zeros(3))
    with torch.inference_mode():
        ask(torch.zeros(3))
        inside = [tensor.clone() for tensor in tensors]
    with torch.autocast("cpu"):
        ask(torch.zeros(3))
    assert seen == [False] * 4
    assert not fits(*inside)
    assert fits(*tensors)
    with torch.no_grad():
        assert fits(*tensors)


def test_what_cannot_be_told_apart_is_not_alike() -> None:
    one = torch.randn(3)
    assert torch_private.alike([one, one]) is None
    assert torch_private.alike([one, torch.nn.Parameter(one)]) is None
    fits = torch_private.alike([one, one.clone()])
    assert fits is not None
    assert not fits(one, one)


def test_without_a_name_each_call_is_looked_up(take: Taken) -> None:
    take(torch_private.ALIKE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert torch_private.alike([torch.randn(3)]) is None
    [said] = lost(caught)
    assert f"torch.{torch_private.ALIKE}: a call of compiled code takes some tens of microseconds longer" in said


@pytest.mark.parametrize("copies", [True, False])
def test_copies_are_cast(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private.KNOWN, "copies", copies)
    values = [torch.tensor([[1, -1], [3, 4]], dtype=torch.int32), torch.tensor([0.5, 2.0]), torch.arange(3).int()]
    places = [torch.zeros(2, 2, dtype=torch.int8).T, torch.zeros(2, dtype=torch.float64), torch.zeros(3).byte()]
    torch_private.copy_all(places, values)
    assert [place.tolist() for place in places] == [value.tolist() for value in values]


@pytest.mark.parametrize("error", [None, KeyError])
def test_what_is_left_out_of_a_build_is_done_again_after_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    sets, rules = torch._inductor.cpu_vec_isa, torch._inductor.dtype_propagation.DtypePropagationOpsHandler
    asked: list[tuple[str, bool]] = []  # program, whether within a build

    def check_build(own: Any, code: str) -> bool:
        asked.append((code, inside))
        return False

    monkeypatch.setattr(sets.VecISA, "check_build", check_build)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    inside, wide, made = True, sets.VecAVX512(), rules.__init__
    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}), suppress(KeyError):
        torch_private._forget(sets)
        with torch_private.brief(plain=True):
            assert wide
            made_once = rules()
            made_once.add = None
            assert rules().add is None
            if error is not None:
                raise error
    inside = False
    assert rules.__init__ is made
    assert rules().add is not None
    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}):
        assert wide
    torch_private._forget(sets)
    assert asked == [(sets.VecAVX512._avx512_bf16_code, False)]


def test_a_network_of_the_user_may_have_all_that_the_processor_has() -> None:
    sets = torch._inductor.cpu_vec_isa
    torch_private._forget(sets)
    with torch_private.brief(plain=False):
        inside = [str(own) for own in sets.valid_vec_isa_list()]
    assert [str(own) for own in sets.valid_vec_isa_list()] == inside


def test_one_thread_at_a_time_leaves_something_out() -> None:
    rules = torch._inductor.dtype_propagation.DtypePropagationOpsHandler
    first, made, order = Event(), rules.__init__, list[str]()

    def second() -> None:
        first.wait()
        with torch_private.brief(plain=True):
            order.append("second")

    thread = Thread(target=second)
    thread.start()
    with torch_private.brief(plain=True):
        first.set()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert rules.__init__ is made
    assert "check_build" not in vars(torch._inductor.cpu_vec_isa.VecAVX512)


def test_what_is_known_of_the_processor_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = torch._inductor.cpu_vec_isa
    known = sets.valid_vec_isa_list()
    with torch_private.brief(plain=True):
        assert "check_build" not in vars(sets.VecAVX512)
    assert sets.valid_vec_isa_list() is known


def test_settings_are_told_while_they_are_changed() -> None:
    config, before = torch._inductor.config, torch_kept.changed_settings()
    with config.patch({"max_fusion_size": 3, "size_asserts": config.size_asserts}):
        assert set(torch_kept.changed_settings()) - set(before) == {"_inductor.max_fusion_size=3"}
    assert torch_kept.changed_settings() == before


def test_hooks_of_what_is_saved_are_seen() -> None:
    assert torch_kept.saves_plainly()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        assert not torch_kept.saves_plainly()


class Unfit:
    """What a call gives that is compiled ahead, of another torch."""

    fn = None


def unkept(_: Any) -> Any:
    raise torch._dynamo.exc.PackageError("CLASS_MATCH guard cannot be serialized.")


def unpickled(_: Any) -> Any:
    class Local:
        """A class that no other process has."""

    return pickle.dumps(Local)


def lost_class(_: Any) -> Any:
    return pickle.dumps(IntEnum("Lost", "A"))


@pytest.mark.parametrize("ahead", [None, lambda _: Unfit(), unkept, unpickled, lost_class])
def test_what_torch_compile_gives_may_be_another_thing(
    take: Taken, monkeypatch: pytest.MonkeyPatch, ahead: Any
) -> None:
    compile = torch.compile

    def other(*arguments: Any, **settings: Any) -> Any:
        made = compile(*arguments, **settings)
        if ahead is None:
            del made.aot_compile
        else:
            made.aot_compile = ahead
        return made

    monkeypatch.setattr(torch, "compile", other)
    one = torch.randn(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = methods.CompiledMethod(Sums().add)
        assert torch.equal(run((one, one, False)), one * 3)
        assert torch.equal(run((one[:4], one[:4], False)), one[:4] * 3)
    [said] = lost(caught)
    assert "torch.compile().aot_compile" in said


def test_what_cannot_be_compiled_ahead_is_tried_once(take: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(methods, "compile_ahead", lambda *arguments, **_: tried.append(arguments))
    run = methods.CompiledMethod(Sums().add)
    for size in range(2, 6):
        one = torch.randn(size)
        assert torch.equal(run((one, one, False)), one * 3)
    assert len(tried) == 1


def test_without_watching_transforms_are_left_to_torch(take: Taken) -> None:
    take("_C._functorch.peek_interpreter_stack")
    engine = engine_of()
    states, logits, noise = inputs(engine)
    step, masks = em.DecisionStep(engine), engine(states)
    expected = composed(engine, states, logits, noise)
    leaf = logits.clone().requires_grad_()
    score = em.FactoredCategorical(leaf, masks).log_prob(expected.actions)
    with pytest.warns(RuntimeWarning, match="peek_interpreter_stack"):
        assert torch.equal(step(states, logits, noise=noise).actions, expected.actions)
    gradient = torch.func.grad(lambda x: step.evaluate(x, masks, expected.actions).log_prob.sum())(logits)
    assert_near(gradient, torch.autograd.grad(score.sum(), leaf)[0], 1e-5)
    pair = torch.stack([logits, logits.flip(0)])
    scored = torch.vmap(lambda x: step.evaluate(x, masks, expected.actions).log_prob)(pair)
    assert_near(scored[0], score.detach(), 1e-5)
    for watching in (
        FunctionRecorder(),
        torch.autograd.forward_ad.dual_level(),
        torch.compiler.set_stance("force_eager"),
    ):
        with watching:
            assert torch.equal(step(states, logits, noise=noise).actions, expected.actions)


def test_options_that_a_compiler_lacks_are_left_out(hide: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "list_options", lambda: ["size_asserts", "max-fusion-size"])
    with pytest.warns(RuntimeWarning, match=r"no torch\._inductor\.config\.realize_opcount.*may be slower"):
        known = torch_private.known_options({"size_asserts": False, "max_fusion_size": 9, "realize_opcount": 1})
    assert known == {"size_asserts": False, "max_fusion_size": 9}
    hide("_inductor.list_options")
    assert torch_private.known_options({"any": 1}) == {"any": 1}


def test_without_a_switch_to_compile_ahead_none_is_set(take: Taken) -> None:
    take(torch_private.SWITCH)
    one = torch.randn(5)
    with warnings.catch_warnings(record=True):  # torch 2.11 compiles nothing ahead then
        assert torch.equal(methods.CompiledMethod(Sums().add)((one, one, False)), one * 3)


def test_without_a_class_of_errors_torchs_own_error_is_raised(take: Taken) -> None:
    take("_dynamo.exc.TorchDynamoException")
    assert torch_private.compile_error() == ()
    run = methods.CompiledMethod(Sums().add)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        run((torch.ones(2), torch.ones(3), False))


def test_without_a_mark_an_axis_is_as_torch_finds_it(hide: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[Any] = []
    monkeypatch.setattr(torch._dynamo, "mark_dynamic", lambda *arguments: marked.append(arguments))
    one = torch.ones(2)
    torch_private.mark_dynamic(one, 0)
    assert marked == [(one, 0)]
    hide("_dynamo.mark_dynamic")
    torch_private.mark_dynamic(one, 0)
    assert len(marked) == 1


@pytest.mark.parametrize("name", torch_private.BATCHING)
def test_without_a_name_vmap_is_not_seen(hide: Taken, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hide(name)
    with pytest.warns(RuntimeWarning, match=rf"{re.escape(name)}: validate='raise' under vmap"):
        assert not torch_private.has(torch_private.BATCHING, torch_private.VMAP_UNSEEN)
    monkeypatch.setattr(torch_private.KNOWN, "vmap", False)
    logits, mask = torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool)
    with pytest.raises(InvalidStateMachineError):
        em.MaskedCategorical(logits, ~mask)
    assert_near(em.MaskedCategorical(logits, mask).probs, torch.full((4, 3), 1 / 3))
    flagged = torch.vmap(lambda x, m: em.MaskedCategorical(x, m, validate="flag").faults)(logits, ~mask)
    assert flagged.all()


@pytest.mark.parametrize("name", torch_private.TRANSFORMS)
def test_without_a_name_whole_actions_are_computed_as_under_a_transform(
    hide: Taken, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hide(name)
    with pytest.warns(RuntimeWarning, match=rf"{re.escape(name)}: whole actions in eager code are computed as under"):
        assert not torch_private.has(torch_private.TRANSFORMS, torch_private.EACH_TRANSFORMED)
    engine = engine_of()
    states, logits, noise = inputs(engine)
    before = composed(engine, states, logits, noise)
    assert not torch_private.transformed()
    monkeypatch.setattr(torch_private.KNOWN, "transforms", False)
    assert torch_private.transformed()
    made = composed(engine, states, logits, noise)
    assert torch.equal(made.actions, before.actions)
    assert torch.equal(made.log_prob, before.log_prob)


def test_without_assertions_compiled_rows_are_flagged(hide: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("_assert_async")
    with pytest.warns(RuntimeWarning, match="_assert_async: validate='raise' in compiled code"):
        assert not torch_private.has(("_assert_async",), torch_private.UNASSERTED)
    monkeypatch.setattr(torch_private.KNOWN, "assertions", False)

    def faulty(logits: Tensor, mask: Tensor) -> Tensor:
        return em.MaskedCategorical(logits, mask).faults

    compiled = torch.compile(faulty, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool)).all()


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.vmap(torch.func.grad(lambda x: f(x).sum()))])
def test_a_graph_knows_that_it_is_mapped(transform: Any) -> None:
    """torch 2.11 has no way to ask for the depth of transforms in a graph."""

    def seen(x: Tensor) -> Tensor:
        return x * (2 if faults.under_vmap(x) else 1)

    x = torch.ones(3, 2)
    torch.compiler.reset()
    assert torch.equal(torch.compile(seen, fullgraph=True, backend="eager")(x), x)
    assert torch.equal(torch.compile(transform(seen), fullgraph=True, backend="eager")(x), x * 2)
    assert torch.equal(transform(seen)(x), x * 2)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_names_what_is_private(path: Path) -> None:
    if path.name not in ("torch_kept.py", "torch_private.py"):
        text = path.read_text(encoding="utf-8")
        private = re.findall(r"\btorch(?:\.\w+)*\._(?!_)\w+", text)
        assert set(private) <= {"torch.utils._pytree", "torch.utils._python_dispatch"}
        assert not re.findall(r"^from torch\S* import .*\b_\w+", text, re.MULTILINE)
