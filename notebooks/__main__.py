"""Execute the notebooks: ``python -m notebooks`` for all, ``python -m notebooks 03`` for one.

The source of a notebook is its ``.py``, in jupytext's percent format; the ``.ipynb`` beside it is made here, outputs
and all. It holds no times and no paths, and cells have the same ids every time. Needs the extra ``notebooks``.
"""

import sys
from base64 import b64decode, b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

import jupytext
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
LIMIT_S = 300  # of a cell
PNG, COLOURS = "image/png", 128


def sources() -> list[Path]:
    """All notebooks, in order."""
    return sorted(HERE.glob("[0-9]*.py"))


def execute(source: Path) -> Any:
    """A notebook with its outputs.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"  # the same each time
    client = NotebookClient(
        notebook,
        timeout=LIMIT_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if PNG in output.get("data", {}):
                output["data"][PNG] = smaller(output["data"][PNG])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def smaller(picture: str) -> str:
    """A picture of few colours in a third of the bytes; base64."""
    image = Image.open(BytesIO(b64decode(picture))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    made = BytesIO()
    image.save(made, "PNG", optimize=True)
    return b64encode(made.getvalue()).decode()


def main(names: Sequence[str]) -> int:
    chosen = [source for source in sources() if not names or any(source.name.startswith(name) for name in names)]
    if not chosen:
        print(f"no notebook begins with {' or '.join(names)}", file=sys.stderr)
        return 2
    for source in chosen:
        began = perf_counter()
        jupytext.write(execute(source), source.with_suffix(".ipynb"), version=4)
        size = source.with_suffix(".ipynb").stat().st_size
        print(f"{source.stem}: {perf_counter() - began:.0f} s, {size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
