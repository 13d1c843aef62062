"""What this package uses of torch that is not public, and what it does with a torch that lacks it.

No other module names anything of torch that begins with an underscore, but for ``torch.utils._pytree`` and
``torch.utils._python_dispatch``, which torch's own documentation names, and for what torch's classes offer to their
subclasses: ``Module._apply`` and ``Distribution._extended_shape``. Where a name is missing, something slower or less is
done instead, and one warning says what is lost:

    to compile ahead        plain ``torch.compile``, whose checks take some tens of microseconds a call
    what transforms and     plain ``torch.compile``, too, which looks for them itself
    modes are active
    options of a compiler   its own
    ``vmap`` in a raise     ``validate="raise"`` under ``vmap`` ends in torch's error for reading a value there
    tables that are first   torch's error; use the layout once before the transform
    made under a transform
    assertions on devices   ``validate="raise"`` in compiled code is as ``"flag"``
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPILING = (
    "_dynamo.convert_frame.compile_lock",
    "_functorch.config.enable_autograd_cache",
    "_inductor.config.fx_graph_cache",
    "_inductor.config.freezing",
)
WATCHING = (
    "_C._get_function_stack_at",
    "_C._len_torch_function_stack",
    "_C._len_torch_dispatch_stack",
    "_C._functorch.peek_interpreter_stack",
    "autograd.forward_ad._current_level",
    "utils._device.DeviceContext",
    "_dynamo.eval_frame._stance.stance",
)
BATCHING = (
    "_C._functorch.is_batchedtensor",
    "_C._functorch.is_gradtrackingtensor",
    "_C._functorch.get_unwrapped",
    "_C._functorch.peek_interpreter_stack",
    "_C._functorch.CInterpreter",
    "_functorch.pyfunctorch.coerce_cinterpreter",
)
OUTSIDE = ("_C._functorch.peek_interpreter_stack", "_functorch.pyfunctorch.temporarily_clear_interpreter_stack")
SWITCH = "_dynamo.config.enable_aot_compile"

SLOWER = "a call of compiled code takes some tens of microseconds longer"

ABSENT: set[str] = set()  # names that this torch has and is to be taken to lack: for tests of what is done then


class Ahead(NamedTuple):
    """Code that was compiled before its first call."""

    fits: Callable[..., bool]  # whether it serves such arguments
    call: Callable[..., Any]


def lacks(path: str) -> bool:
    """Whether this torch has no such name."""
    if path in ABSENT:
        return True
    found: Any = torch
    for part in path.split("."):
        if not hasattr(found, part):  # it may be a module that nothing has imported yet
            with suppress(ImportError, ValueError, TypeError):
                import_module(f"{getattr(found, '__name__', '')}.{part}")
        if not hasattr(found, part):
            return True
        found = getattr(found, part)
    return False


@cache
def warn_lost(names: Sequence[str], lost: str) -> None:
    """Say, once, what a torch without some names costs."""
    missing = ", ".join(f"torch.{name}" for name in names)
    warnings.warn(f"torch {torch.__version__} has no {missing}: {lost}", RuntimeWarning, stacklevel=2)


def has(names: Sequence[str], lost: str) -> bool:
    """Whether this torch has all of some names; where it does not, what is lost is said."""
    missing = tuple(name for name in names if lacks(name))
    if missing:
        warn_lost(missing, lost)
    return not missing


VMAP_UNSEEN = "validate='raise' under vmap ends in torch's error for reading a value; 'flag' works there"
UNASSERTED = "validate='raise' in compiled code asserts nothing, as 'flag'"


@dataclass
class Known:
    """What traced code asks of this torch: looked up once, before any trace, because no compiler traces the looking."""

    vmap: bool
    assertions: bool


KNOWN = Known(has(BATCHING, VMAP_UNSEEN), has(("_assert_async",), UNASSERTED))


# -- compiling --------------------------------------------------------------------------------------------------------


@cache
def compiles_ahead() -> bool:
    """Whether compiled code can be chosen, and called, without torch's own checks of each call."""
    return has(COMPILING + WATCHING, SLOWER)


def compile_lock() -> AbstractContextManager[Any]:
    """One thread at a time compiles."""
    lock: AbstractContextManager[Any] = torch._dynamo.convert_frame.compile_lock if compiles_ahead() else nullcontext()
    return lock


