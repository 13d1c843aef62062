"""Write ``docs/api.md`` from signatures and docstrings: ``python docs/make_api.py``, needs griffe (griffelib).

Griffe reads the source and imports nothing, so that no library of an adapter need be there.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
PACKAGE = "esper_masks"
OPTIONAL = ("rollout", "interop", "viz")  # loaded when they are first asked for
HEAD = """# API reference

Made from the docstrings by `python docs/make_api.py` (`make docs`); a test says whether it is up to date. `em` is
`esper_masks`. Axes have the same names everywhere: `batch slots features stages ops heads`; `...` stands for any
leading ones. `True` is legal. The examples run in the tests.
"""
SECTION = re.compile(r"(Args|Returns|Raises):(?: (.*))?$")
ITEM = re.compile(r" {4}(\S[^:]*): (.*)$")


def main() -> int:
    PAGE.write_text(build(), encoding="utf-8")
    print(f"written to {PAGE.relative_to(ROOT)}")
    return 0


def build() -> str:
    """The whole page."""
    package = griffe.load(PACKAGE, search_paths=[ROOT])
    contents, parts, anchors = [], [], Counter[str]()
    groups = [(title, module, list(public(module, title))) for title, module in modules(package)]
    described = {found.path for _, _, named in groups for _, found in named}
    for title, module, named in groups:
        anchors[anchor(title)] += 1
        contents.append(f"- `{title}`: {', '.join(link(name, anchors) for name, _ in named)}")
        parts += [f"## `{title}`\n", intact(docstring(module))]
        for name, found in named:
            parts += entry(name, found, described)
    page = "\n".join([HEAD, *contents, "", *parts])
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def modules(package: Any) -> Iterator[tuple[str, Any]]:
    """What has names that people use, each as it is written behind ``em.``; the adapters one by one."""
    yield "em", package
    for name in OPTIONAL:
        if name not in package.members:
            continue
        if "MODULES" not in package[name].members:
            yield name, package[name]
            continue
        for adapter in ast.literal_eval(str(package[name]["MODULES"].value)):
            yield f"{name}.{adapter}", package[name][adapter]


def public(module: Any, title: str) -> Iterator[tuple[str, Any]]:
    names = module.exports or [
        name
        for name, found in module.members.items()
        if not name.startswith("_") and not found.is_alias and (found.is_class or found.is_function)
    ]
    for name in sorted(map(str, names), key=lambda name: (name.lower(), name)):
        found = module[name].final_target if module[name].is_alias else module[name]
        yield name if title == "em" else f"{title}.{name}", found


def anchor(name: str) -> str:
    return re.sub(r"[^\w -]", "", name.lower())


def link(name: str, anchors: Counter[str]) -> str:
    """A link to the heading of a name, numbered as a heading is that another one is like."""
    place = anchor(name)
    anchors[place] += 1
    return f"[{name}](#{place}{f'-{anchors[place] - 1}' if anchors[place] > 1 else ''})"


def entry(name: str, found: Any, described: set[str], level: str = "###") -> Iterator[str]:
    """A heading, the signature, the docstring; of a class, its fields and what it has."""
    yield f"{level} `{name}`\n"
    if found.is_module:
        yield intact(docstring(found))
        return
    yield f"```python\n{signature(name.rsplit('.', 1)[-1], found)}\n```\n"
    yield intact(docstring(found))
    if not found.is_class:
        return
    if is_tuple(found) and (comments := list(fields_of(found))):
        yield "\n".join(comments) + "\n"
    for member, owned in members(found, described):
        yield from entry(f"{name}.{member}", owned, described, "####")


def members(found: Any, described: set[str]) -> Iterator[tuple[str, Any]]:
    """Documented methods and properties, those of base classes too that have no entry of their own on the page."""
    seen = dict(found.members)
    for base in found.mro():
        if base.path.startswith(f"{PACKAGE}.") and base.path not in described:
            seen |= {name: member for name, member in base.members.items() if name not in seen}
    for name, member in seen.items():
        if name.startswith("_") or name.endswith("_extra_state") or member.is_alias or not member.docstring:
            continue
        if member.is_function or "property" in member.labels:
            yield name, member


def signature(name: str, found: Any) -> str:
    if found.is_attribute:
        return f"{name}: {found.annotation}  # property"
    made = found
    if found.is_class:
        made = found.members.get("__init__") or next(
            (base.members["__init__"] for base in found.mro() if "__init__" in base.members), None
        )
        if is_tuple(found):
            given = [f"{name}: {a.annotation}{'' if a.value is None else f' = {a.value}'}" for name, a in fields(found)]
            return wrapped(f"class {name}", given, "")
        if made is None:
            bases = ", ".join(map(str, found.bases))
            return f"class {name}({bases})" if bases else f"class {name}"
        return wrapped(f"class {name}", parameters(made), "")
    kind = next((f"@{label}\n" for label in ("classmethod", "staticmethod") if label in found.labels), "")
    return f"{kind}{wrapped(f'def {name}', parameters(found), f' -> {found.returns}' if found.returns else '')}"


def parameters(function: Any) -> list[str]:
    kinds, given, starred = griffe.ParameterKind, [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        mark = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(parameter.kind, "")
        if parameter.kind is kinds.keyword_only and not starred:
            given.append("*")
        starred = starred or parameter.kind in (kinds.keyword_only, kinds.var_positional)
        text = f"{mark}{parameter.name}"
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not mark:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        given.append(text)
        if parameter.kind is kinds.positional_only:
            given.append("/")
    return given


def wrapped(start: str, given: list[str], end: str) -> str:
    line = f"{start}({', '.join(given)}){end}"
    if len(line) <= 110:
        return line
    inner = "".join(f"    {text},\n" for text in given)
    return f"{start}(\n{inner}){end}"


def is_tuple(found: Any) -> bool:
    return any(str(base) == "NamedTuple" for base in found.bases)


def fields(found: Any) -> Iterator[tuple[str, Any]]:
    for name, member in found.members.items():
        if member.is_attribute and not name.startswith("_") and member.annotation is not None:
            yield name, member


def fields_of(found: Any) -> Iterator[str]:
    """Fields whose meaning stands beside them, as a list."""
    for name, member in fields(found):
        line = found.module.source.splitlines()[member.lineno - 1]
        if " # " in line:
            yield f"- `{name}`: {line.split(' # ', 1)[1].strip()}"


def docstring(found: Any) -> str:
    return found.docstring.value if found.docstring else ""


def intact(text: str) -> str:
    """A docstring as Markdown: its text as it stands, examples fenced, arguments and errors as lists."""
    made: list[str] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if section := SECTION.match(line):
            given = []
            while lines and (lines[0].startswith("    ") or not lines[0]):
                given.append(lines.pop(0))
            made += as_list(section[1], section[2], given)
        elif line.startswith(">>> "):
            made += ["```pycon", line]
            while lines and lines[0]:
                made.append(lines.pop(0))
            made.append("```")
        else:
            made.append(line)
    return "\n".join(made).rstrip() + "\n"


def as_list(title: str, first: str | None, given: list[str]) -> Iterator[str]:
    if title == "Returns" or first:  # running text, which may go on in indented lines
        yield from ["", f"**{title}:** {' '.join([first or '', *(line.strip() for line in given)]).strip()}", ""]
        return
    yield from ["", f"**{title}:**", ""]
    for line in given:
        if item := ITEM.match(line):
            yield f"- `{item[1]}`: {item[2]}"
        elif line:
            yield f"  {line.strip()}"
    yield ""


if __name__ == "__main__":
    sys.exit(main())
