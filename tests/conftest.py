"""What every test shares: hypothesis without a deadline, since the first torch call of a kind is slow, and fixtures."""

import os
import signal
from collections.abc import Iterator
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one for each core, whose own threads would wait for those of the others
    for variable in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ.setdefault(variable, "1")

os.environ["ESPER_MASKS_CACHE"] = "off"  # what tests change while they compile is in no key

import pytest
import torch
from hypothesis import HealthCheck, settings

import esper_masks as em
from esper_masks.distributions import forms

COMPILING = {"fresh_compiler", "traced", "compiled"}  # fixtures below: whatever uses one is slow

settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.register_profile("quick", parent=settings.get_profile("default"), max_examples=10, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    where = "tensors and engines of tests of engine, masks, distributions, decisions and buffer (default: %(default)s)"
    parser.addoption("--device", default="cpu", help=where)


def pytest_configure(config: pytest.Config) -> None:
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:  # as in a background job: commands under test would inherit that
            signal.signal(number, handler)
    config.addinivalue_line("markers", "cpu: it tests what only a CPU has or promises; left out under another --device")
    config.addinivalue_line("markers", "slow: it builds compiled code, or takes more than some five seconds")
    if config.getoption("device") != "cpu":  # before any test module makes a tensor; with the number of the device
        torch.set_default_device(torch.empty(0, device=config.getoption("device")).device)


def pytest_itemcollected(item: pytest.Item) -> None:
    if COMPILING & set(getattr(item, "fixturenames", ())):
        item.add_marker("slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("device") == "cpu":
        return
    left_out = [item for item in items if item.get_closest_marker("cpu")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


UNROLLED = {
    "unrolled": {},
    "slabs": {"longest_row": 0},  # every head is long but the op
    "families": {"longest_decision": 0},  # draws that are alike are one tensor
    "slabs of families": {"longest_row": 0, "longest_decision": 0},  # and every head is long, the op among them
}


@pytest.fixture(params=["stacked", "quick", "unrolled"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """The forms of the distributions, in eager code; what a compiler sees is chosen by size."""
    name: str = request.param
    with forms.use("unrolled", **UNROLLED[name]) if name in UNROLLED else forms.use(name):
        yield name


@pytest.fixture
def fresh_compiler() -> None:
    """Without the graphs of other tests, which count against the number that torch allows a function."""
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made and differentiated, but not built, which takes long."""
    compile = torch.compile

    def unbuilt(function: Any, fullgraph: bool, options: Any = None, backend: str = "aot_eager") -> Any:
        return compile(function, fullgraph=True, backend=backend)

    monkeypatch.setattr(torch, "compile", unbuilt)


@pytest.fixture(scope="module")
def compiled() -> em.DecisionStep:
    """One step for many tests: to compile it takes long."""
    return em.DecisionStep(em.MaskEngine(em.ruleset("esper-2025-12")))
