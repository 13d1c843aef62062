"""The documentation: its code runs and prints what it says, links lead somewhere, every public name has an entry."""

import builtins
import dataclasses
import importlib.util
import re
import shlex
import shutil
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest
import torch

import esper_masks as em
from esper_masks import telemetry
from esper_masks.cli.entry import main
from tests.documents import blocks, text_of
from tests.helpers import ROOT

DOCS = ROOT / "docs"
API = DOCS / "api"  # lists of names, whose docstrings the site shows
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
RUN = [page for page in (README, *PAGES) if re.search("^```python$", page.read_text(encoding="utf-8"), re.MULTILINE)]


def name_of(path: Any) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that is not there either
        return False


# -- code -------------------------------------------------------------------------------------------------------------


def promised(block: str) -> list[str]:
    """Comment lines directly behind a ``print(...)``, and those that follow them: what the block prints."""
    lines: list[str] = []
    behind = False
    for line in block.splitlines():
        behind = line.lstrip().startswith("print(") or (behind and line.startswith("# "))
        if behind and line.startswith("# "):
            lines.append(line.removeprefix("# "))
    return lines


# a block of one line that trains: it comes before the page's Python, which may need what was learned; here for a moment
TRAINS = re.compile(r"^```\nesper-masks (train .*)\n```", re.MULTILINE)


