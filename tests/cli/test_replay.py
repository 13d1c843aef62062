"""``replay`` on the command line: what it prints, exit codes, interrupts, and logs that are compressed or damaged."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper_masks.cli.entry import main
from esper_masks.telemetry import Replay
from tests.cli.running import start
from tests.helpers import shared
from tests.logs import event, germinate, move

KEYS = {
    *("files", "lines", "malformed", "seeds", "episodes", "transitions", "ops", "illegal", "illegal_transitions"),
    *("unknown_stages", "age_unknown", "row_unknown", "findings"),
}


def test_the_sample_has_one_illegal_event(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay"]) == 0
    printed = capsys.readouterr().out
    assert "sample.jsonl:15: env1_seed_1 mid: illegal CULL: age 0 < 1" in printed
    assert printed.rstrip().endswith("1 illegal.")
    assert main(["replay", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= KEYS
    assert result["illegal"] == {"CULL": 1}
    [finding] = result["findings"]
    assert set(finding) == {"file", "line", "environment", "slot", "seed", "what", "why"}
    assert (result["malformed"], result["disagreements"], result["age_unknown"]) == (0, 0, 0)


def test_a_file_as_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(log), str(log), "--rules", "esper-2025-11", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["files"], result["lines"], result["malformed"], result["rules"]) == (2, 6, 2, "esper-2025-11")
    assert result["illegal_transitions"] == {"GERMINATED->BLENDING": 2}


def test_a_person_reads_it_at_80_columns(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(log)]) == 0
    summary = capsys.readouterr().out.split("\n\n", 1)[1]
    assert max(map(len, summary.splitlines())) <= 80
    for words in ("replay under esper-2025-12", "malformed lines", "GERMINATED->BLENDING", "1 illegal."):
        assert words in summary


def test_another_rule_set_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(shared("telemetry/2025-12-06_054426.jsonl"))]) == 0
    printed = capsys.readouterr().out
    assert "Stages that esper-2025-12 does not have: SHADOWING (104)." in printed
    assert "--rules esper-2025-11" in printed


def test_nothing_of_a_lifecycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert main(["replay", str(tmp_path / "empty")]) == 0
    assert "No lifecycle event was found: is this an event log?" in capsys.readouterr().out


def test_every_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [germinate(), move("GERMINATED", "CULLED"), germinate(seed=1), move("TRAINING", "BLENDING", seed=1)]
    lines += [event("SEED_CULLED", epochs_total=3), *[b"junk\n"] * 4]
    lines += [json.dumps({"event_type": f"TYPE_{i}"}).encode() + b"\n" for i in range(11)]
    (tmp_path / "log").write_bytes(b"".join(lines))
    assert main(["replay", str(tmp_path / "log"), "--max-findings", "3"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "... and 1 more findings",
        "Age unknown for 1 ops",
        "4 lines could not be read.",
        "1 outcomes came without",
        "The log disagrees with the tracked state on 1 stage changes.",
        "not about slots: further types",
        "seed limit of GERMINATE",
    ):
        assert words in printed
    [others] = [line for line in printed.splitlines() if "other transitions" in line]
    assert others.split("\u2502")[2:4] == ["      1 ", "       1 "]


def test_names_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    log = tmp_path / "fr\u00fch.jsonl"
    log.write_bytes(germinate(slot="fr\u00fch\u2192") + germinate(seed=1, slot="fr\u00fch\u2192"))
    process = start("replay", str(log), env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"fr\\xfch\\u2192: illegal GERMINATE" in out


@pytest.mark.parametrize("redirection", ["<&-", ">&-"])
def test_closed_streams(log: Path, redirection: str) -> None:
    path = "-" if "<" in redirection else str(log)
    command = f'"{sys.executable}" -m esper_masks replay "{path}" {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "<" in redirection else 0)


def test_markup_in_a_log_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text(json.dumps({"event_type": "[/red] [bold]:smile:"}) + "\n")
    assert main(["replay", str(tmp_path / "log")]) == 0
    assert "[/red] [bold]:smile:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "esper-masks replay: nowhere.jsonl: No such file or directory"),
        (["."], "esper-masks replay: .: Is a directory"),
        (["--rules", "esper-1999"], "esper-masks replay: unknown rule set 'esper-1999'; known: esper-2025-11"),
    ],
)
def test_one_line_and_exit_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_a_wrong_path_is_found_before_any_work(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "read", lambda *args: pytest.fail("read before all paths were checked"))
    assert main(["replay", str(log), "nowhere.jsonl"]) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.chmod(0)
    assert main(["replay", str(log)]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--max-findings", "-1"], ["--max-findings", "many"], ["--nonsense"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["replay", *arguments])
    assert stop.value.code == 2
    assert "usage: esper-masks" in capsys.readouterr().err


def test_what_was_read_before_a_failure_is_reported(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Replay.read

    def read_then_fail(self: Replay, stream: Any, name: str) -> None:
        whole(self, stream, name)
        raise OSError(5, "Input/output error", name)

    monkeypatch.setattr(Replay, "read", read_then_fail)
    assert main(["replay", str(log), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["lines"] == 3
    assert json.loads(captured.out)["interrupted"] is True
    assert "Input/output error" in captured.err


def test_an_interrupt_keeps_what_was_judged(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(germinate() + move("GERMINATED", "FOSSILIZED") + b"junk\n")  # an op that still waits for its age

    class Interrupting(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            return super().readinto(buffer) or signal.raise_signal(signal.SIGINT) or 0

    monkeypatch.setattr("builtins.open", lambda *args: Interrupting(log.read_bytes()))
    assert main(["replay", str(log)]) == 130
    printed = capsys.readouterr().out
    assert "illegal FOSSILIZE" in printed
    assert "Age unknown for 1 ops" in printed
    assert "Interrupted: these are the figures up to that point." in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_standard_input_and_a_real_interrupt(number: int, code: int) -> None:
    process = start("replay", "-", "--json")
    assert process.stdin is not None
    process.stdin.write(germinate() * 3 + b"\n" * 1_000_000)  # more than a pipe holds, so it is reading by now
    process.stdin.flush()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["seeds"] == 3


def test_what_nohup_ignores_stays_ignored(log: Path) -> None:
    command = f'trap "" HUP; "{sys.executable}" -m esper_masks replay - --json'
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(germinate() * 3 + b"\n" * 1_000_000)
    process.stdin.flush()
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["seeds"] == 3


# -- verdicts as exit codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_illegal_events_fail_where_that_is_asked_for(form: list[str], log: Path, tmp_path: Path) -> None:
    legal = tmp_path / "legal.jsonl"
    legal.write_bytes(germinate() + move("GERMINATED", "TRAINING") + b"junk\n")
    illegal_op = tmp_path / "op.jsonl"
    illegal_op.write_bytes(germinate() + germinate(seed=1))
    assert main(["replay", str(log), *form]) == 0
    for path, code in ((log, 3), (illegal_op, 3), (legal, 0)):
        assert main(["replay", str(path), "--fail-on-illegal", *form]) == code
    assert main(["replay", str(log), "--fail-on-illegal", "--max-findings", "0", *form]) == 3
    assert main(["replay", str(log), "nowhere.jsonl", "--fail-on-illegal", *form]) == 2


# -- files of logs ----------------------------------------------------------------------------------------------------


def test_a_compressed_log_is_told_by_its_bytes(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "packed"  # whatever it is called
    content = log.read_bytes()
    packed.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))  # as logs are appended to
    plain = tmp_path / "plain.gz"
    plain.write_bytes(content)
    results = []
    for path in (packed, plain):
        assert main(["replay", str(path), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
        results[-1]["findings"] = [finding["line"] for finding in results[-1]["findings"]]
    assert results[0] == results[1]
    with open(packed, "rb") as stream:
        command = [sys.executable, "-m", "esper_masks", "replay", "-", "--json"]
        done = subprocess.run(command, stdin=stream, capture_output=True, check=True)
    assert json.loads(done.stdout)["lines"] == 3


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:60] + b"?" * 20 + packed[80:]])
def test_a_compressed_log_that_is_damaged(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(damage(gzip.compress(b"".join(germinate(env, env) for env in range(5000)))))
    assert main(["replay", str(packed), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["interrupted"]
    assert captured.err.startswith(f"esper-masks replay: {packed}: its compressed data is damaged or cut off (")
    assert captured.err.count("\n") == 1


def test_a_file_that_is_there_twice_is_noted(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(log)
    os.link(log, tmp_path / "hard")
    other = tmp_path / "other"
    other.write_bytes(log.read_bytes())
    assert main(["replay", str(log), str(other)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["replay", *map(str, (log, tmp_path / "link", tmp_path / "hard", log))]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"esper-masks replay: {tmp_path / 'link'} is the same file as {log}; what it holds counts twice",
        f"esper-masks replay: {tmp_path / 'hard'} is the same file as {log}; what it holds counts twice",
        f"esper-masks replay: {log} is given twice; what it holds counts twice",
    ]
