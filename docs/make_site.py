"""What the site needs beyond ``mkdocs.yml``: the project's own tree, and docstrings as Markdown.

mkdocs loads this file as its hook, mkdocstrings as an extension of griffe; both come with the extra ``site``.
"""

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "notebooks/*.ipynb")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # to the next blank line
SECTION = re.compile(r"(?<!\n)\n(?=(?:Args|Returns|Raises):)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Lay the site out as the project is: pages below ``docs/``, and beside that folder what they link to.

    A link such as ``../README.md`` then leads to the same file on the site, on a forge and on a disk, and no link is
    rewritten.
    """
    root = Path(config.config_file_path).parent
    placed = Files(file for file in files if file.src_dir != config.docs_dir)  # of the theme
    for file in files:
        if file.src_dir == config.docs_dir:
            placed.append(File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path))
    for path in sorted(path for pattern in OUTSIDE for path in root.glob(pattern)):
        placed.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return placed


class Docstrings(griffe.Extension):
    """Docstrings as griffe and Markdown read them; the comment beside a field is its docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples, whose ``>>>`` is a quotation in Markdown, and set the sections apart."""
        if obj.docstring:
            text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = SECTION.sub("\n\n", text)

    def on_attribute_instance(self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **_: Any) -> None:
        """Fields of a named tuple are described by the comments beside them."""
        if attr.docstring is None and isinstance(node, ast.AnnAssign) and isinstance(attr.filepath, Path):
            line = attr.filepath.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
            comment = line.partition("  # ")[2]
            if comment and not comment.startswith("noqa"):
                attr.docstring = griffe.Docstring(comment, parent=attr)
