"""Notebooks: every source runs, from any folder; what is committed beside it has its cells, outputs and no paths."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.py"))
MAX_BYTES = 600_000


def test_there_are_seven() -> None:
    assert [source.name[:2] for source in SOURCES] == ["01", "02", "03", "04", "05", "06", "07"]
    assert {source.stem for source in SOURCES} == {made.stem for made in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("notebook")  # enums of a notebook look for the module they are in
    monkeypatch.setitem(sys.modules, "notebook", module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other take far longer where others want the cores too
    try:
        exec(compile(source.read_text(encoding="utf-8"), str(source), "exec"), module.__dict__)
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def committed(source: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_what_is_committed_is_of_its_source(source: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="the extra `notebooks` is not installed")
    wanted = [(cell["cell_type"], cell["source"]) for cell in jupytext.read(source).cells]
    have = [(cell["cell_type"], "".join(cell["source"])) for cell in committed(source)["cells"]]
    assert have == wanted, f"{source.name} has changed: python -m notebooks {source.name[:2]}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_what_is_committed_is_clean(source: Path) -> None:
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    made = committed(source)
    cells = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert made["metadata"]["kernelspec"]["name"] == "python3"
    kept = {name for cell in made["cells"] for name in cell["metadata"]}
    assert kept <= {"lines_to_next_cell"}, "no times of execution"
    shown = json.dumps([{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs])
    assert not re.search(r"/(home|root|work|tmp|Users)/", shown)
    assert not re.search(
        r"<Figure|object at 0x", json.dumps([o["data"].get("text/html", "") for o in outputs if "data" in o])
    )
