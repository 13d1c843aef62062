"""A step as a package: the same decisions without this package, and without Python; what cannot be exported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import cpp_extension

import esper_masks as em
from esper_masks.compiled import torch_private
from tests.own_rules import OWN

pytestmark = pytest.mark.cpu
BATCHES = 64, 1, 7, 300
PROGRAM = """
import sys, torch
decide = torch._inductor.aoti_load_package(sys.argv[1])
given = torch.load(sys.argv[2])
torch.save([decide(*one) for one in given], sys.argv[3])
states, *others = given[0]
try:
    decide(states.movedim(0, -1).contiguous().movedim(-1, 0), *others)
except RuntimeError as error:
    assert "unmatched stride value" in str(error)
else:
    raise AssertionError("states of another order were not refused")
assert "esper_masks" not in sys.modules
"""


def jobs() -> em.MaskEngine:
    names: dict[str, Any] = {}
    exec(OWN, names)
    return em.MaskEngine(names["JOBS"])


def inputs(engine: em.MaskEngine, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    states = torch.randint(0, 3, (batch, 2, 2), generator=generator, dtype=torch.int32)  # 2 is no stage
    logits = torch.randn(batch, engine.layout.logit_size, generator=generator)
    return states, logits, torch.rand(batch, len(engine.layout.heads), generator=generator)


def run(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def assert_decides(engine: em.MaskEngine, given: tuple[Tensor, Tensor, Tensor], made: Any) -> None:
    states, logits, noise = given
    wanted = em.DecisionStep(engine, mode="eager")(states, logits, noise=noise)
    actions, log_prob = made
    assert torch.equal(actions, wanted.actions)
    torch.testing.assert_close(log_prob, wanted.log_prob, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("package") / "step.pt2"
    em.export_step(em.DecisionStep(jobs(), mode="eager"), file)
    assert os.listdir(file.parent) == [file.name]
    return file


@pytest.mark.slow
def test_a_package_decides_without_this_package(package: Path, tmp_path: Path) -> None:
    engine = jobs()
    given = [inputs(engine, batch) for batch in BATCHES]
    torch.save(given, tmp_path / "inputs.pt")
    run([sys.executable, "-c", PROGRAM, str(package), "inputs.pt", "outputs.pt"], tmp_path)
    for one, made in zip(given, torch.load(tmp_path / "outputs.pt"), strict=True):
        assert_decides(engine, one, made)


@pytest.mark.slow
def test_a_package_decides_without_python(package: Path, tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    folders = [*cpp_extension.include_paths(), *cpp_extension.library_paths()]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no C++ compiler {compiler}")
    if not any(Path(folder, "torch/csrc/inductor/aoti_package/model_package_loader.h").is_file() for folder in folders):
        pytest.skip("torch's headers are not there")
    [library] = cpp_extension.library_paths()
    command = [compiler, "-std=c++20", "-O0", str(Path(__file__).with_name("package.cpp")), "-o", "decide"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-I{folder}" for folder in cpp_extension.include_paths()]
    run([*command, f"-L{library}", f"-Wl,-rpath,{library}", "-ltorch", "-ltorch_cpu", "-lc10"], tmp_path)
    engine = jobs()
    given = [inputs(engine, batch) for batch in BATCHES]
    (tmp_path / "inputs").write_bytes(b"".join(tensor.numpy().tobytes() for one in given for tensor in one))
    sizes = 2, 2, engine.layout.logit_size, len(engine.layout.heads), *BATCHES
    run(["./decide", str(package), "inputs", "outputs", *map(str, sizes)], tmp_path)
    left = (tmp_path / "outputs").read_bytes()
    for one, batch in zip(given, BATCHES):
        actions = torch.frombuffer(bytearray(left[: batch * 16]), dtype=torch.int64).view(batch, 2)
        log_prob = torch.frombuffer(bytearray(left[batch * 16 : batch * 20]), dtype=torch.float32)
        left = left[batch * 20 :]
        assert_decides(engine, one, (actions, log_prob))
    assert left == b""


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, file = em.DecisionStep(jobs(), mode="eager"), tmp_path / "step.pt2"
    with pytest.raises(ValueError, match=r"'step.onnx' does not end in \.pt2"):
        em.export_step(step, "step.onnx")
    with pytest.raises(FileNotFoundError, match="its folder is not there"):
        em.export_step(step, tmp_path / "no" / "step.pt2")
    with pytest.raises(ValueError, match="made of a layout"):
        em.export_step(em.DecisionStep(jobs().layout), file)
    engine = em.MaskEngine(em.ruleset("esper-2025-12"), max_seeds=3)
    with pytest.raises(ValueError, match=r"this step also reads a seed limit and heads by slot$"):
        em.export_step(em.DecisionStep(engine, by_slot=("blueprint",)), file)
    monkeypatch.setattr(torch_private, "ABSENT", {torch_private.EXPORTING})
    with pytest.raises(RuntimeError, match=r"has no torch\._inductor\.aoti_compile_and_package, which writes packages"):
        em.export_step(step, file)
    monkeypatch.setattr("esper_masks.decision.export.has_compiler", lambda: False)
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler is found; CXX names one"):
        em.export_step(step, file)
    assert not file.exists()