def compile_function(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """``torch.compile``, of what can also be compiled ahead.

    Where transforms and modes cannot be seen before, torch steps back from what it cannot compile under them.
    """
    ahead = nullcontext() if lacks(SWITCH) else torch._dynamo.config.patch(enable_aot_compile=True)  # off in torch 2.11
    with ahead:
        return torch.compile(function, fullgraph=compiles_ahead(), options=known_options(options))


def trace_function(function: Callable[..., Any]) -> Any:
    """A function as one graph that torch traces, and that nothing builds."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__code__ = call.__code__.replace()  # of its own: torch keeps eight graphs to a code object, and then refuses
    return torch.compile(call, fullgraph=True, backend="eager")


def can_compile_ahead(call: Any) -> bool:
    """Whether a function that ``torch.compile`` gave can be compiled before its first call."""
    if not compiles_ahead():
        return False
    if not hasattr(call, "aot_compile"):
        if hasattr(call, "__wrapped__"):  # else torch was told to compile nothing, and gave back the function itself
            warn_lost(("compile().aot_compile",), SLOWER)
        return False
    # what is compiled ahead may be kept by what it is made of, which torch may be told not to do
    inductor = torch._inductor.config
    return bool(inductor.fx_graph_cache and not inductor.freezing and not torch.compiler.config.force_disable_caches)


def compile_ahead(call: Any, arguments: Any) -> Ahead | None:
    """Such a function compiled for some arguments; None where this torch gives something that cannot be chosen.

    Not from torch's cache of whole calls, which once gave a graph for 64 rows where 1,024 came.
    """
    try:
        try:
            with torch._functorch.config.patch(enable_autograd_cache=False):
                made = call.aot_compile(arguments)
        except RuntimeError as error:
            if "SerializableCallable" not in str(error):
                raise
            made = call.aot_compile(arguments)  # a compiler other than torch's own keeps nothing else
    except Exception as error:
        if type(error).__name__ != "PackageError" and "expected OutputCode" not in str(error):
            raise
        warn_lost(("compile().aot_compile() of such code",), SLOWER)  # torch 2.11: what it cannot write to a file
        return None
    if not (hasattr(made, "guard_check") and hasattr(made, "fn")):
        warn_lost(("compile().aot_compile().guard_check", "compile().aot_compile().fn"), SLOWER)
        return None
    return Ahead(made.guard_check, made.fn)


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of torch's compiler that it has; ``guard_filter_fn``, which is of another part of torch, too."""
    if lacks("_inductor.list_options"):
        return dict(options)
    known = {"guard_filter_fn", *(name.replace("-", "_") for name in torch._inductor.list_options())}
    missing = tuple(f"_inductor.config.{name}" for name in options if name not in known)
    if missing:
        warn_lost(missing, "compiled code may be slower, and differ from eager code in the last bits")
    return {name: value for name, value in options.items() if name in known}


def compile_error() -> type[Exception] | tuple[()]:
    """The class of what goes wrong while torch traces; ``()``, no error, where it has no such class."""
    return () if lacks("_dynamo.exc.TorchDynamoException") else torch._dynamo.exc.TorchDynamoException


def mark_dynamic(tensor: Tensor, axis: int) -> None:
    """Tell torch's compiler that an axis has any size; without the name it learns that from the second size."""
    if not lacks("_dynamo.mark_dynamic"):
        torch._dynamo.mark_dynamic(tensor, axis)


# -- transforms and modes ---------------------------------------------------------------------------------------------


def intercepted() -> bool:
    """Whether each op is for something else to see first, which compiled code would not ask: a transform or a mode.

    Plain ``torch.compile`` looks for them itself.
    """
    if not compiles_ahead():
        return False
    modes = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(not isinstance(mode, torch.utils._device.DeviceContext) for mode in modes)  # all memory has its device
        or torch._dynamo.eval_frame._stance.stance == "force_eager"
    )


def function_modes() -> int:
    """How many modes see each function of torch."""
    return torch._C._len_torch_function_stack() if compiles_ahead() else 0


def outside_transforms() -> AbstractContextManager[Any]:
    """Inside, transforms such as ``vmap`` see nothing, so that what is made may outlive them.

    Without the name, what is first made under a transform ends in torch's error.
    """
    if any(map(lacks, OUTSIDE)) or torch._C._functorch.peek_interpreter_stack() is None:
        return nullcontext()
    return torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack()


def under_vmap(tensor: Tensor) -> bool:
    """Whether a tensor is batched by ``vmap``, so that nothing can be read of it."""
    if not KNOWN.vmap:
        return False
    functorch = torch._C._functorch
    if torch.compiler.is_compiling():  # of these, a graph knows two: batched here, and transforms around transforms
        inner = functorch.peek_interpreter_stack()
        if not isinstance(inner, functorch.CInterpreter):  # `is None` is never true of it there
            return functorch.is_batchedtensor(tensor)
        level = torch._functorch.pyfunctorch.coerce_cinterpreter(inner).level()
        return functorch.is_batchedtensor(tensor) or level > 1
    while functorch.is_gradtrackingtensor(tensor):  # vmap of grad
        tensor = functorch.get_unwrapped(tensor)
    return functorch.is_batchedtensor(tensor)


# -- assertions -------------------------------------------------------------------------------------------------------


def assert_on_device(holds: Tensor, message: str) -> None:
    """Fail, with no host read, unless a bool tensor is True."""
    if KNOWN.assertions:
        torch._assert_async(holds, message)
