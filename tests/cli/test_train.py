"""``train`` on the command line: it goes on to the last bit, survives what ends it, and refuses what is not its own."""

import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from esper_masks.cli.entry import main
from esper_masks.cli.train import SHOWN, _Progress, resume_command
from esper_masks.rollout import MECHANICS, PPOConfig
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.logs import FolderLock, TrainingLog, read_metrics
from esper_masks.rollout.training.processes import Processes
from tests.cli.running import ended_by
from tests.rollout.begun import SMALL, begin

NO_SPACE = "No space left on device; make room, or name another place"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["train", "--envs", "20", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "log")
    code, out, _ = run(capsys, "--steps", "1000", "--logdir", folder)
    assert code == 0
    assert "heuristic" in out
    assert "checkpoint-000000001000.pt" in out
    code, _, err = run(capsys, "--steps", "1000", "--logdir", folder)
    assert code == 2
    assert "--resume continues their training" in err
    code, out, err = run(capsys, "--logdir", folder, "--resume", "--json")
    assert code == 0
    assert json.loads(out)["env_steps"] == 1000  # as it was begun for
    assert "no less than the 1,000 that it was begun for: nothing is trained; a larger --steps goes on" in err
    code, out, err = run(capsys, "--steps", "2000", "--logdir", folder, "--resume", "--json")
    assert code == 0
    assert "going on from 1,000 steps" in err
    assert "beyond 1,000 steps, which it was begun for, at the final learning rate" in err
    summary = json.loads(out)
    assert summary["env_steps"] == 2000
    assert summary["illegal_actions"] == summary["faults"] == 0
    assert set(summary["baselines"]) == {"random", "wait", "heuristic"}
    assert summary["baselines"]["wait"] == 0
    assert Path(summary["checkpoint"]).exists()
    assert summary["env_steps_per_s"] > 0
    assert [line["env_steps"] for line in read_metrics(Path(folder))] == [500, 1000, 1500, 2000]
    with open(Path(folder) / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"env_steps": 2500}\n{"env_st')  # of a run that was killed
    for _ in range(2):
        TrainingLog(Path(folder), 2000).close()
    assert [line["env_steps"] for line in read_metrics(Path(folder))] == [500, 1000, 1500, 2000]
    older, newer = (path for (path,) in checkpoint.found(Path(folder))[-2:])
    code, _, err = run(capsys, "--steps", "3000", "--logdir", folder, "--resume", str(older))
    assert code == 2
    assert f"has another checkpoint as its newest, {newer.name}" in err
    code, *_ = run(capsys, "--steps", "2500", "--logdir", str(tmp_path / "other"), "--resume", str(older), "--json")
    assert code == 0


@pytest.mark.parametrize(
    ("begun", "flags", "now", "told"),
    [
        (None, (), 1, ": 1 thread where the checkpoint does not say how many"),  # a checkpoint from before --threads
        (2, (), 2, ""),
        (2, ("--threads", "2"), 2, ""),
        (2, ("--threads", "1"), 1, ": 1 thread instead of 2"),
        (1, ("--threads", "3"), 3, ": 3 threads instead of 1"),
    ],
)
def test_a_training_goes_on_with_the_threads_of_its_checkpoint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    begun: int | None,
    flags: tuple[str, ...],
    now: int,
    told: str,
) -> None:
    settings = {"rules": "esper-2025-12", **SMALL.to_dict(), "threads": begun}
    if begun is None:
        settings.pop("threads")
    checkpoint.save(begin(), settings, tmp_path)
    before = torch.get_num_threads()
    code = main(["train", "--steps", "160", "--logdir", str(tmp_path), "--resume", "--json", *flags])
    out, err = capsys.readouterr()
    assert code == 0
    assert json.loads(out)["threads"] == now
    assert checkpoint.load(tmp_path)["settings"] == {**settings, "threads": now}
    assert torch.get_num_threads() == before
    assert err.splitlines()[0] == "going on from 0 steps" + f", but not to the last bit{told}" * bool(told)


