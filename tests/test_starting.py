"""Ctrl-C while the command is still importing: an end, and no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper_masks.starting import is_command

SCRIPT = "import sys; from esper_masks.cli import main; sys.exit(main())\n"


@pytest.mark.parametrize("module", ["torch._C", "torch", "esper_masks.rules"])
@pytest.mark.parametrize("as_script", [False, True])
def test_an_interrupt_within_the_imports_ends_it_silently(tmp_path: Path, module: str, as_script: bool) -> None:
    (tmp_path / "esper-masks").write_text(SCRIPT, encoding="utf-8")
    target = [str(tmp_path / "esper-masks")] if as_script else ["-m", "esper_masks"]
    command = [sys.executable, "-X", "importtime", *target, "train", "--logdir", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:  # one for each import that is done
            lines.append(line)
            if line.split("|")[-1].strip() == module:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    told = [line for line in [*lines, *err.splitlines()] if not line.startswith("import time:")]
    assert (process.returncode, out, told) == (-signal.SIGINT, "", [])


def test_commands_and_programs_keep_their_own_way() -> None:
    code = """
import signal
import sys
import esper_masks
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
sys.argv, sys.orig_argv = ["-m", "show"], ["python", "-m", "esper_masks", "show"]
esper_masks.starting.begin()
assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
from esper_masks.cli.entry import main
main(["show"])
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a background job
esper_masks.starting.begin()
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120, env=os.environ)


def test_the_command_is_told_from_programs() -> None:
    ours = (
        (["-m", "train"], ["python", "-m", "esper_masks", "train"]),
        (["-m"], ["python", "-u", "-mesper_masks"]),
        (["/bin/esper-masks", "train"], ["/bin/python", "-E", "/bin/esper-masks", "train"]),
    )
    others = (
        (["-m", "esper_masks"], ["python", "-m", "pytest", "esper_masks"]),
        (["/bin/pytest", "-m", "esper_masks"], ["python", "/bin/pytest", "-m", "esper_masks"]),
        (["-c"], ["python", "-c", "import esper_masks"]),
        (["/bin/esper-masks", "train"], ["python", "-c", "from multiprocessing.spawn import spawn_main", "--fork"]),
        ([""], ["python"]),
        ([], ["python"]),
        (["a", "b"], ["python"]),
    )
    assert all(is_command(*one) for one in ours)
    assert not any(is_command(*one) for one in others)
