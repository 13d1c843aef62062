"""Compiled code in files, so that the first call in the next process neither traces nor builds.

``ESPER_MASKS_CACHE`` names the folder, or is ``off``; by default it is ``esper_masks`` in ``$XDG_CACHE_HOME``, else in
``~/.cache``. To load code is to run it: a folder that another user owns, may write to or may replace is not used.

    <what>-<where>.graph   compiled code, see ``torch_kept``: a line with its SHA-256, and the code
    <SHA-256>.so           a library of it, by its content

    what     the method, what it is constant to, and the arguments: their signature, sizes, modes of torch
    where    sources of this package, Python, torch and its settings, processor

A file is whole or not there, see ``files``. What does not fit its SHA-256 is not loaded, and written again. Files that
were not read for longest go first, once all of them have more than ``LIMIT`` bytes.
"""

import dataclasses
import hashlib
import logging
import os
import pickle
import platform
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch

from esper_masks.compiled.torch_kept import can_revive, changed_settings, kept_form, revive
from esper_masks.compiled.torch_private import Ahead
from esper_masks.files import write_file

VARIABLE = "ESPER_MASKS_CACHE"
LIMIT = 512 << 20  # bytes of a folder; a graph and its library have 100,000 to 1,000,000
SUFFIXES = (".graph", ".so", ".part")
SETTINGS = ("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE_", "ATEN_CPU_CAPABILITY")  # of the environment: its
SPEED = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")  # how fast is built, and not what
NO_SOURCES = hashlib.sha256().hexdigest()  # as in a frozen program: one version cannot be told from another
PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

IMPORTED = time.time()
LOG = logging.getLogger("esper_masks")


class UnknownError(TypeError):
    """Something of which nobody knows whether it is the same in another process."""


def is_changed(module: torch.nn.Module) -> bool:
    """Whether a module does what its class does not say: by a hook, of its own or of all modules, or a method."""
    everywhere: Any = torch.nn.modules.module
    hooked = any(getattr(module, name) or getattr(everywhere, f"_global{name}") for name in HOOKS)
    return hooked or any(callable(getattr(type(module), name, None)) for name in vars(module))


def described(value: Any) -> Any:
    """A value as nested tuples whose ``repr`` is the same in every process.

    Raises:
        UnknownError: it holds something else than numbers, names, data classes, and classes and functions of this
            package.
    """
    if isinstance(value, (type, FunctionType)):
        if value.__module__.partition(".")[0] not in ("esper_masks", "builtins", "torch") or "<" in value.__qualname__:
            raise UnknownError(f"{value.__module__}.{value.__qualname__}")
        return value.__module__, value.__qualname__
    if isinstance(value, PLAIN):
        return type(value).__name__, int(value) if isinstance(value, int) else value
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *map(described, value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, *sorted((described(part) for part in value), key=repr)
    if isinstance(value, Mapping):
        return type(value).__name__, *sorted(((described(k), described(v)) for k, v in value.items()), key=repr)
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, part.name) for part in dataclasses.fields(value) if part.compare]
        return described(type(value)), *map(described, parts)
    raise UnknownError(type(value).__qualname__)


class Kept(NamedTuple):
    """Compiled code of another process."""

    code: Ahead
    sizes: Any  # of the arguments that it is for
    seen: bytes  # see ``tell_seen``


def read(what: str, function: Any) -> Kept | None:
    """Compiled code that was kept; None if there is none that can be used.

    Args:
        what: its key, a text.
        function: what would be compiled.
    """
    folder = _folder()
    if folder is None:
        return None
    file = folder
    try:
        file = folder / _name(what)
        sizes, content = pickle.loads(_content(file))
        code, seen = revive(content, function, lambda digest: _library(folder, digest))
        return Kept(code, sizes, seen)
    except FileNotFoundError:
        if not file.exists() and any(folder.glob(f"{_digest(what)}-*.graph")):  # else its library has made room
            LOG.info("the code kept in %s is of another version of this package or torch, or processor", folder)
    except Exception as error:  # whatever is in the file
        if file != folder:
            _discard(file)
        say(f"compiled code in {file} cannot be loaded, and is built again: {error}")
    return None


def write(whats: Sequence[str], function: Any, made: Any, sizes: Any) -> None:
    """Keep compiled code for other processes, if it can be kept.

    Args:
        whats: its keys.
        function: what was compiled.
        made: of ``compile_ahead``.
        sizes: of the arguments that it is for.
    """
    folder = _folder()
    if folder is None:
        return
    try:
        names, form = [_name(what) for what in whats], kept_form(made, function)
    except Exception as error:  # of a torch that has it otherwise
        say(f"compiled code is not kept for the next process: {type(error).__name__}: {error}")
        return
    if form is None:
        LOG.info("compiled code of this call is not kept for the next process")
        return
    libraries, content = form[1], pickle.dumps((sizes, form[0]))
    try:
        for digest, library in libraries.items():
            if not (folder / f"{digest}.so").exists():  # else it may be in use, and nothing is to be written to it
                write_file(folder / f"{digest}.so", library, private=True)
        for name in names:
            write_file(folder / name, b"%s\n%s" % (_digest_of(content), content), private=True)
        _make_room(folder)
    except OSError as error:  # of any file: the same words for all of them, so that they are said once
        say(f"compiled code is not kept for the next process: {folder}: {error.strerror}")


@cache
def say(line: str) -> None:
    """Warn, once; no more than that, even where warnings are errors."""
    try:
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        LOG.warning(line)