def test_threads_are_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, threads in (((), 1), (("--threads", "2"), 2)):
        folder = tmp_path / str(threads)
        code, out, _ = run(capsys, "--steps", "500", "--logdir", str(folder), "--json", *flags)
        assert code == 0
        assert json.loads(out)["threads"] == checkpoint.load(folder)["settings"]["threads"] == threads


@pytest.mark.parametrize(
    ("begun", "flag", "told"),
    [
        (True, "--no-compile", ", but not to the last bit: not compiled"),
        (False, "--compile", ", but not to the last bit: compiled"),
        (False, "--no-compile", ""),
        (True, "--compile", ""),
    ],
)
def test_a_training_goes_on_with_or_without_compiling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], begun: bool, flag: str, told: str
) -> None:
    settings = {"rules": "esper-2025-12", **SMALL.to_dict(), "compile": begun, "threads": 1}
    checkpoint.save(begin(), settings, tmp_path)
    expected = begin(compile=flag == "--compile")  # whose environments draw keys of noise, or noise
    with torch.compiler.set_stance("force_eager"):  # to compile takes a minute
        assert main(["train", "--steps", "160", "--logdir", str(tmp_path), "--resume", "--json", flag]) == 0
        expected.rollout()
    assert capsys.readouterr().err.splitlines()[0] == f"going on from 0 steps{told}"
    content = checkpoint.load(tmp_path)
    assert content["settings"] == {**settings, "compile": flag == "--compile"}
    assert torch.equal(content["training"]["env"]["generator"], expected.env.state_dict()["generator"])


KIND = """
from dataclasses import replace
from esper_masks import ruleset
RULES = replace(ruleset("esper-2025-12"), name={!r})
"""


