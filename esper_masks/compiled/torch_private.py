"""What this package uses of torch that is not public, and what it does with a torch that lacks it.

No other module but ``torch_kept`` names anything of torch that begins with an underscore, but for
``torch.utils._pytree`` and ``torch.utils._python_dispatch``, which torch's own documentation names, and for what
torch's classes offer to their subclasses: ``Module._apply`` and ``Distribution._extended_shape``. Where a name is
missing, something slower or less is done instead, and one warning says what is lost:

    to compile ahead        plain ``torch.compile``, whose checks take some tens of microseconds a call
    what transforms and     plain ``torch.compile``, too, which looks for them itself
    modes are active
    which tensors are like  each call is looked up again, which takes as long
    others
    copies of several       one after another, a microsecond longer
    tensors in one call
    options of a compiler   its own
    what it does in vain    it does, which takes a fifth of a first call
    exports in a graph      its gradient keeps what it could compute again, which takes twice the time
    ``vmap`` in a raise     ``validate="raise"`` under ``vmap`` ends in torch's error for reading a value there
    transforms in eager     whole actions are computed as under a transform, in eager code at several times the time
    code
    tables that are first   torch's error; use the layout once before the transform
    made under a transform
    assertions on devices   ``validate="raise"`` in compiled code is as ``"flag"``
    to keep code in files   each process compiles again
    to write packages       an error
"""

import pickle
import random
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPILING = (
    "_dynamo.convert_frame.compile_lock",
    "_dynamo.eval_frame._stance.stance",
    "_functorch.config.enable_autograd_cache",
    "_inductor.config.fx_graph_cache",
    "_inductor.config.freezing",
)
MODES = ("_C._get_function_stack_at", "_C._len_torch_function_stack", "_C._len_torch_dispatch_stack")
LEVELS = ("_C._functorch.peek_interpreter_stack", "autograd.forward_ad._current_level")
WATCHING = (*MODES, *LEVELS, "utils._device.DeviceContext")
BATCHING = (
    "_C._functorch.is_batchedtensor",
    "_C._functorch.is_gradtrackingtensor",
    "_C._functorch.get_unwrapped",
    "_C._functorch.peek_interpreter_stack",
    "_C._functorch.CInterpreter",
    "_functorch.pyfunctorch.coerce_cinterpreter",
)
TRANSFORMS = (*LEVELS, "_C._vmapmode_increment_nesting", "_C._vmapmode_decrement_nesting")
OUTSIDE = ("_C._functorch.peek_interpreter_stack", "_functorch.pyfunctorch.temporarily_clear_interpreter_stack")
EXPORTS = "compiler._is_exporting_flag"
ALIKE = "_C._dynamo.guards.TensorGuards"
COPYING = "_foreach_copy_"
EXPORTING = "_inductor.aoti_compile_and_package"
SWITCH = "_dynamo.config.enable_aot_compile"
DTYPE_RULES = "_inductor.dtype_propagation.DtypePropagationOpsHandler._instance"
INSTRUCTION_SETS = (
    "_inductor.cpu_vec_isa.VecAVX512.__bool__.cache_clear",
    "_inductor.cpu_vec_isa.VecISA._avx_code",
    "_inductor.cpu_vec_isa.VecISA.check_build",
    "_inductor.cpu_vec_isa.valid_vec_isa_list.cache_info",
)

LONGER = "a first call of compiled code takes a fifth longer"
SLOWER = "a call of compiled code takes some tens of microseconds longer"

ABSENT: set[str] = set()  # names that this torch has and is to be taken to lack: for tests of what is done then


class Ahead(NamedTuple):
    """Code that was compiled before its first call."""

    fits: Callable[..., bool]  # whether it serves such arguments
    call: Callable[..., Any]
    made: Any = None  # what ``kept_form`` takes


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
EACH_TRANSFORMED = "whole actions in eager code are computed as under a transform, at several times the time"
EXPORT_UNSEEN = "the gradient of whole actions in a graph of your own takes twice the time"
UNASSERTED = "validate='raise' in compiled code asserts nothing, as 'flag'"


