"""Compiled code in files: what is loaded, what is not, and that it computes the same bits."""

import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.compiled import kept, methods
from esper_masks.compiled.methods import CompiledMethod
from esper_masks.compiled.torch_private import Ahead
from tests.compiled.sums import Sums
from tests.helpers import ROOT
from tests.own_rules import odd_rules

pytestmark = pytest.mark.cpu
Given = tuple[Tensor, Tensor, Any]


class Parts(Sums):
    """Results that share memory with an argument, an argument that is written to, and a matrix product."""

    def views(self, inputs: Given) -> tuple[Tensor, Tensor]:
        one, other, _ = inputs
        return one.view(-1), one * 2 + other

    def writes(self, inputs: Given) -> Tensor:
        one, other, _ = inputs
        one.add_(other)
        return other * 2

    def products(self, inputs: Given) -> Tensor:
        one, other, _ = inputs
        return one.mm(other.T) + 1

    def scaled(self, inputs: Given) -> Tensor:
        one, other, number = inputs
        return one * number + other


def given(rows: int = 5, number: Any = False) -> Given:
    generator = torch.Generator().manual_seed(rows)
    one, other = torch.randn(2, rows, 3, generator=generator)
    return one, other, number


def method(**changes: Any) -> CompiledMethod:
    return CompiledMethod(**{"method": Sums().add, "told": lambda: "sums"} | changes)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code of ``method()`` for ``given()``, and of ``scaled`` for a number."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kept.VARIABLE, str(folder))
        torch.set_num_threads(1)
        assert torch.equal(method()(given()), Sums().add(given()))
        scaled = CompiledMethod(Parts().scaled, told=lambda: "scaled")
        assert torch.equal(scaled(given(number=3)), Parts().scaled(given(number=3)))
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is used."""
    copy = tmp_path / "cache"
    shutil.copytree(filled, copy)
    monkeypatch.setenv(kept.VARIABLE, str(copy))
    kept.say.cache_clear()
    return copy


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was built, which is nothing: methods run as they are."""
    names: list[str] = []

    def build(self: CompiledMethod, graphs: Any, *_: Any) -> Ahead:
        names.append(self.name)
        return Ahead(lambda *_: True, graphs.function)

    monkeypatch.setattr(CompiledMethod, "_built", build)
    return names


def calls(run: CompiledMethod, inputs: Given | None = None) -> list[str]:
    """Call it; returns what was warned of."""
    inputs = given() if inputs is None else inputs
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(run(inputs), run.method(inputs))
    return [str(warning.message) for warning in caught]


