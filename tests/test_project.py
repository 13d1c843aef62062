"""What holds for the project as a whole: layers, file sizes, the README."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "esper_masks"

# imports point down only; what shares a layer may not form a circle
LAYERS = (
    {"errors", "extras"},
    {
        "rule_checks",
        "rules",
        "rulesets",
        "checks",
        "faults",
        "drawing",
        "softmax",
        "categorical",
        "calls",
        "torch_private",
        "fingerprint",
    },
    {
        "layout",
        "decision_rows",
        "contexts",
        "context_tables",
        "layout_tables",
        "tables",
        "slots",
        "engine_checks",
        "reference",
        "explain",
    },
    {"joint", "rows", "masks", "pytree", "engine"},
    {
        "head_logits",
        "stacked",
        "unrolled",
        "factored",
        "fused",
        "pieces",
        "decision",
        "buffer_checks",
        "stored_rows",
        "buffer",
        "compat",
        "show",
        "verify",
    },
    {"viz"},
    {"telemetry", "bench", "rollout"},
    {"interop"},
    {"rules_cli", "verify_cli", "over_time_cli", "bench_cli", "calibrate_cli", "train_cli", "cli"},
    {"__main__", "__init__"},
)
STDLIB_ONLY = {"errors", "rule_checks", "rules", "rulesets", "reference", "explain"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports when it runs, not those that only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module == "esper_masks" else module for alias in node.names)


def layer(name: str) -> int:
    [level] = [level for level, names in enumerate(LAYERS) if name in names]
    return level


def test_every_module_has_a_layer() -> None:
    assert {name for name, _ in modules()} == set().union(*LAYERS)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value).rsplit("/", 1)[-1])
def test_imports_point_down(name: str, path: Path) -> None:
    for imported in imports(path):
        top, *rest = imported.split(".")
        assert top not in {"benchmarks", "tests"}, f"{path.name} imports {imported}, which is not in the package"
        if top == "esper_masks" and rest:
            assert layer(rest[0]) <= layer(name), f"{path.name} imports {imported}, which is above it"
        elif name in STDLIB_ONLY:
            assert top in {*sys.stdlib_module_names, "esper_masks"}, f"{path.name} imports {imported}"


def test_reference_sees_no_table() -> None:
    seen = {imported for name, path in modules() if name == "reference" for imported in imports(path)}
    ours = {imported for imported in seen if imported.startswith("esper_masks")}
    reads = {imported for imported in ours if not imported.startswith("esper_masks.reference.")}
    assert reads == {"esper_masks.rule_checks", "esper_masks.rules"}


def test_rules_load_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import types; package = types.ModuleType('esper_masks');"
        f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['esper_masks'] = package;"
        "from esper_masks.rulesets import ruleset; from esper_masks import reference;"
        "print(ruleset('esper-2025-12').name)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "esper-2025-12\n", result.stderr


def test_import_touches_no_global_switch() -> None:
    code = """
import sys
import torch
from torch.distributions import Distribution

def switches():
    return Distribution._validate_args, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()

before = switches()
import esper_masks
assert switches() == before
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"rich", "pytest", "torchrl"}, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", [path for _, path in modules()], ids=lambda path: path.name)
def test_files_hold_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", readme_blocks(), ids=lambda block: block.split("\n")[0])
def test_the_readme_runs_and_prints_what_it_says(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    promised = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == promised


def test_the_example_lifecycle_is_short() -> None:
    [example] = [block for block in readme_blocks() if "MaskRules" in block]
    definition = example.split("engine =")[0].splitlines()
    assert len([line for line in definition if line.strip()]) < 30
