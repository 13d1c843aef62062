"""Files are whole or not there; links, devices, pipes, owners and modes are left what they are."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from esper_masks.files import check_output, is_standard_output, write_file

ROOT = os.geteuid() == 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    return path


def test_a_new_file_is_as_open_to_others_as_any(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_file(tmp_path / "new", b"new")
    assert (tmp_path / "new").read_bytes() == b"new"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "usual"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(function: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space") as caught:
        write_file(place, b"new")
    assert caught.value.filename == str(place)
    assert place.read_bytes() == b"old"
    assert list(place.parent.iterdir()) == [place]


def test_a_reader_keeps_the_old_file(place: Path) -> None:
    with open(place, "rb") as reader:
        write_file(place, b"new")
        assert reader.read() == b"old"
    assert place.read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_stays(mode: int, place: Path) -> None:
    place.chmod(mode)
    write_file(place, b"new")
    assert stat.S_IMODE(place.stat().st_mode) == mode


@pytest.mark.skipif(not ROOT, reason="only root may give a file away")
def test_the_owner_stays(place: Path) -> None:
    os.chown(place, 12345, 23456)
    write_file(place, b"new")
    assert (place.stat().st_uid, place.stat().st_gid) == (12345, 23456)


def test_an_owner_that_the_system_does_not_give_away_to_is_no_failure(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", denied)
    write_file(place, b"new")
    assert place.read_bytes() == b"new"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_leads_to_what_was_written(there: bool, place: Path, tmp_path: Path) -> None:
    if not there:
        place.unlink()
    first, second = tmp_path / "first", tmp_path / "second"
    second.symlink_to(place.name)
    first.symlink_to("second")
    write_file(first, b"new")
    assert first.is_symlink()
    assert second.is_symlink()
    assert place.read_bytes() == b"new"


def test_a_device_stays(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in ("/dev/null", link):
        write_file(path, b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert link.is_symlink()
    with pytest.raises(OSError, match="No space") as caught:
        write_file("/dev/full", b"new")
    assert caught.value.filename == "/dev/full"


def test_a_pipe_carries_what_is_written(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"new" * 100_000)
    reader.join(timeout=60)
    assert read == [b"new" * 100_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "out.txt", "/dev/stderr"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_standard_output_is_written_behind_what_was_printed(name: str, to: str, tmp_path: Path) -> None:
    """By its descriptor: opened again, a file begins at its first byte; replaced, it loses what was printed."""
    if (to, name) == ("pipe", "out.txt"):
        name = "/dev/fd/1"
    code = "import sys; from esper_masks.files import write_file; stream = getattr(sys, sys.argv[2])\n"
    code += "print('before', file=stream); write_file(sys.argv[1], b'content\\n'); print('after', file=stream)"
    stream = "stderr" if name.endswith("stderr") else "stdout"
    command = [sys.executable, "-c", code, name, stream]
    out = tmp_path / "out.txt"
    if to == "file":
        with open(out, "wb") as opened:
            subprocess.run(command, cwd=tmp_path, check=True, **{stream: opened})
        said = out.read_bytes()
    else:
        said = getattr(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True), stream)
    assert said == b"before\ncontent\nafter\n"


def test_a_short_write_to_standard_output_is_no_success(tmp_path: Path) -> None:
    """As of a limit on the size of files, where Python has no buffer that would write the rest."""
    code = "import resource, signal, sys; from esper_masks.files import write_file\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    code += "write_file('/dev/stdout', bytes(3000))"
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run([sys.executable, "-u", "-c", code], stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"File too large" in done.stderr


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, ""):
        with pytest.raises(IsADirectoryError):
            write_file(path, b"")
    with pytest.raises(FileNotFoundError, match=r"no/a\.json"):
        write_file(tmp_path / "no" / "a.json", b"")


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 85)  # 255 bytes, all that a name may have
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_a_folder_that_takes_no_other_file(reason: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there can be written all the same, and a new file cannot be made."""
    whole = open

    def denied(path: object, mode: str, **options: object) -> object:
        if mode == "xb":
            raise OSError(reason, os.strerror(reason), str(path))
        return whole(path, mode, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", denied)
    write_file(place, b"new")
    assert place.read_bytes() == b"new"
    with pytest.raises(OSError, match=os.strerror(reason)) as caught:
        write_file(place.with_name("other"), b"new")
    assert caught.value.filename == str(place.with_name("other"))


def test_a_file_that_is_a_mount_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(part: Path, there: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(part))

    monkeypatch.setattr(os, "replace", busy)
    write_file(place, b"new")
    assert place.read_bytes() == b"new"
    assert list(place.parent.iterdir()) == [place]


# -- before the work --------------------------------------------------------------------------------------------------


def test_what_can_be_written_is_not_touched(place: Path, tmp_path: Path) -> None:
    for path in (place, tmp_path / "new", "/dev/null", "/dev/stdout"):
        check_output(path)
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "no" / "a.json", "its folder is not there; make it, or name another file"),
    ):
        with pytest.raises(OSError, match=says) as caught:
            check_output(path)
        assert caught.value.filename == str(path)


def test_a_file_that_is_protected(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for check in (check_output, lambda path: write_file(path, b"new")):
        with pytest.raises(PermissionError, match="Permission denied") as caught:
            check(place)
        assert caught.value.filename == str(place)
    with pytest.raises(PermissionError, match="its folder takes no new file"):
        check_output(place.with_name("new"))
    assert place.read_bytes() == b"old"


def test_an_input_is_no_output_by_whichever_name(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place)
    os.link(place, tmp_path / "hard")
    other = tmp_path / "other"
    other.write_bytes(b"old")  # the same content, and another file
    check_output(other, [place, tmp_path / "not there"])
    for name in (place, tmp_path / "link", tmp_path / "hard", tmp_path / "." / "a.json"):
        with pytest.raises(FileExistsError, match="is one of the inputs; name another file"):
            check_output(name, [other, place])
    with open(place, "rb") as stream, pytest.raises(FileExistsError):
        check_output(place, [stream.fileno()])
    check_output("/dev/null", ["/dev/null"])  # a device is no content that could be lost


def test_what_comes_out_at_standard_output(place: Path) -> None:
    code = "import sys; from esper_masks.files import is_standard_output as at; print(*map(at, sys.argv[1:]))"
    names = ["/dev/stdout", "/dev/stderr", str(place), "nowhere"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout == "True False False False\n"
    assert not is_standard_output(place)
