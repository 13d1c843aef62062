"""What a result file holds: times per environment, ratios, versions; no name or path of a machine."""

import os
import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.results import with_ratios


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--peer", default="", help="time this library's distributions instead: torchrl, sb3")


@pytest.fixture(scope="session", autouse=True)
def no_compiled_code_from_before(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile times are those of a first run."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One core, so that ratios do not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    cpu = machine_info.get("cpu", {})
    machine_info.clear()
    machine_info.update(
        cpu=cpu.get("brand_raw", platform.processor()),
        architecture=platform.machine(),
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
    )


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    for name in ("author_time", "branch", "project"):
        commit_info.pop(name, None)


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    rows = []
    for bench in output_json["benchmarks"]:
        info, stats = bench["extra_info"], bench["stats"]
        per_env = 1e9 / info["batch"]
        rows.append(
            {
                **info,
                "ns_per_env": stats["min"] * per_env,
                "ns_per_env_median": stats["median"] * per_env,
                "ns_per_env_iqr": stats["iqr"] * per_env,
                "rounds": stats["rounds"],
            }
        )
    output_json["benchmarks"] = with_ratios(rows)
    for name in ("datetime", "version"):
        output_json.pop(name, None)
