"""What a part tells while it runs: a line of JSON each, so that a part that is killed has told the rest."""

import json
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import esper_masks as em
from esper_masks.bench.suite import machine


class Report:
    """Lines for the process that started the part.

    Args:
        path: of the file that they are appended to, by several processes of a part.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def _tell(self, kind: str, **line: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **line}) + "\n")

    def environment(self, device: str) -> None:
        """What the figures belong to."""
        about = machine("cpu")
        commit = about["commit"]
        told = {
            "device": device,
            "processor": f"{about['machine']['cpu']}, {about['machine']['cores']} cores",
            "system": about["machine"]["system"],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "esper_masks": em.__version__,
            "commit": "unknown" if commit is None else commit["id"] + (" with changes" if commit["dirty"] else ""),
        }
        if device == "cuda":
            of = torch.cuda.get_device_properties(0)
            told["GPU"] = f"{of.name}, capability {of.major}.{of.minor}, {of.multi_processor_count} multiprocessors"
            told["GPU memory"] = f"{of.total_memory / 2**30:.0f} GiB, L2 cache {l2_cache() / 2**20:.0f} MiB"
            told["CUDA"] = str(torch.version.cuda)
        self._tell("environment", **told)

    def check(self, name: str, error: str = "") -> None:
        """Something held, or did not."""
        self._tell("checks", name=name, error=error)

    def cell(
        self,
        table: str,
        row: str,
        column: str,
        value: float | str,
        *,
        compared: str = "",
        share: float | None = None,
        note: str = "",
    ) -> None:
        """A figure and its place in a table.

        Args:
            table: the title.
            row: which.
            column: which.
            value: the figure, or a word.
            compared: "time" or "rate" for a figure that the summary compares with that of the first row.
            share: of the limit.
            note: what else is to be said.
        """
        place = {"table": table, "row": row, "column": column}
        self._tell("cells", **place, value=value, compared=compared, share=share, note=note)

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """A check of all that runs inside: where it raises, the part goes on behind it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            self.check(name, f"{type(error).__name__}: {error}")
        else:
            self.check(name)


def l2_cache() -> int:
    """Bytes; 0 where torch does not tell."""
    return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0))
