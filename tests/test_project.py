"""What holds for the project as a whole: the rooms and their floors, file sizes, the README."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.helpers import ROOT

PACKAGE = ROOT / "esper_masks"
TESTS = ROOT / "tests"

CODE_LINES = 400  # of a file, at most; docstrings, comments and blank lines are free
ROOT_MODULES, ROOMS, HIGHEST = 9, 26, 13
MAP = re.compile(r"^\| (\d+) \| `(\w+)` \|", re.MULTILINE)
FLOORS = {room: int(floor) for floor, room in MAP.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))}
STDLIB_ONLY = {"errors", "starting", "rules", "rulesets", "reference"}


def modules() -> Iterator[tuple[str, Path]]:
    """Room and path of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, within functions and for a type checker too: all that a reader follows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            in_full = module == "esper_masks" or module.partition(".")[0] == "tests"  # a name may be a module
            yield from (f"{module}.{alias.name}" if in_full else module for alias in node.names)


def room_of(imported: str) -> str:
    """The room of ``esper_masks``, of a module or of a name in the package's own ``__init__``."""
    _, _, rest = imported.partition(".")
    name = rest.partition(".")[0]
    return name if name in FLOORS else "__init__"


def code_lines(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    free: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            free.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for at, line in lines if line.strip() and not line.lstrip().startswith("#") and at not in free)


def test_the_map_has_every_room() -> None:
    assert {room for room, _ in modules()} == set(FLOORS)
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES
    assert len(FLOORS) <= ROOMS
    assert max(FLOORS.values()) <= HIGHEST


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: str(value).rsplit("/", 1)[-1])
def test_imports_point_down(room: str, path: Path) -> None:
    for imported in imports(path):
        top = imported.partition(".")[0]
        assert top not in {"benchmarks", "tests"}, f"{path.name} imports {imported}, which is not in the package"
        if top == "esper_masks":
            assert room_of(imported) == room or FLOORS[room_of(imported)] < FLOORS[room], (
                f"{path.name} imports {imported}, which is not on a floor below"
            )
        elif room in STDLIB_ONLY:
            assert top in sys.stdlib_module_names, f"{path.name} imports {imported}"


def test_no_module_needs_itself() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for _, path in modules()}
    needs = {name: {other for other in imports(path) if other in names} for name, path in names.items()}
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert needs == {}, f"in a circle, or above one: {', '.join(sorted(needs))}"


def test_the_oracle_reads_the_rules_and_nothing_else() -> None:
    seen = {imported for room, path in modules() if room == "reference" for imported in imports(path)}
    assert {room_of(imported) for imported in seen if imported.startswith("esper_masks")} == {"reference", "rules"}


@pytest.mark.parametrize(
    "room", [path.parent for _, path in modules() if path.name == "__init__.py"], ids=lambda room: room.name
)
def test_a_room_has_a_table_of_contents(room: Path) -> None:
    contents = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    inside = {path.stem for path in room.glob("*.py")} | {path.parent.name for path in room.glob("*/__init__.py")}
    for name in inside - {"__init__"} if room != PACKAGE else ():  # of the package itself, the map is
        assert re.search(rf"^{name}\b", contents, re.MULTILINE), f"{room.name}/__init__.py does not say what {name} is"


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
    assert code_lines(path) <= CODE_LINES


def test_the_example_lifecycle_is_short() -> None:
    [example] = [block for block in blocks(ROOT / "README.md") if "MaskRules" in block]
    definition = example.split("engine =")[0].splitlines()
    assert len([line for line in definition if line.strip()]) < 30


def test_tests_have_the_rooms_of_the_package() -> None:
    assert {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")} <= set(FLOORS)


def test_what_tests_share_is_in_no_test() -> None:
    borrowed = [
        f"{path.relative_to(TESTS)} imports {imported}"
        for path in sorted(TESTS.rglob("*.py"))
        for imported in imports(path)
        if re.match(r"tests\b.*\.test_", imported)
    ]
    assert borrowed == [], "what two tests use belongs in a module of its own"