@pytest.fixture
def threads() -> Iterator[None]:
    """A page may set how many there are."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_runs_and_prints_what_it_says(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(page.parent)  # files beside a page, which its reader copies
    for command in TRAINS.findall(text_of(page)):
        for file in page.parent.glob("*.py"):
            shutil.copy(file, tmp_path)
        assert main([*shlex.split(command), "--envs", "64", "--steps", "3200"]) == 0
        capsys.readouterr()
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": page.stem}
    missing: list[str] = []
    ran = 0
    for block in blocks(page):
        needs = re.match(r"# needs: (.+)\n", block)
        lacking = [name for name in needs[1].split(", ") if not is_installed(name)] if needs else []
        if lacking:
            missing += lacking
            continue
        exec(compile(block, name_of(page), "exec"), names)
        printed, ran = capsys.readouterr().out, ran + 1
        if promised(block):
            assert printed.splitlines() == promised(block)
    if not ran:
        pytest.skip(f"{', '.join(missing)} is not installed")


def needed(block: str) -> set[str]:
    """Names that a block uses and does not make."""
    tables = [symtable.symtable(block, "block", "exec")]
    made = {name.get_name() for name in tables[0].get_symbols() if name.is_assigned() or name.is_imported()}
    for table in tables:
        tables += table.get_children()
    used = {
        name.get_name() for table in tables for name in table.get_symbols() if name.is_referenced() and name.is_global()
    }
    return used - made - set(dir(builtins))


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_says_that_blocks_need_earlier_ones(page: Path) -> None:
    says = "The blocks of this page run in order" in " ".join(text_of(page).split())
    assert says == any(needed(block) for block in blocks(page))


def test_what_a_block_needs() -> None:
    block = "import a.b\nfrom c import d as e\ndef f(x):\n    return [g(y, len(x)) for y in x]\nh = i + a + e\n"
    assert needed(block) == {"g", "i"}


def test_what_a_block_promises() -> None:
    block = "x = 1\n# no promise\nprint(x)\n# 1\nfor i in (2, 3):\n    print(i)\n# 2\n# 3\ny = 4\n# none either\n"
    assert promised(block) == ["1", "2", "3"]


SHELL = [
    (page, *block)
    for page in (README, *PAGES)
    for block in re.findall(r"^```\n\$ esper-masks (.*)\n([^`]*)^```", text_of(page), re.M)
]


@pytest.mark.parametrize(("page", "command", "says"), SHELL, ids=name_of)
def test_a_command_prints_what_a_page_says(
    page: Path, command: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page.parent)
    assert main(shlex.split(command)) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == says.splitlines()


def test_the_page_of_a_lifecycle_of_your_own_has_the_whole_file() -> None:
    rules, dynamics = blocks(DOCS / "your-own-lifecycle.md")[:2]
    assert f"{rules}\n{dynamics}" == text_of(DOCS / "scheduler.py")


def test_the_quickstart_is_quick() -> None:
    first = blocks(DOCS / "quickstart.md")[0]
    assert len([line for line in first.splitlines() if line.strip() and not line.startswith("#")]) <= 15


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) < 120
    first = blocks(README)[0]
    assert len([line for line in first.splitlines() if line.strip() and not line.startswith("#")]) <= 8


# -- words ------------------------------------------------------------------------------------------------------------

COLUMNS = 120
AWKWARD = (  # and what to write
    (r"\bas of (?:`|the\b|a\b)", "see `X`, as in `X`"),
    (r"\banew\b", "again"),
    (r"\bgo(?:es)? on (?:from|with)\b|\bgone on with\b", "resume, continue"),
    (r"\b(?:what|whatever|which) it is of\b", "the noun"),
    (r"\bby way of\b", "through, with"),
)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def awkward(text: str) -> list[str]:
    """Phrases at which readers have stumbled, each with what to write instead."""
    joined = " ".join(prose(text).split())
    return [f"{found[0]}: {wanted}" for pattern, wanted in AWKWARD for found in re.finditer(pattern, joined, re.I)]


def too_long(text: str) -> list[str]:
    """Lines over the limit; a table, a link and what a program printed cannot be broken."""
    lines = text.splitlines()
    return [line for line in lines if len(line) > COLUMNS and not line.startswith("|") and "](" not in line]


@pytest.mark.parametrize("page", [page for page in LINKED if page.name != "CHANGELOG.md"], ids=name_of)
def test_a_page_reads_well(page: Path) -> None:
    assert awkward(text_of(page)) == []
    assert too_long(text_of(page)) == []


@pytest.mark.parametrize("module", sorted((ROOT / "esper_masks").rglob("*.py")), ids=name_of)
def test_a_module_reads_well(module: Path) -> None:
    assert awkward(text_of(module)) == []


def test_what_reads_badly_is_found() -> None:
    assert len(awkward("Errors as of `step`.\nIt starts\nanew. It goes\non from there.\n```\nas of `x`\n```\n")) == 3
    assert awkward("Age as of 2026, and soon again.") == []
    assert too_long(f"{'x' * 121}\n{'x' * 120}\n| {'x' * 121} |\n[x](y.md) {'x' * 121}\n") == ["x" * 121]


# -- links ------------------------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures, those in code left out."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`+[^`\n]*`+(?!\])", "", text)
    yield from re.findall(r"\]\(([^()\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """What can be linked to: headings in lower case, spaces as hyphens, no other signs; repeated ones numbered."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    places = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        place = re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")
        places.add(f"{place}-{found[place]}" if place in found else place)
        found[place] = found.get(place, 0) + 1
    return places


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target = urlsplit(link)
        if target.scheme or target.netloc:
            assert target.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", target.netloc), link
            continue
        there = (page.parent / target.path).resolve() if target.path else page
        assert there.exists(), f"{link}: no such file"
        assert there.is_relative_to(ROOT), f"{link} leads out of the project"
        if target.fragment:
            assert target.fragment in anchors(there), f"{link}: no such heading"


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    faq = DOCS / "faq.md"
    assert "#masks-and-dqn" in set(links(faq))
    assert {"masks-and-dqn", "does-it-compile"} <= anchors(faq)
    page = tmp_path / "page.md"
    page.write_text(
        "# One `x()`, two\n\n`[code](a.md)` [link](b.md#c)\n\n## Same\n\n```\n# none\n[n](c.md)\n```\n\n## Same\n"
    )
    assert list(links(page)) == ["b.md#c"]
    assert anchors(page) == {"one-x-two", "same", "same-1"}


@pytest.mark.parametrize("index", [DOCS / "README.md", API / "README.md"], ids=name_of)
def test_every_page_is_in_the_index(index: Path) -> None:
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    inside = {page for page in PAGES if page.is_relative_to(index.parent)}
    elsewhere = set() if index.parent == API else {page for page in PAGES if page.parent == API} - {API / "README.md"}
    assert inside - elsewhere - {index} <= listed


def test_pages_that_docstrings_name_are_there() -> None:
    for path in (ROOT / "esper_masks").rglob("*.py"):
        for name in re.findall(r"docs/[\w/-]+\.md", text_of(path)):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