@pytest.mark.parametrize("flag", ["--logdir", "--resume", "--calibration", "--rules"])
def test_an_empty_name_is_no_name(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", flag, ""])
    assert ended.value.code == 2
    assert f"argument {flag}: is empty; give a name, or leave the flag out" in capsys.readouterr().err


def test_a_module_may_bring_the_mechanics_of_its_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enters = "from esper_masks.rollout import MECHANICS\nMECHANICS['known-kind'] = MECHANICS['esper-2025-12']\n"
    (tmp_path / "known_kind.py").write_text(KIND.format("known-kind") + enters, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, *_ = run(capsys, "--rules", "known_kind:RULES", "--steps", "500", "--max-seeds", "0", "--json")
    assert code == 0
    monkeypatch.delitem(MECHANICS, "known-kind")


def test_rules_in_python_code_go_on_by_whichever_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(KIND.format("esper-2025-12"), encoding="utf-8")
    (tmp_path / "below").mkdir()
    settings = {"rules": "./mine.py:RULES", **SMALL.to_dict(), "threads": 1}
    checkpoint.save(begin(), settings, tmp_path / "log")
    monkeypatch.chdir(tmp_path / "below")
    go_on = ["train", "--logdir", "../log", "--resume", "--json", "--steps"]
    assert main([*go_on, "160"]) == 2
    assert "give --rules too" in capsys.readouterr().err
    assert main([*go_on, "160", "--rules", "../mine.py:RULES"]) == 0
    assert checkpoint.load("../log")["settings"]["rules"] == "../mine.py:RULES"
    other = "from esper_masks import ruleset\nRULES = ruleset('esper-2025-11')\n"
    (tmp_path / "other.py").write_text(other, encoding="utf-8")
    capsys.readouterr()
    assert main([*go_on, "320", "--rules", "../other.py:RULES"]) == 2
    assert "the checkpoint is of other rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "device", "told"),
    [
        (1, "cpu", "esper-masks train --logdir far --resume"),
        (1, "cuda:1", "esper-masks train --logdir far --resume --device cuda:1"),
        (2, "cuda:1", "torchrun --nproc-per-node 2 -m esper_masks train --logdir far --resume --device cuda"),
    ],
)
def test_the_command_to_go_on_with(size: int, device: str, told: str) -> None:
    ppo = SimpleNamespace(
        processes=Processes(0, size), config=PPOConfig(horizon=100), env=SimpleNamespace(device=torch.device(device))
    )
    options = Namespace(logdir="far", device=device)
    assert resume_command(ppo, 100, {"rules": "esper-2025-12"}, options) == f"to go on: {told}"


def test_the_command_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "no.pt").write_text("sha-256", encoding="utf-8")
    content = checkpoint.load(checkpoint.save(begin(), SMALL.to_dict(), tmp_path / "some"))
    odd = {"rules": "esper-2025-12", **SMALL.to_dict(), "policy": "gru"}
    torch.save({**content, "settings": odd}, tmp_path / "odd.pt")
    torch.save({**content, "settings": {**odd, "policy": "mlp", "envs": 21}}, tmp_path / "other.pt")
    torch.save({**content, "settings": {**odd, "policy": "mlp", "envs": 20}}, tmp_path / "same.pt")
    torch.save({**content, "processes": 2}, tmp_path / "two.pt")
    torch.save(content, tmp_path / "bare.pt")
    torch.save({**content, "settings": {**odd, "rules": "evil:RULES"}}, tmp_path / "evil.pt")
    (tmp_path / "evil.py").write_text("open('was-run', 'w')", encoding="utf-8")
    (tmp_path / "unknown_kind.py").write_text(KIND.format("unknown-kind"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for arguments, reason in (
        (["--logdir", str(tmp_path / "file")], "File exists"),
        (["--resume", str(tmp_path / "none")], "No such file"),
        (["--resume", str(tmp_path / "bad.pt")], "damaged"),
        (["--rules", "unknown_kind:RULES", "--logdir", str(tmp_path / "a")], "no mechanics are known"),
        (["--rules", "nonsense"], "nonsense"),
        (["--seed", "-1", "--logdir", str(tmp_path / "b")], "seed must be from 0 to 4294967295"),
        (["--device", "nonsense", "--logdir", str(tmp_path / "c")], "device"),
        (["--resume", str(tmp_path / "odd.pt")], "policy='gru' is not one of mlp, lstm"),
        (["--resume", str(tmp_path / "other.pt")], "--envs 20: the checkpoint was begun with 21; leave it out"),
        (["--resume", str(tmp_path / "bare.pt")], "does not say its rules"),
        (["--resume", str(tmp_path / "no.pt")], "no.pt: no checkpoint of esper-masks train; give one of its checkp"),
        (["--resume", str(tmp_path / "same.pt"), "--slots", "4"], "--slots 4: the checkpoint was begun with 3; leave"),
        (["--resume", str(tmp_path / "same.pt"), "--slots", "3"], "of 16 environments, and there are 20 here"),
        (["--resume", str(tmp_path / "same.pt"), "--max-seeds", "2"], "was begun with 0, no limit; leave it out"),
        (["--rules", "unknown_kind:RULES", "--logdir", "e"], "rollout.MECHANICS['unknown-kind']"),
        (
            ["--learning-rate", "1e30", "--steps", "1000", "--logdir", "far"],
            "after 500 steps the policy has diverged (gradient_norm: a fault (nan)): begin again with a smaller "
            "--learning-rate than 1e+30 and another --logdir; the last checkpoint is far/checkpoint-000000000000.pt\n",
        ),
        (["--resume", str(tmp_path / "evil.pt")], "of rules in Python code, 'evil:RULES': give --rules too"),
        (["--clip", "-1", "--logdir", "e"], "clip must be a number not below 0, got -1.0"),
        (
            ["--final-learning-rate", "nan", "--logdir", "e"],
            "final_learning_rate must be a number not below 0, got nan",
        ),
        (["--gamma", "inf", "--logdir", "e"], "gamma must be a number from 0 to 1, got inf"),
        (["--entropy-weight", "inf", "--logdir", "e"], "entropy_weight must be a number not below 0, got inf"),
        (["--gae-lambda", "1.5", "--logdir", "e"], "gae_lambda must be a number from 0 to 1, got 1.5"),
        (["--minibatches", "501", "--logdir", "e"], "501 minibatches cannot be made of 500 steps of a rollout"),
        (["--minibatches", "21", "--policy", "lstm", "--logdir", "e"], "21 minibatches cannot be made of 20 env"),
        (["--seed", "4294967296", "--logdir", "e"], "seed must be from 0 to 4294967295"),
        (["--resume", str(tmp_path / "two.pt")], "two.pt: one of 2 parts, of as many processes; the others are not"),
        (["--calibration", str(tmp_path / "bad.pt"), "--logdir", str(tmp_path / "d")], "no calibration"),
        (["--calibration", str(tmp_path / "none"), "--logdir", str(tmp_path / "d")], "No such file"),
        *([(["--device", "cuda"], "no CUDA device")] if not torch.cuda.is_available() else []),
    ):
        code, _, err = run(capsys, "--steps", "100", *arguments)
        assert code == 2, arguments
        assert reason in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "was-run").exists()
    assert main(["train", "--steps", "100", "--resume", str(tmp_path / "other.pt")]) == 2
    assert "the checkpoint does not fit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_it_the_last_checkpoint_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    ended = ended_by(number, tmp_path, "--envs", "20", "--steps", "100000000", "--json")
    steps = checkpoint.load(tmp_path)["env_steps"]
    assert steps > 0
    if number == signal.SIGKILL:
        assert ended.returncode == -number
    else:
        assert ended.returncode == 128 + number
        assert ended.stderr.splitlines() == [
            "stopping after this update; again to quit without saving",
            f"esper-masks train: stopped after {steps:,} of 100,000,000 steps; "
            f"to go on: esper-masks train --logdir {tmp_path} --resume",
        ]
        summary = json.loads(ended.stdout)
        assert summary["interrupted"] is True
        assert summary["env_steps"] == steps
    command = [sys.executable, "-m", "esper_masks", "train", "--envs", "20", "--logdir", str(tmp_path)]
    subprocess.run([*command, "--steps", str(steps + 500), "--resume"], check=True, timeout=120, capture_output=True)
    assert checkpoint.load(tmp_path)["env_steps"] == steps + 500


def test_a_picture_that_cannot_be_kept_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "learning-curve.png").mkdir()
    code, out, err = run(capsys, "--steps", "500", "--logdir", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["env_steps"] == 500
    assert err == f"esper-masks train: no learning curve: {tmp_path}/learning-curve.png: Is a directory\n"


def test_a_reader_that_goes_away_fails_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m esper_masks train --envs 20 --steps 500 --logdir {tmp_path}"
    piped = ["bash", "-c", f"set -o pipefail; {command} | true"]
    done = subprocess.run(piped, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert checkpoint.load(tmp_path)["env_steps"] == 500


def test_off_the_main_thread_it_runs_without_signals(tmp_path: Path) -> None:
    codes: list[int] = []
    for arguments in (["show"], ["train", "--envs", "20", "--steps", "500", "--logdir", str(tmp_path), "--json"]):
        thread = Thread(target=lambda given=arguments: codes.append(main(given)))
        thread.start()
        thread.join(timeout=120)
    assert codes == [0, 0]


def test_a_full_disk_ends_it_by_a_line_that_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = checkpoint.write_file, []

    def full(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_file", full)
    code, _, err = run(capsys, "--steps", "5000", "--save-every", "2", "--logdir", str(tmp_path))
    assert code == 2
    names = [tmp_path / f"checkpoint-{steps:012}.pt" for steps in (1000, 0)]
    left = f"the last checkpoint is {names[1]}, from which --resume goes on"
    assert err == f"esper-masks train: {names[0]}: {NO_SPACE}; {left}\n"


def test_a_log_folder_that_is_gone_ends_it_by_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise OSError(5, "Input/output error", str(tmp_path))

    def fail(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(checkpoint, "found", gone)
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr("esper_masks.cli.train.train", fail)
    code, _, err = run(capsys, "--steps", "500", "--logdir", str(tmp_path))
    assert (code, err) == (2, f"esper-masks train: {tmp_path}: Input/output error\n")


def command(folder: Path | bytes, *flags: str) -> list[Any]:
    return [sys.executable, "-m", "esper_masks", "train", "--envs", "20", "--steps", "500", "--logdir", folder, *flags]


def test_a_summary_that_cannot_be_printed_costs_no_training(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    path = tmp_path / "checkpoint-000000000500.pt"
    reason = f"the summary cannot be printed ({NO_SPACE}); all is saved: {path}"
    assert (done.returncode, done.stderr) == (2, f"esper-masks train: {reason}\n")
    assert checkpoint.load(path)["env_steps"] == 500


def test_a_folder_whose_name_the_locale_does_not_know(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + "/fü".encode()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command(folder), capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"checkpoint-000000000500.pt" in done.stdout
    assert os.path.exists(folder + b"/checkpoint-000000000500.pt")


def test_a_terminal_has_one_line_that_fits(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    ioctl(its, TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    out, environment = b"", {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
    with subprocess.Popen(command(tmp_path), stdout=its, env=environment, stderr=subprocess.PIPE) as process:
        os.close(its)
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                out += part
    os.close(ours)
    assert process.returncode == 0
    live, rest = [], out.decode().split("\r\x1b[K")
    assert rest.pop(0) == ""
    *live, summary = rest
    assert live[0] == "0 %"
    assert live[1].startswith("100 %  return ")
    names = ("learned", "random", "wait", "heuristic")
    assert [text for text in live[2:] if text] == [f"comparing with baselines: {name}" for name in names]
    assert all(len(text) < 60 and "\n" not in text for text in live)
    assert "500 environment steps" in summary


def test_no_return_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    """In an iteration in which no episode ended."""
    figures = {"env_steps": 100.0, "env_steps_per_s": 10.0, **dict.fromkeys(SHOWN, 0.5)}
    for gain, told in ((math.nan, "return      -  kl"), (-7.25, "return  -7.25  kl")):
        _Progress(100, None, quiet=False)({**figures, "return_mean": gain})
        assert told in capsys.readouterr().out


def test_a_folder_is_of_one_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(begin(), {"rules": "esper-2025-12", **SMALL.to_dict()}, tmp_path)
    with FolderLock(tmp_path) as lock:
        lock.take()
        lock.take()  # nothing, a second time
        for flags in ([], ["--resume"]):
            assert main(["train", "--logdir", str(tmp_path), "--steps", "500", *flags]) == 2
            reason = f"another training is at work there (process {os.getpid()} on "
            err = capsys.readouterr().err
            assert err.startswith(f"esper-masks train: {tmp_path}: {reason}")
            assert err.endswith("); end it first, or name another folder (--logdir)\n")
    assert main(["train", "--logdir", str(tmp_path), "--steps", "500", "--resume", "--json"]) == 0
    with FolderLock(tmp_path) as other:
        other.take()


def test_a_folder_is_looked_at_again_once_it_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, folder = FolderLock.take, tmp_path / "new"

    def late(lock: FolderLock) -> None:
        checkpoint.save(begin(), SMALL.to_dict(), folder)  # another, which began and ended after the first look
        take(lock)

    monkeypatch.setattr(FolderLock, "take", late)
    code, _, err = run(capsys, "--steps", "500", "--logdir", str(folder))
    assert (code, f"{folder} has checkpoints: --resume continues their training" in err) == (2, True)


def test_flags_that_none_can_have_make_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--seed", "-1", "--logdir", str(tmp_path / "new"))[0] == 2
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    code, _, err = run(capsys, "--steps", "500", "--logdir", str(tmp_path / "new"), "--json")
    assert code == 0
    reason = "cannot be locked (No locks available), so nothing keeps a second training out of this folder"
    assert err == f"{tmp_path / 'new'}: {reason}\n"