@dataclass
class Known:
    """What traced code asks of this torch: looked up once, before any trace, because no compiler traces the looking."""

    vmap: bool
    exports: bool
    assertions: bool
    copies: bool
    transforms: bool


KNOWN = Known(
    vmap=has(BATCHING, VMAP_UNSEEN),
    exports=has((EXPORTS,), EXPORT_UNSEEN),
    assertions=has(("_assert_async",), UNASSERTED),
    copies=not lacks(COPYING),
    transforms=has(TRANSFORMS, EACH_TRANSFORMED),
)


# -- compiling --------------------------------------------------------------------------------------------------------


@cache
def compiles_ahead() -> bool:
    """Whether compiled code can be chosen, and called, without torch's own checks of each call."""
    return has(COMPILING + WATCHING, SLOWER)


def has_begun() -> bool:
    """Whether this process has imported torch's compiler, which takes a second or two."""
    return "torch._dynamo" in sys.modules


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


@contextmanager
def brief(plain: bool) -> Iterator[None]:
    """Let torch's compiler leave out what it does in vain, a fifth of a first call; in one thread at a time.

    For each op of a graph it makes its table of all ops again. And of each set of instructions beyond AVX-512 that the
    processor has (bf16, VNNI, AMX) it builds and loads a program to see whether it can. What it found without them is
    forgotten afterwards, for whoever compiles something else.

    Args:
        plain: whether nothing here may multiply matrices, which is what these instructions are for.
    """
    with ExitStack() as stack:
        stack.enter_context(compile_lock())
        if has((DTYPE_RULES,), LONGER):
            rules = torch._inductor.dtype_propagation.DtypePropagationOpsHandler
            stack.enter_context(_in_place_of(rules, "__init__", _once(rules.__init__)))
        if plain and has(INSTRUCTION_SETS, LONGER):
            sets = torch._inductor.cpu_vec_isa
            if not sets.valid_vec_isa_list.cache_info().currsize:  # else it is known already
                check, wide = sets.VecISA.check_build, sets.VecAVX512
                stack.callback(_forget, sets)
                own = _in_place_of(wide, "check_build", lambda own, code: code == own._avx_code and check(own, code))
                stack.enter_context(own)
        yield


