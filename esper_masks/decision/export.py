"""A decision step as a file that runs without this package, and without Python."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from esper_masks.compiled.methods import CPU_OPTIONS
from esper_masks.compiled.torch_private import has_compiler, write_package
from esper_masks.decision.step import CompiledCategorical, DecisionInputs, DecisionStep
from esper_masks.files import check_output, write_file

SUFFIX = ".pt2"
EXAMPLE = 64  # rows; the code is for any number


class Deciding(nn.Module):
    """The method that is exported: tensors in, tensors out."""

    def __init__(self, step: DecisionStep):
        super().__init__()
        self.step = step

    def forward(self, states: Tensor, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        limit = self.step.engine.max_seeds
        inputs = DecisionInputs(states, logits, None, limit, noise=noise, entropy=False)
        made = self.step.decide(inputs, categorical=CompiledCategorical)
        assert made is not None  # there is no memory to write to
        return made.actions, made.log_prob


def export_step(step: DecisionStep, path: str | os.PathLike[str]) -> None:
    """Write the decision of a step as an AOTInductor package, which programs run without tracing: from C++, or in
    Python by torch's ``aoti_load_package(path)(states, logits, noise)``.

        states     int32 [batch, slots, features], see ``MaskEngine``
        logits     float32 [batch, logits], see ``FactoredCategorical``
        noise      float32 [batch, heads], uniforms in [0, 1)
        actions    int64 [batch, heads], see ``Decision``
        log_prob   float32 [batch]

    ``batch`` is any number from 1 on. What is given lies row by row in memory, as ``contiguous()`` makes it: a package
    looks at no strides, and reads states of another order wrongly, unless ``AOTI_RUNTIME_CHECK_INPUTS=1`` in the
    environment lets it check what it is given. Rules, slots, enabled slots, floors and ``validate``
    are constants. The code is for the kind of device that the engine is on, the processor and number of threads of this
    process, and its torch.

    Args:
        step: in any mode.
        path: of the file; it ends in ``.pt2``.

    Raises:
        ValueError: another suffix; a step of a layout; rules that read values of environments, a seed limit or heads
            ``by_slot``, for which a package has no input.
        OSError: the file cannot be written.
        RuntimeError: torch cannot build it here, as without a C++ compiler.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise ValueError(f"{os.fspath(path)!r} does not end in {SUFFIX}, as torch wants of the name of a package")
    engine = step._engine()
    wants = [
        (f"values of environments ({', '.join(engine.rules.row_features)})", engine.rules.row_features),
        ("a seed limit", engine.max_seeds > 0),
        ("heads by slot", step.by_slot),
    ]
    if missing := [name for name, wanted in wants if wanted]:
        raise ValueError(f"a package takes states, logits and noise; this step also reads {' and '.join(missing)}")
    if not has_compiler():
        raise RuntimeError("no C++ compiler is found; CXX names one")
    check_output(path)
    sizes = engine.layout.logit_size, len(engine.layout.heads)
    reals = [torch.zeros(EXAMPLE, size, dtype=torch.float32, device=engine.device) for size in sizes]
    example = engine.empty_slots(EXAMPLE).contiguous(), *reals
    options = CPU_OPTIONS if engine.device.type == "cpu" else {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"step{SUFFIX}")
        with torch.no_grad():
            write_package(Deciding(step), example, file, options)
        write_file(path, file.read_bytes())
