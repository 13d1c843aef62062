"""Every command: help, the version, streams that are closed or full, and names that the locale cannot spell."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import esper_masks as em
from esper_masks.cli.entry import COMMANDS, main
from tests.cli.running import start
from tests.logs import life
from tests.own_rules import OWN

# -- readers that go away, disks that are full ------------------------------------------------------------------------

PRINTING = [
    ["replay", "{log}", "--max-findings", "20000"],
    ["replay", "{log}", "--json"],
    ["show", "esper-2026-06"],
    ["explain", "--rules", "esper-2026-06"],
    ["calibrate", "{life}", "-o", "/dev/null"],
    ["bench", "--list"],
    ["verify", "{rules}:JOBS"],
]
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
EACH = [pytest.param(command, BUFFERED, id=" ".join(command)) for command in PRINTING]
EACH += [pytest.param(command, UNBUFFERED, id=" ".join(command) + " unbuffered") for command in PRINTING[::2]]


@pytest.fixture
def arguments(request: pytest.FixtureRequest, log: Path, tmp_path: Path) -> list[str]:
    log.write_bytes(b"junk\n" * 20_000)
    (tmp_path / "life.jsonl").write_text("\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0)))
    (tmp_path / "rules.py").write_text(OWN)
    places = {"log": log, "life": tmp_path / "life.jsonl", "rules": tmp_path / "rules.py"}
    return [part.format(**places) for part in request.param]


@pytest.mark.parametrize(("arguments", "environment"), EACH, indirect=["arguments"])
def test_a_reader_that_goes_away(arguments: list[str], environment: dict[str, str]) -> None:
    ours, its = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "esper_masks", *arguments]
    done = subprocess.run(command, stdout=its, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(its)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("arguments", "environment"), EACH, indirect=["arguments"])
def test_a_full_disk_is_one_line(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "esper_masks", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    reason = "standard output: No space left on device; make room, or name another place"
    assert done.stderr == f"esper-masks {arguments[0]}: {reason}\n"
    assert done.returncode == 2


def test_a_reader_of_everything_that_goes_away() -> None:
    """Messages, too, as by ``2>&1 | head``."""
    ours, its = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "esper_masks", "replay", "nowhere"]
    done = subprocess.run(command, stdout=its, stderr=its, check=False)
    os.close(its)
    assert done.returncode == 2


def test_a_verdict_outlives_its_reader() -> None:
    ours, its = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "esper_masks", "replay", "--fail-on-illegal"]
    done = subprocess.run(command, stdout=its, check=False)
    os.close(its)
    assert done.returncode == 3


@pytest.mark.parametrize("arguments", PRINTING[::3], indirect=True, ids=" ".join)
def test_nothing_is_open(arguments: list[str]) -> None:
    command = f'"{sys.executable}" -m esper_masks {" ".join(arguments)} <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0


# -- help -------------------------------------------------------------------------------------------------------------


def entries(text: str) -> dict[str, str]:
    """What a help text says about each argument, by the name of its value among the options."""
    found = {}
    for line in re.sub(r"\n {10,}", "  ", text).splitlines():
        if told := re.match(r" {2,4}(\S.*?)  +(\S.*)", line):
            name = re.findall(r"--[\w-]+", told[1])[-1:] or told[1].lower().split()
            found[name[0].removeprefix("--").replace("-", "_")] = told[2]
    return found


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_each_default_once(command: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    module, _ = COMMANDS[command]
    module.add_options(parser)
    told = entries(parser.format_help())
    assert "json" in told
    for name, text in told.items():
        default = parser.get_default(name)
        assert text.count("default") <= 1, f"{name}: {text}"
        if default not in (None, False) and default != []:
            assert f"(default: {str(default).removesuffix('.0')})" in text, f"{name}: {text}"
    assert "all three" not in parser.format_help()


def test_every_argument_of_a_help_text_is_seen() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", metavar="NAME", help="a name")
    parser.add_argument("-o", "--an-output-with-a-long-name", default=3, help="a number (default: 3)")
    assert entries(parser.format_help()) == {
        "name": "a name",
        "help": "show this help message and exit",
        "an_output_with_a_long_name": "a number (default: 3)",
    }


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told, (module, summary) = capsys.readouterr().out, COMMANDS[command]
    assert " ".join((module.run.__doc__ or "a docstring is missing").split()) in told
    with pytest.raises(SystemExit):
        main(["--help"])
    assert entries(capsys.readouterr().out)[command] == summary


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"esper-masks {em.__version__}\n"


@pytest.mark.parametrize("command", [["calibrate", "log", "-o", ""], ["bench", "-o", ""], ["bench", "--plot", ""]])
def test_an_empty_name(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(": the name of a file is empty\n")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_folder_that_the_locale_cannot_spell(locale: dict[str, str], log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fr\u00fch"
    folder.mkdir()
    (folder / "run.jsonl").write_text("\n".join(life("env0_seed_0", 0, "FOSSILIZED", 2.0)))
    (folder / "rules.py").write_text(OWN)
    for arguments, code in (
        (["replay", f"{folder}/run.jsonl"], 0),
        (["calibrate", f"{folder}/run.jsonl", "-o", f"{folder}/c.json"], 0),
        (["show", f"{folder}/rules.py:JOBS"], 0),
        (["show", "rules:JOBS"], 0),
        (["replay", f"{folder}/nowhere"], 2),
    ):
        process = start(*arguments, env={**os.environ, **locale}, cwd=folder)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert b"Traceback" not in out + err
    assert (folder / "c.json").exists()