@contextmanager
def _in_place_of(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _once(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """A function that is called for the first of all objects, which is the only one."""
    done = False

    def call(self: Any) -> None:
        nonlocal done
        if not done:
            function(self)
            done = True

    return call


def _forget(sets: Any) -> None:
    """What is known of the processor."""
    sets.valid_vec_isa_list.cache_clear()
    for kind in vars(sets).values():
        if isinstance(kind, type) and issubclass(kind, sets.VecAVX512):
            for known in vars(kind).values():
                if hasattr(known, "cache_clear"):
                    known.cache_clear()


def compile_ahead(call: Any, arguments: Any, keep: bool = False) -> Ahead | None:
    """Such a function compiled for some arguments; None where this torch gives something that cannot be chosen.

    Not from torch's cache of whole calls, which once gave a graph for 64 rows where 1,024 came. What is to be kept must
    be written to that cache; it is written under a tag of its own, under which nothing is ever found.
    """
    if keep:
        drawn = random.getstate()  # torch draws from it where it finds no key for what it writes
        try:
            with (
                torch._functorch.config.patch(enable_autograd_cache=True),
                import_module("torch.compiler.config").patch(cache_key_tag=secrets.token_hex()),
            ):
                return _ahead(call.aot_compile(arguments))
        except Exception as error:  # it may be of the keeping
            if isinstance(error, compile_error()):
                raise
        finally:
            random.setstate(drawn)
    try:
        try:
            with torch._functorch.config.patch(enable_autograd_cache=False):
                made = call.aot_compile(arguments)
        except RuntimeError as error:
            if "SerializableCallable" not in str(error):
                raise
            made = call.aot_compile(arguments)  # a compiler other than torch's own keeps nothing else
    except Exception as error:
        local = isinstance(error, AttributeError | pickle.PicklingError) and "pickle" in str(error)
        unwritten = local or type(error).__name__ == "PackageError"
        if not unwritten and "expected OutputCode" not in str(error):
            raise
        # what torch cannot write to a file: much with 2.11, and what depends on a class that a function has made
        warn_lost(("compile().aot_compile() of such code",), SLOWER)
        return None
    return _ahead(made)


def _ahead(made: Any) -> Ahead | None:
    if not (hasattr(made, "guard_check") and hasattr(made, "fn")):
        warn_lost(("compile().aot_compile().guard_check", "compile().aot_compile().fn"), SLOWER)
        return None
    return Ahead(made.guard_check, made.fn, made)


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of torch's compiler that it has; ``guard_filter_fn``, which is of another part of torch, too."""
    if lacks("_inductor.list_options"):
        return dict(options)
    known = {"guard_filter_fn", *(name.replace("-", "_") for name in torch._inductor.list_options())}
    missing = tuple(f"_inductor.config.{name}" for name in options if name not in known)
    if missing:
        warn_lost(missing, "compiled code may be slower, and differ from eager code in the last bits")
    return {name: value for name, value in options.items() if name in known}


def compile_error(name: str = "TorchDynamoException") -> Any:
    """The class of what goes wrong while torch compiles, or one below it; ``()``, no error, where it has no such class.

    ``BackendCompilerFailed`` is of what goes wrong while what was traced is built.
    """
    return () if lacks(f"_dynamo.exc.{name}") else getattr(torch._dynamo.exc, name)


@cache
def has_compiler() -> bool:
    """Whether code for a CPU can be built on this machine; where torch cannot tell, it ends in torch's error."""
    if lacks("_inductor.cpp_builder.get_cpp_compiler"):
        return True
    try:
        torch._inductor.cpp_builder.get_cpp_compiler()
    except Exception as error:
        return type(error).__name__ != "InvalidCxxCompiler"
    return True


def write_package(module: torch.nn.Module, arguments: Sequence[Tensor], file: Path, options: Mapping[str, Any]) -> None:
    """Write a module as an AOTInductor package.

    Args:
        module: of tensors alone.
        arguments: an example, of two rows or more; the package takes any number from 1 on.
        file: its name ends in ``.pt2``.
        options: of torch's compiler.

    Raises:
        RuntimeError: torch cannot build it here.
    """
    if lacks(EXPORTING):
        raise RuntimeError(f"torch {torch.__version__} has no torch.{EXPORTING}, which writes packages")
    shapes = [{0: torch.export.Dim("rows", min=1)}] * len(arguments)
    options = known_options({**options, "aot_inductor.check_lowerbound": False})  # one row is no fault
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns itself
        program = torch.export.export(module, tuple(arguments), dynamic_shapes=shapes)
        with brief(plain=True):
            torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def mark_dynamic(tensor: Tensor, axis: int) -> None:
    """Tell torch's compiler that an axis has any size; without the name it learns that from the second size."""
    if not lacks("_dynamo.mark_dynamic"):
        torch._dynamo.mark_dynamic(tensor, axis)


# -- transforms and modes ---------------------------------------------------------------------------------------------


@cache
def watches() -> bool:
    """Whether transforms and modes can be seen."""
    return has(WATCHING, SLOWER)


def intercepted() -> bool:
    """Whether each op is for something else to see first, which compiled code would not ask: a transform or a mode.

    Plain ``torch.compile`` looks for them itself. Nothing here imports torch's compiler, which takes a second.
    """
    if not watches():
        return False
    frames = sys.modules.get("torch._dynamo.eval_frame")
    depth = torch._C._len_torch_function_stack()
    modes = [torch._C._get_function_stack_at(i) for i in range(depth)] if depth else ()
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(not isinstance(mode, torch.utils._device.DeviceContext) for mode in modes)  # all memory has its device
        or (frames is not None and getattr(getattr(frames, "_stance", None), "stance", "") == "force_eager")
    )


def alike(tensors: Sequence[Any]) -> Callable[..., bool] | None:
    """A check of as many tensors: class, dtype, device, sizes, strides, whether a gradient is wanted, and what of torch
    sees their ops first (inference mode, autocast, transforms; not modes of functions) are as they are here and now.

    None where torch cannot tell: some are of another class, or one of them stands there twice.
    """
    if any(type(tensor) is not Tensor for tensor in tensors) or not has((ALIKE,), SLOWER):
        return None
    sizes: list[Any] = [list(tensor.shape) for tensor in tensors]
    strides: list[Any] = [list(tensor.stride()) for tensor in tensors]
    guards = torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    fits: Callable[..., bool] = guards.check
    return fits if fits(*tensors) else None


def copy_all(places: list[Tensor], values: list[Tensor]) -> None:
    """Copy each value to its place."""
    if KNOWN.copies:
        torch._foreach_copy_(places, values)
    else:
        for place, value in zip(places, values):
            place.copy_(value)


def transformed() -> bool:
    """Whether a transform, or a derivative forward, sees each op; where that cannot be seen, it is taken to be so."""
    if not KNOWN.transforms:
        return True
    torch._C._vmapmode_increment_nesting()  # of the vmap of ``is_grads_batched``, which is another
    if torch._C._vmapmode_decrement_nesting() or torch.autograd.forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def function_modes() -> int:
    """How many modes see each function of torch."""
    return torch._C._len_torch_function_stack() if watches() else 0


def outside_transforms() -> AbstractContextManager[Any]:
    """Inside, transforms such as ``vmap`` see nothing, so that what is made may outlive them.

    Without the name, what is first made under a transform ends in torch's error.
    """
    if any(map(lacks, OUTSIDE)) or torch._C._functorch.peek_interpreter_stack() is None:
        return nullcontext()
    return torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack()


def traced_export() -> bool:
    """Whether what a compiler traces here is to be exported; where that cannot be seen, it is taken to be so."""
    # torch 2.11 takes its own question for a constant, and answers that all is
    return not KNOWN.exports or torch.compiler._is_exporting_flag


def traced_transform() -> bool:
    """Whether what a compiler traces here is within a transform; where that cannot be seen, it is taken to be so."""
    # `is None` is never true of it there
    return not KNOWN.vmap or isinstance(torch._C._functorch.peek_interpreter_stack(), torch._C._functorch.CInterpreter)


def under_vmap(tensor: Tensor) -> bool:
    """Whether a tensor is batched by ``vmap``, so that nothing can be read of it."""
    if not KNOWN.vmap:
        return False
    functorch, pyfunctorch = torch._C._functorch, torch._functorch.pyfunctorch
    if torch.compiler.is_compiling():  # of these, a graph knows two: batched here, and transforms around transforms
        inner = functorch.peek_interpreter_stack()
        nested = traced_transform() and pyfunctorch.coerce_cinterpreter(inner).level() > 1
        return functorch.is_batchedtensor(tensor) or nested
    while functorch.is_gradtrackingtensor(tensor):  # vmap of grad
        tensor = functorch.get_unwrapped(tensor)
    return functorch.is_batchedtensor(tensor)


# -- assertions -------------------------------------------------------------------------------------------------------


def assert_on_device(holds: Tensor, message: str) -> None:
    """Fail, with no host read, unless a bool tensor is True."""
    if KNOWN.assertions:
        torch._assert_async(holds, message)