# -- what is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_kept_is_loaded(folder: Path, built: list[str]) -> None:
    assert calls(method()) == []
    assert built == []
    assert [oct(path.stat().st_mode & 0o777) for path in folder.iterdir()] == ["0o600"] * len(list(folder.iterdir()))
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], CompiledMethod]] = {
    "module": lambda _: method(told=lambda: "other sums"),
    "method": lambda _: method(method=Parts().scaled),
    "unknown": lambda _: method(told=object),
    "nothing told": lambda _: method(told=lambda: None),
    "options": lambda _: method(cpu_options={"max_fusion_size": 3}),
    "sources": lambda patch: patch.setattr(kept, "_sources", lambda: "other") or method(),
    "processor": lambda patch: patch.setattr(kept, "_processor", lambda: "other") or method(),
    "torch": lambda patch: patch.setattr(torch, "__version__", "2.99") or method(),
    "environment": lambda patch: patch.setenv("TORCHINDUCTOR_FREEZING", "1") or method(),
    "off": lambda patch: patch.setenv(kept.VARIABLE, "OFF") or method(),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_is_built(folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = sorted(folder.iterdir())
    assert calls(CHANGES[change](monkeypatch)) == []
    assert len(built) == 1
    assert sorted(folder.iterdir()) == before


INPUTS = {
    "rows": (given(6), 1),
    "number": (given(number=0), 1),
    "flag": (given(number=True), 1),
    "dtype": ((given()[0].double(), given()[1], False), 1),
    "strides": ((given()[0].T.contiguous().T, given()[1], False), 1),
    "gradient": ((given()[0].requires_grad_(), given()[1], False), 1),
    "subclass": ((given()[0].as_subclass(type("Own", (Tensor,), {})), given()[1], False), 1),
    "the same": (given(), 0),
    "a parameter": ((torch.nn.Parameter(given()[0], requires_grad=False), given()[1], False), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("inputs", INPUTS)
def test_other_arguments_are_built_for(folder: Path, built: list[str], inputs: str) -> None:
    arguments, number = INPUTS[inputs]
    method()(arguments)
    assert len(built) == number
    loaded = method()
    calls(loaded)  # with a graph that is there
    loaded(arguments)
    assert len(built) == 2 * number


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        deterministic,
        doubles,
        lambda: torch.autocast("cpu"),
        lambda: torch.device("cpu"),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    ],
)
def test_other_modes_are_built_for(folder: Path, built: list[str], mode: Any) -> None:
    run = method()
    with mode():
        calls(run)
        keys = method()._keys((), [(1,)], [])
    assert len(built) == 1
    named = mode in (torch.no_grad, deterministic, doubles)
    assert (len(keys) == 2) == named  # in the other modes nothing is kept either
    if named:
        assert not set(keys) & set(run._keys((), [(1,)], []))


@pytest.mark.slow
def test_a_graph_serves_its_own_number_and_threads(folder: Path, built: list[str]) -> None:
    run = CompiledMethod(Parts().scaled, told=lambda: "scaled")
    for number, times in ((3, 0), (4, 1), (3, 1)):
        calls(run, given(number=number))
        assert len(built) == times
    run = method()
    try:
        for threads, times in ((1, 1), (2, 2), (1, 2)):
            torch.set_num_threads(threads)
            calls(run)
            assert len(built) == times
    finally:
        torch.set_num_threads(1)


# -- what is not ------------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a bit of code": ("*.graph", flip, "it is damaged, and is built again|built again: it is damaged"),
    "code cut": ("*.graph", lambda file: os.truncate(file, 2000), "built again: it is damaged"),
    "no code": ("*.graph", lambda file: os.truncate(file, 0), "built again: it is damaged"),
    "only a digest": ("*.graph", lambda file: file.write_bytes(kept._digest_of(b"") + b"\n"), "built again: Ran out"),
    "open code": ("*.graph", lambda file: file.chmod(0o620), "built again: it can be written by other users"),
    "a bit of a library": ("*.so", flip, "is damaged"),
    "a library cut": ("*.so", lambda file: os.truncate(file, 2000), "is damaged"),
    "an open library": ("*.so", lambda file: file.chmod(0o606), "can be written by other users"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_built_again(folder: Path, built: list[str], damage: str) -> None:
    pattern, harm, words = DAMAGES[damage]
    for file in folder.glob(pattern):
        harm(file)
    [said] = calls(method())
    assert any(part in said for part in words.split("|"))
    assert len(built) == 1
    assert len(list(folder.glob(pattern))) == 1  # that of another method: the damaged one is gone


@pytest.mark.slow
def test_without_its_library_code_is_built_again(folder: Path, built: list[str]) -> None:
    for file in folder.glob("*.so"):
        file.unlink()
    assert calls(method()) == []
    assert len(built) == 1


@pytest.mark.slow
def test_code_of_another_version_is_told_of(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept, "_sources", lambda: "other")
    with caplog.at_level("INFO", logger="esper_masks"):
        calls(method())
    assert caplog.messages == [
        f"the code kept in {folder} is of another version of this package or torch, or processor"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, built: list[str], mode: int) -> None:
    folder.chmod(mode)
    [said] = calls(method())
    assert "can be written by other users; ESPER_MASKS_CACHE names another folder, or is off" in said
    assert len(built) == 1
    folder.chmod(0o755)
    assert calls(method()) == []
    assert len(built) == 1


AROUND = [  # mode, user, group; what is wrong where the user is 1000
    (0o755, 0, 0, ""),
    (0o755, 1000, 100, ""),
    (0o755, 1001, 1001, "belongs"),
    (0o1777, 1001, 1001, "belongs"),
    (0o1777, 0, 0, ""),
    (0o777, 0, 0, "written"),
    (0o777, 1000, 1000, "written"),
    (0o775, 1000, 1000, ""),  # a group of the user alone
    (0o775, 1000, 100, "written"),
    (0o775, 0, 0, "written"),
    (0o1775, 0, 0, ""),
]


@pytest.mark.parametrize(("mode", "user", "group", "wrong"), AROUND)
def test_a_folder_around_that_others_may_change(
    monkeypatch: pytest.MonkeyPatch, mode: int, user: int, group: int, wrong: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(kept, "_is_own_group", lambda group: group == 1000)
    said = kept._unsafe_around(os.stat_result((mode, 0, 0, 0, user, group, 0, 0, 0, 0)))
    assert (wrong in said) if wrong else (said == "")


@pytest.mark.slow
def test_a_folder_that_others_may_replace_is_not_used(
    folder: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(folder)  # which others may make lead elsewhere
    shutil.copytree(folder, tmp_path / "open" / "cache")
    (tmp_path / "link").symlink_to(tmp_path / "open" / "cache")
    for name in ("open/cache", "open/link", "link"):
        kept.say.cache_clear()
        monkeypatch.setenv(kept.VARIABLE, str(tmp_path / name))
        (tmp_path / "open").chmod(0o777)
        [said] = calls(method())
        assert f"{tmp_path}/open can be written by other users; ESPER_MASKS_CACHE names another folder" in said
        (tmp_path / "open").chmod(0o1777)
        assert calls(method()) == []
    assert len(built) == 3


@pytest.mark.slow
def test_a_folder_of_another_user_is_not_used(folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    [said] = calls(method())
    assert "belongs to another user" in said
    assert len(built) == 1


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.say.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(kept.VARIABLE, "")
    for named, place in (("", ".cache"), ("not/absolute", ".cache"), (str(tmp_path / "xdg"), "xdg")):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert kept.contents() == (tmp_path / place / "esper_masks", 0, 0)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no such user"])
    with pytest.warns(RuntimeWarning, match="there is no home; ESPER_MASKS_CACHE names another folder, or is off"):
        assert kept.contents() == (None, 0, 0)


def test_nothing_is_kept_of_sources_that_changed_since_they_were_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that runs while another version is installed would keep its old code as that of the new one."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "new"))
    try:
        for imported, on in ((time.time(), True), (0, False)):
            kept._sources.cache_clear()
            monkeypatch.setattr(kept, "IMPORTED", imported)
            assert kept.is_on() is on
    finally:
        kept._sources.cache_clear()


def test_without_a_place_for_a_folder_nothing_is_kept(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.say.cache_clear()
    file = tmp_path / "file"
    file.touch()
    monkeypatch.delenv(kept.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    run = method()
    [said] = calls(run)
    assert "not kept for the next process" in said
    assert f"{file}/esper_masks" in said
    assert calls(method()) == []  # it is said once


@pytest.mark.slow
def test_a_full_disk_or_a_read_only_one_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "new"))
    monkeypatch.setattr(kept, "write_file", full)
    kept.say.cache_clear()
    [said] = calls(method()) + calls(method(told=lambda: "other sums"))  # it is said once
    assert f"not kept for the next process: {tmp_path / 'new'}: No space left on device" in said


def test_without_a_compiler_methods_run_op_by_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "has_compiler", lambda: False)
    kept.say.cache_clear()
    run = method()
    assert calls(run) == ["Sums.add runs op by op, as in eager mode: no C++ compiler is found; CXX names one"]
    assert calls(run, given(7)) == []
    step = em.DecisionStep(em.MaskEngine(em.ruleset("esper-2025-12")))
    eager = em.DecisionStep(step.engine, mode="eager")
    states, logits = step.engine.empty_slots(9), torch.randn(9, 15)
    noise = torch.rand(9, 4)
    with pytest.warns(RuntimeWarning, match="op by op"):
        made = step(states, logits, noise=noise)
    assert torch.equal(made.actions, eager(states, logits, noise=noise).actions)
    assert step(states, logits).log_prob.isfinite().all()


@pytest.mark.slow
def test_where_the_compiler_fails_methods_run_op_by_op(tmp_path: Path) -> None:
    """As without the headers of Python, or on a full disk."""
    script = tmp_path / "c++"
    script.write_text("""#!/bin/sh
case "$*" in *--version*) exec c++ --version;; esac
echo 'In file included from nothing:' >&2
echo 'Python.h:1: fatal error: no such file' >&2
exit 1
""")
    script.chmod(0o700)
    kept.say.cache_clear()
    run = method()
    with torch._inductor.config.patch({"cpp.cxx": str(script)}):
        [said] = calls(run)
        assert calls(run, given(7)) == []
    words = "Sums.add runs op by op, as in eager mode: the compiler fails: CppCompileError: Python.h:1: fatal error: no"
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("primary", "name", "members", "own"),
    [(1000, "me", [], True), (100, "me", [], False), (1000, "users", [], False), (1000, "me", ["other"], False)],
)
def test_a_group_of_the_user_alone(
    monkeypatch: pytest.MonkeyPatch, primary: int, name: str, members: list[str], own: bool
) -> None:
    """Equal numbers of a user and a group say nothing."""
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_gid=primary, pw_name="me"))
    monkeypatch.setattr("grp.getgrgid", lambda _: SimpleNamespace(gr_name=name, gr_mem=members))
    assert kept._is_own_group.__wrapped__(1000) is own
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no such user"])
    assert not kept._is_own_group.__wrapped__(1000)


def test_links_are_followed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is used: another user may change a link between the two."""
    (tmp_path / "open").mkdir()
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "open" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "open" / "link")
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "link"))
    assert kept.contents()[0] == tmp_path / "real"


def test_folders_are_not_made_by_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        assert kept.contents()[0] == tmp_path / "a" / "b"
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]


def test_sources_that_are_being_replaced_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [Path(kept.__file__), Path(kept.__file__).with_name("gone.py")]
    monkeypatch.setattr(Path, "rglob", lambda *_: iter(gone))
    assert kept._sources.__wrapped__() == kept.NO_SOURCES
    gone[1] = Path(kept.__file__).with_name(".#kept.py")  # an editor's link that leads nowhere
    monkeypatch.setattr(kept, "IMPORTED", math.inf)
    assert kept._sources.__wrapped__() != kept.NO_SOURCES


def test_a_warning_ends_no_program(recwarn: pytest.WarningsRecorder) -> None:
    kept.say.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.say("something")
    assert not recwarn


def test_the_oldest_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["c.graph", "a.so", "d.so", "b.graph", "e.txt"]
    for at, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (at, at))
    for limit, left in ((400, names), (399, names[1:]), (250, names[2:]), (0, names[4:])):
        monkeypatch.setattr(kept, "LIMIT", limit)
        kept._make_room(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_description_tells_values_apart() -> None:
    kind = IntEnum("kind", {"One": 1})
    values: list[Any] = [1, True, 1.0, "1", b"1", None, (), [], (1,), [1], ((1,),), {1: 2}, {2: 1}, {1}, torch.int32]
    values += [em.Decision, em.MaskEngine, torch.device("cpu"), kind.One, "(", (1, 2), (2, 1), -0.0, 0.0, {}]
    values += [em.Decision(1, 2, 3, 4, 5), em.ruleset("esper-2025-12").fingerprint, len]
    told = [repr(kept.described(value)) for value in values[:-1]]
    assert len(set(told)) == len(told)
    assert kept.described({1: 2, "a": {3, 4}}) == kept.described({"a": {4, 3}, 1: 2})
    for unknown in (values[-1], lambda: 1, object(), torch.ones(1), kind, (1, [object()]), {1: object()}):
        with pytest.raises(kept.UnknownError):
            kept.described(unknown)


def test_what_code_is_constant_to_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook may come between two calls."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "new"))
    own: list[str | None] = ["one", "one", "other", None]
    run = method(told=lambda: own.pop(0))
    keys = [run._keys((), [(1,)], []) for _ in range(4)]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    assert keys[3] == []


@pytest.mark.parametrize("name", em.rulesets())
def test_code_of_any_shipped_rules_is_kept(name: str) -> None:
    assert told(em.MaskEngine(em.ruleset(name))) == told(em.MaskEngine(em.ruleset(name)))


def told(engine: em.MaskEngine, **settings: Any) -> str:
    return repr(kept.described(em.DecisionStep(engine, **settings)._told()))


def test_a_step_tells_all_that_its_code_is_constant_to() -> None:
    rules = em.ruleset("esper-2025-12")
    engine = em.MaskEngine(rules)
    same = told(em.MaskEngine(em.ruleset("esper-2025-12")))
    others = [
        told(em.MaskEngine(odd_rules(moves=False), ["a"])),
        told(em.MaskEngine(odd_rules(moves=True), ["a"])),  # of the same name
        told(em.MaskEngine(rules, ["a", "b"])),
        told(em.MaskEngine(rules, ["a", "b", "c"])),
        told(em.MaskEngine(rules, enabled=["mid"])),
        told(em.MaskEngine(rules, max_seeds=3)),
        told(engine, min_prob=0.01),
        told(engine, min_prob={"op": 0.01}),
        told(engine, validate="raise"),
        told(engine, by_slot=("blueprint",)),
    ]
    assert told(engine) == same
    assert len({same, *others}) == len(others) + 1


class OwnStep(em.DecisionStep):
    pass


def test_code_of_other_classes_and_hooks_is_not_kept() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    assert OwnStep(engine)._told() is None
    assert em.DecisionStep(engine)._told() is not None
    hook = engine.register_forward_hook(lambda *_: None)
    assert em.DecisionStep(engine)._told() is None
    hook.remove()
    assert em.DecisionStep(engine)._told() is not None
    everywhere = torch.nn.modules.module
    for register in (
        everywhere.register_module_forward_hook,
        everywhere.register_module_forward_pre_hook,
        everywhere.register_module_full_backward_hook,
        engine.register_full_backward_hook,
    ):
        hook = register(lambda *_: None)
        assert em.DecisionStep(engine)._told() is None
        hook.remove()
        assert em.DecisionStep(engine)._told() is not None
    step = em.DecisionStep(engine)
    step._masks = lambda *_: None  # type: ignore[method-assign, assignment]
    assert step._told() is None
    engine.forward = lambda *_: None  # type: ignore[method-assign, assignment]
    assert em.DecisionStep(engine)._told() is None


@pytest.mark.slow
def test_a_library_that_is_there_is_not_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have it in its memory. A file is written beside it and renamed, see ``files``."""
    before = {path: path.stat() for path in folder.glob("*.so")}
    for graph in folder.glob("*.graph"):
        graph.unlink()
    assert calls(method()) == []
    assert before
    assert {path: path.stat().st_ino for path in before} == {path: there.st_ino for path, there in before.items()}


# -- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "files"), [("views", 1), ("writes", 1), ("products", 0)])
def test_code_that_shares_or_writes_memory_does_so_when_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: int
) -> None:
    """A matrix product is of a library that is not the compiler's own: code with one is not kept."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "new"))
    shared: list[Any] = []
    for time_ in range(2):
        if time_ and files:
            monkeypatch.setattr(CompiledMethod, "_built", lambda *_: pytest.fail("it was built"))
        run = CompiledMethod(getattr(Parts(), name), told=lambda: name)
        inputs, like = given(), given()
        made, expected = run(inputs), run.method(like)
        assert torch.equal(inputs[0], like[0])
        for one, other in zip(
            *((results,) if isinstance(results, Tensor) else results for results in (made, expected))
        ):
            assert torch.equal(one, other)
        first = made if isinstance(made, Tensor) else made[0]
        shared.append((inputs[0]._version, first.data_ptr() == inputs[0].data_ptr()))
        assert len(list((tmp_path / "new").glob("*.graph"))) == files
    assert shared[0] == shared[1] == (name == "writes", name == "views")


@pytest.mark.slow
def test_nothing_is_found_in_torchs_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once gave a graph for 64 rows where 1,024 came."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "new"))
    seen = torch._dynamo.utils.counters["aot_autograd"]
    before = dict(seen)
    for told in ("one", "other"):
        calls(method(told=partial(str, told)))
    assert seen["autograd_cache_saved"] - before.get("autograd_cache_saved", 0) == 2
    assert seen["autograd_cache_hit"] == before.get("autograd_cache_hit", 0)


def start(folder: Path, *batches: int, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.compiled.process", *map(str, batches)]
    settings = {**os.environ, kept.VARIABLE: str(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, cwd=ROOT, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(process: "subprocess.Popen[str]") -> Any:
    printed, said = process.communicate(timeout=3600)
    assert process.returncode == 0, said
    assert said == ""
    return json.loads(printed)


@pytest.mark.slow
def test_a_new_process_computes_the_same_bits(tmp_path: Path) -> None:
    """Without a compiler, and without torch's own files. Two processes fill the folder at once."""
    folder = tmp_path / "kept"
    cold, other = [end(process) for process in [start(folder, 64, 1024, 65), start(folder, 64)]]
    assert (cold["graphs"], other["graphs"]) == (6, 3)
    assert len(cold["said"]) == 2
    assert cold["results"][:1] == other["results"]
    nothing = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "none"), "CXX": str(tmp_path / "none" / "g++")}
    for batches, graphs in (((64, 1024, 65), 6), ((1024, 65, 64), 3)):  # a graph for any number serves the first, too
        warm = end(start(folder, *batches, **nothing))
        assert (warm["said"], warm["graphs"]) == ([], graphs)
        assert not warm["results"][0].pop("imported")
        expected = dict(zip((64, 1024, 65), cold["results"]))
        for batch, result in zip(batches, warm["results"]):
            assert result == {key: expected[batch][key] for key in result}
    assert not list(folder.glob("*.part"))
    # what is built behind a loaded graph is for any number at once
    (alone := tmp_path / "alone").mkdir(mode=0o700)
    for file in folder.iterdir():
        shutil.copy2(file, alone)
    for file in [file for file in alone.glob("*.graph") if b"any" in file.read_bytes()]:
        file.unlink()
    after = end(start(alone, 64, 66, 67))
    assert after["graphs"] == 6
    assert after["results"][0]["scores"] == cold["results"][0]["scores"]
