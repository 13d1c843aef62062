"""Everything that a GPU can tell, in under five minutes: ``python -m benchmarks.gpu -o FOLDER``.

It needs torch, einops and pytest, no installation, and nothing from outside. Each part is a process of its own under a
time limit; one that fails or hangs is reported, and the next begins. FOLDER has one file a part, written as the part
ends, the log, and ``summary.md``, which is to be read first. ``--only a,c`` repeats parts in the same folder.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.gpu.parts import LOG, PARTS, SLOWER, Part, found, run_part, without_device, write_result
from benchmarks.gpu.summary import summary

SUMMARY = "summary.md"


def main(arguments: Sequence[str], parts: Sequence[Part] = PARTS) -> int:
    options = _options(arguments, parts)
    wanted = [part for part in parts if not options.only or part.letter in options.only]
    given = ["--device", options.device, *(["--quick"] if options.quick else [])]
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / LOG
    old = log.stat().st_size if not options.only and log.exists() else 0  # of a whole run before
    slower = SLOWER if options.device == "cpu" else 1
    passed = True
    with tempfile.TemporaryDirectory() as cache, _ended_by_sigterm():
        for part in wanted:
            print(f"{part.letter}  {part.title}: ", end="", flush=True)
            result = run_part(part, options.output, given, part.limit * slower, cache)
            passed &= result["verdict"] == "passed"
            print(f"{result['verdict']} ({result['seconds']:.0f} s)", flush=True)
            if without_device(result) and found(options.output, parts):
                print(f"there is no {options.device} device here; the results in {options.output} stay as they are")
                return 1
            write_result(part, options.output, result)
            if old:
                log.write_bytes(log.read_bytes()[old:])
                old = 0
            text = summary(found(options.output, parts))
            (options.output / SUMMARY).write_text(text, encoding="utf-8")
    print(f"written to {options.output / SUMMARY}")
    return 0 if passed else 1


def _options(arguments: Sequence[str], parts: Sequence[Part]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Test and measure everything on a GPU, in under five minutes. "
        + " ".join(f"{part.letter}: {part.title}." for part in parts),
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results are written")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few and small sizes, to see that all of it runs")
    parser.add_argument("--only", metavar="a,c", help="these parts; results of others stay")
    options = parser.parse_args(arguments)
    given, letters = options.only is not None, [part.letter for part in parts]
    options.only = [letter.strip() for letter in (options.only or "").split(",") if letter.strip()]
    if given and not options.only:
        parser.error(f"--only names no part; the parts are {', '.join(letters)}")
    if unknown := [letter for letter in options.only if letter not in letters]:
        parser.error(f"--only {','.join(unknown)}: the parts are {', '.join(letters)}")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"-o {options.output} is a file; it names a folder")
    return options


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the part that runs, which has a process group of its own, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