# -- what is generated, and what could drift --------------------------------------------------------------------------


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names() -> set[str]:
    """Each public name as a page of the API has it; of what is imported as a whole, the module."""
    whole = {"compat", "interop", "reference"}
    parts = {"": em, "rollout.": em.rollout, "viz.": em.viz, "telemetry.": telemetry}
    named = {f"{part}{name}" for part, module in parts.items() for name in module.__all__} - whole
    modules = {f"{module}.{name}" for module in ("compat", "interop") for name in getattr(em, module).__all__}
    return {f"esper_masks.{name}" for name in named | modules | {"reference"}}


def test_every_public_name_has_one_entry() -> None:
    entries = [entry for page in PAGES for entry in re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE)]
    assert sorted(entries) == sorted(public_names())


def test_the_site_builds(tmp_path: Path) -> None:
    for needed in ("material", "mkdocstrings"):
        pytest.importorskip(needed, reason="the extra `site`, a part of `dev`, is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    html = {path.relative_to(tmp_path).as_posix(): text_of(path) for path in tmp_path.rglob("*.html")}
    assert {page.relative_to(ROOT).with_suffix(".html").as_posix().replace("README", "index") for page in PAGES} <= set(
        html
    )
    assert "../index.html#install" in html["docs/quickstart.html"]  # the README, outside of docs/
    assert 'id="esper_masks.ActionMasks.restrict"' in html["docs/api/masks.html"]
    assert "&gt;&gt;&gt;" in html["docs/api/masks.html"]  # an example is code
    for page, kind, shown, hidden in (
        ("rules", "MaskRules", "resolve", "gates"),
        ("masks", "ActionLayout", "logit_size", "tables"),
    ):
        assert f'id="esper_masks.{kind}.{shown}"' in html[f"docs/api/{page}.html"]
        assert f'id="esper_masks.{kind}.{hidden}"' not in html[f"docs/api/{page}.html"]


def test_tables_of_rule_sets_are_up_to_date() -> None:
    page = text_of(DOCS / "rules.md")
    assert script("make_rules").with_tables(page) == page, "make docs"


@pytest.mark.parametrize("name", em.rulesets())
def test_tables_of_rule_sets_say_what_the_engine_does(name: str) -> None:
    """A seed that is old enough, alone in its environment, features as an empty slot has them: every gate is open."""
    [part] = re.findall(rf"<!-- rules: {name} -->\n\n(\| stage.*?)\n\n", text_of(DOCS / "rules.md"), re.DOTALL)
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
    rules = em.ruleset(name)
    assert header[1:] == [f"{op.name} {int(op)}" for op in rules.ops]
    assert [row[0] for row in rows] == [f"{stage.name} {int(stage)}" for stage in rules.stages]
    engine = em.MaskEngine(rules, ["one", "other"])
    for stage, row in zip(rules.stages, rows):
        masks = engine(engine.pack_slots([{"one": em.SlotState(stage, 100)}]))
        assert [cell != "·" for cell in row[1:]] == masks.slot_by_op[0, :, 0].tolist(), stage


@pytest.mark.parametrize("kind", [em.MaskRules, em.Op, em.Head], ids=lambda kind: kind.__name__)
def test_every_field_of_rules_has_an_example(kind: type) -> None:
    page = DOCS / "rules.md"
    [section] = re.findall(rf"^## `{kind.__name__}`\n(.*?)(?=^## )", text_of(page), re.DOTALL | re.MULTILINE)
    described = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^|`]+)` \|$", section, re.MULTILINE))
    assert list(described) == [field.name for field in dataclasses.fields(kind)]
    code = "\n".join(blocks(page))
    for field, example in described.items():
        assert example in code, f"{field}: {example} is in no example that runs"


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = text_of(ROOT / "CITATION.cff")
    assert f"\nversion: {em.__version__}\n" in citation
    changes = text_of(ROOT / "CHANGELOG.md")
    assert f"## [{em.__version__}]" in changes or f"## [Unreleased]\n\nWhat will be {em.__version__}.\n" in changes


def test_the_wheel_holds_the_package_and_its_data(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    [wheel] = builder.build(directory=str(tmp_path), versions=["standard"])
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "esper_masks"
    assert held == {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if is_of_the_package(path)}
    assert {f"esper_masks/{name}" for name in ("py.typed", "data/calibration.json", "data/sample.jsonl")} <= held


def is_of_the_package(path: Path) -> bool:
    return path.suffix == ".py" or path.name == "py.typed" or (path.parent.name == "data" and path.is_file())