def is_on() -> bool:
    """Whether there is a folder to use. Says, once, why there is none."""
    return _folder() is not None and can_revive() and _sources() != NO_SOURCES


def contents() -> tuple[Path | None, int, int]:
    """The folder, how many files are in it, and how many bytes they have."""
    folder = _folder()
    files = [] if folder is None else _files(folder)
    return folder, len(files), sum(size for _, size, _ in files)


def _folder() -> Path | None:
    said = os.environ.get(VARIABLE, "")
    if said.lower() == "off":
        return None
    home = os.environ.get("XDG_CACHE_HOME", "")
    home = home if os.path.isabs(home) else "~/.cache"  # others are to be ignored
    folder = Path(os.path.expanduser(said or os.path.join(home, "esper_masks")))
    try:
        if str(folder).startswith("~"):
            raise FileNotFoundError("there is no home")
        named, folder = (
            folder.absolute(),
            folder.resolve(),
        )  # what is checked is what is used, whoever may change a link to it
        for parent in (*reversed(folder.parents), folder):  # no parent is made by the umask
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        if reason := _unsafe(os.stat(folder)):
            raise PermissionError(f"{folder} {reason}")
        for parent in (*named.parents, *folder.parents):
            if reason := _unsafe_around(os.stat(parent)):
                raise PermissionError(f"{parent} {reason}")
    except OSError as error:
        say(f"compiled code is not kept for the next process: {error}; {VARIABLE} names another folder, or is off")
        return None
    return folder


def _unsafe(there: os.stat_result) -> str:
    """Why what lies there is not to be run; "" if it may be."""
    if not hasattr(os, "geteuid"):  # a folder of the user's own is closed to others there
        return ""
    if there.st_uid != os.geteuid():
        return "belongs to another user"
    return "can be written by other users" * bool(there.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _unsafe_around(there: os.stat_result) -> str:
    """Why what lies in such a folder may be replaced by others; "" if it may not be."""
    if not hasattr(os, "geteuid"):
        return ""
    if there.st_uid not in (os.geteuid(), 0, os.stat("/").st_uid):  # the system's own, by whichever number
        return "belongs to another user"
    writable = there.st_mode & (stat.S_IWOTH if _is_own_group(there.st_gid) else stat.S_IWOTH | stat.S_IWGRP)
    return "can be written by other users" * bool(writable and not there.st_mode & stat.S_ISVTX)


@cache
def _is_own_group(group: int) -> bool:
    """Whether nobody else is in a group, as where each user has one of the same name."""
    import grp
    import pwd

    with suppress(KeyError):
        user = pwd.getpwuid(os.geteuid())
        return user.pw_gid == group and user.pw_name == grp.getgrgid(group).gr_name and not grp.getgrgid(group).gr_mem
    return False


def _content(file: Path) -> bytes:
    """What a file holds.

    Raises:
        OSError, ValueError: it cannot be read, is not ours, or is not what was written.
    """
    with open(file, "rb") as stream:
        if reason := _unsafe(os.fstat(stream.fileno())):
            raise PermissionError(f"it {reason}")
        digest, _, content = stream.read().partition(b"\n")
    if digest != _digest_of(content):
        raise ValueError("it is damaged")
    with suppress(OSError):
        os.utime(file)  # of the last use
    return content


def _library(folder: Path, digest: str) -> Path:
    file = folder / f"{digest}.so"
    with open(file, "rb") as stream:
        reason = _unsafe(os.fstat(stream.fileno()))
        if reason or hashlib.sha256(stream.read()).hexdigest() != digest:
            _discard(file)
            raise ValueError(f"{file.name} {reason or 'is damaged'}")
    with suppress(OSError):
        os.utime(file)
    return file


def _discard(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """Time of the last use, bytes and name of each file; the oldest first."""
    files = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process makes room, too
            if file.suffix in SUFFIXES:
                there = file.stat()
                files.append((there.st_mtime, there.st_size, file))
    return sorted(files)


def _make_room(folder: Path) -> None:
    files = _files(folder)
    over = sum(size for _, size, _ in files) - LIMIT
    for _, size, file in files:
        if over <= 0:
            break
        _discard(file)
        over -= size


def _name(what: str) -> str:
    return f"{_digest(what)}-{_digest(_where())}.graph"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _digest_of(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _where() -> str:
    """All but the arguments and the module that compiled code depends on."""
    of_torch = torch.__version__, torch.version.git_version, changed_settings()
    of_user = [(k, v) for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS) and k not in SPEED]
    return repr((_sources(), sys.version, of_torch, of_user, _processor()))


@cache
def _sources() -> str:
    """Digest of this package's own code."""
    package = Path(__file__).parent.parent
    files = sorted(file for file in package.rglob("*.py") if not file.name.startswith("."))
    try:
        changed = any(file.stat().st_ctime > IMPORTED for file in files)  # what runs may be older than they are
        return NO_SOURCES if changed else hashlib.sha256(b"".join(_told(package, files))).hexdigest()
    except OSError:  # the package is being replaced
        return NO_SOURCES


def _told(folder: Path, files: Iterable[Path]) -> Iterable[bytes]:
    for file in files:
        content = file.read_bytes()
        yield f"{file.relative_to(folder)} {len(content)}\n".encode() + content


@cache
def _processor() -> str:
    """What the compiler builds for."""
    facts: Callable[[], str] = torch.backends.cpu.get_cpu_capability
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {facts()} {' '.join(sorted(line.split()))}"
    return f"{platform.machine()} {facts()} {platform.processor()}"
