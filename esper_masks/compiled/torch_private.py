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
    transforms in eager     whole actions are computed as under a transform, in eager code at several times the time
    code
    tables that are first   torch's error; use the layout once before the transform
    made under a transform
    assertions on devices   ``validate="raise"`` in compiled code is as ``"flag"``
    to keep code in files   each process compiles again
    to write packages       an error
"""

import ast
import hashlib
import os
import pickle
import random
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.compiled.bytecode import Later, class_alone, plain_code, whole_code

COMPILING = (
    "_dynamo.convert_frame.compile_lock",
    "_dynamo.eval_frame._stance.stance",
    "_functorch.config.enable_autograd_cache",
    "_inductor.config.fx_graph_cache",
    "_inductor.config.freezing",
)
KEEPING = (
    "_dynamo.package.load_guards_state",
    "_dynamo.pgo.get_code_state",
    "_dynamo.pgo.CodeId.make",
    "_functorch._aot_autograd.aot_autograd_result.deserialize_bundled_cache_entry",
    "_inductor.codecache.PyCodeCache.modules",
    "compiler.config.cache_key_tag",
)
REVIVING = (
    "_C._autograd._top_saved_tensors_default_hooks",
    "_C._dynamo.guards._empty_strided_cpu",
    "_C._dynamo.guards._reinterpret_tensor",
    "_C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr",
    "utils._config_module._UNSET_SENTINEL",
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
EXPORTING = "_inductor.aoti_compile_and_package"
SWITCH = "_dynamo.config.enable_aot_compile"

UNKEPT = "compiled code is not kept for the next process"
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
UNASSERTED = "validate='raise' in compiled code asserts nothing, as 'flag'"


@dataclass
class Known:
    """What traced code asks of this torch: looked up once, before any trace, because no compiler traces the looking."""

    vmap: bool
    assertions: bool
    transforms: bool


KNOWN = Known(has(BATCHING, VMAP_UNSEEN), has(("_assert_async",), UNASSERTED), has(TRANSFORMS, EACH_TRANSFORMED))


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
        torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def mark_dynamic(tensor: Tensor, axis: int) -> None:
    """Tell torch's compiler that an axis has any size; without the name it learns that from the second size."""
    if not lacks("_dynamo.mark_dynamic"):
        torch._dynamo.mark_dynamic(tensor, axis)


# -- keeping ----------------------------------------------------------------------------------------------------------
#
# What ``aot_compile`` gives, in a form that a later process loads without tracing and without a compiler:
#
#     bytecode   of torch: takes the arguments apart, calls the graph, puts its results together. Python code.
#     graph      of the compiler: a class of Python that allocates memory and calls kernels. Source without its imports,
#                which would take a second; what it needs of torch is given to it.
#     kernels    libraries, by the SHA-256 of their content
#     guards     what still has to hold of arguments of the same signature: sizes, strides and numbers
#     wrapper    of a graph with a gradient: torch's own, pickled, which imports torch's compiler. A graph without a
#                gradient that writes to none of its arguments, and whose results share no memory with them, needs none.
#     seen       which sizes torch has seen, because it makes an axis dynamic whose size has changed


@dataclass
class KeptGraph:
    """A graph of the compiler. In torch's wrapper it stands where torch has a graph of its own."""

    source: str
    kernels: dict[str, str]  # name in the source -> SHA-256 of a library
    constants: dict[str, Any]
    backward_state_indices: Sequence[int] = ()  # see torch's ``GenericCompiledBackward``
    num_symints_saved_for_bw_: int | None = None  # None: not a backward graph
    library: Callable[[str], Path] | None = field(default=None, repr=False)  # SHA-256 -> where it lies

    def load(self, example_inputs: Any = None) -> Callable[[list[Any]], Any]:
        """The graph, as a function of a list, which it empties."""
        assert self.library is not None
        found = {name: _kernel(self.library(digest)) for name, digest in self.kernels.items()}
        names: dict[str, Any] = {**_given_to_graphs(), **found, **self.constants}
        exec(self.source, names)
        graph: Any = names["Runner"](partitions=[])

        def call(arguments: list[Any]) -> Any:
            return graph.call(arguments)

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    def post_compile(self, result: Any, fx_config: Any) -> Any:
        if self.num_symints_saved_for_bw_ is None:
            return result
        disable: Callable[..., Any] = torch.compiler.disable
        return disable(result, reason="do not trace a generated backward pass")


OF_BYTECODE: dict[str, Any] = {  # what it uses of torch._dynamo.utils, whose import takes a second
    "record_pregraph_bytecode_enter": nullcontext,  # they tell a profiler what runs
    "record_pregraph_bytecode_exit": id,
    "call_size": Tensor.size,
    "call_stride": Tensor.stride,
    "call_storage_offset": Tensor.storage_offset,
}


@cache
def can_keep() -> bool:
    """Whether compiled code can be kept for other processes."""
    return has(KEEPING, UNKEPT)


@cache
def can_revive() -> bool:
    """Whether compiled code that was kept can be used. To find out imports nothing."""
    return has(REVIVING, UNKEPT)


def kept_form(made: Any, function: Any) -> tuple[bytes, dict[str, bytes]] | None:
    """Compiled code as bytes, and its libraries by their SHA-256; None where it holds what cannot be kept.

    Args:
        made: of ``compile_ahead``.
        function: what was compiled.
    """
    artifacts = made._artifacts
    env, entry = artifacts.runtime_env, artifacts.compiled_fn.compiled_fn.serialize()
    code = plain_code(env.bytecode)
    if env.used_globals or env.argdefs or env.kwdefaults or code is None or entry is None:
        return None
    libraries: dict[str, bytes] = {}
    forward = _kept_graph(entry.compiled_fw.result, libraries)
    backward = None if entry.compiled_bw is None else _kept_graph(entry.compiled_bw.result, libraries)
    guards = _guards_of(artifacts.guards_state)
    if forward is None or (backward is None) != (entry.compiled_bw is None) or guards is None:
        return None
    wrapper = None
    if not _needs_no_wrapper(entry):
        if backward is not None:
            backward.backward_state_indices = entry.compiled_bw.backward_state_indices
            backward.num_symints_saved_for_bw_ = entry.compiled_bw.num_symints_saved_for_bw_
        entry.compiled_fw, entry.compiled_bw = forward, backward
        entry.aot_joint_graph_str = entry.aot_forward_graph_str = entry.aot_backward_graph_str = None
        wrapper = pickle.dumps(entry)
    id_ = _code_id(function)
    parts = {
        "code": code,
        "name": artifacts.backend_id,
        "imports": env.import_sources,
        "guards": guards,
        "seen": pickle.dumps(dict(torch._dynamo.pgo.get_code_state()[id_].automatic_dynamic)),
        "graph": forward if wrapper is None else None,
        "wrapper": wrapper,
    }
    return pickle.dumps(parts), libraries


def revive(content: bytes, function: Any, library: Callable[[str], Path]) -> tuple[Ahead, bytes]:
    """Compiled code of such bytes, and which sizes were seen. It is as safe to read as the place that they come from.

    Args:
        content: of ``kept_form``.
        function: what would be compiled.
        library: where the library of a SHA-256 lies.
    """
    parts = pickle.loads(content)
    if parts["wrapper"] is None:
        parts["graph"].library = library
        graph = parts["graph"].load()

        def run(*arguments: Any) -> Any:
            return graph(list(arguments))
    else:
        results = import_module("torch._dynamo") and import_module("torch._functorch._aot_autograd.aot_autograd_result")
        entry = pickle.loads(parts["wrapper"])
        for kept in filter(None, (entry.compiled_fw, entry.compiled_bw)):
            kept.library = library
        run = results.deserialize_bundled_cache_entry(entry)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    known = {"torch._dynamo.utils": OF_BYTECODE}
    imports = {alias: Later(name, known.get(name, {})) for alias, name in parts["imports"].items()}
    code = whole_code(*parts["code"])
    names = {**imports, **function.__globals__, parts["name"]: run}
    call = FunctionType(code, names, closure=tuple(cells[name] for name in code.co_freevars))
    guards = compile(" and ".join(f"({guard})" for guard in ("True", *parts["guards"])), "<guards>", "eval")

    def fits(crossed: Any, out: Any) -> bool:
        return bool(eval(guards, {"L": {"crossed": crossed, "out": out}}))

    return Ahead(fits, call), parts["seen"]


def _code_id(function: Any) -> Any:
    """What torch knows the sizes of a function's arguments by."""
    make: Any = torch._dynamo.pgo.CodeId.make
    several = len(signature(make).parameters) > 1  # torch 2.11 tells functions apart by their code alone
    return make(function.__code__, function.__closure__) if several else make(function.__code__)


def tell_seen(function: Any, seen: bytes) -> None:
    """Tell torch which sizes a revived graph was made for, before another graph is made of the same function."""
    id_ = _code_id(function)
    state = torch._dynamo.pgo.get_code_state()[id_].automatic_dynamic
    for name, entry in pickle.loads(seen).items():
        state[name] |= entry


def saves_plainly() -> bool:
    """Whether nothing is done to what is saved for a gradient, which a graph would do itself."""
    return can_revive() and torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def changed_settings() -> list[str]:
    """Torch's own settings of its compiler that differ from their defaults; none where it has not been imported."""
    unset, changed = torch.utils._config_module._UNSET_SENTINEL, []
    for part in ("_inductor", "_functorch", "_dynamo", "compiler"):
        module: Any = sys.modules.get(f"torch.{part}.config")
        for name, entry in () if module is None else sorted(module._config.items()):
            value = entry.user_override  # torch 2.12 has it for each thread
            value = value.get() if isinstance(value, ContextVar) else value
            usual = entry.default if entry.env_value_default is unset else entry.env_value_default
            if value is not unset and value != usual:
                changed.append(f"{part}.{name}={value!r}")
    return changed


def _kept_graph(graph: Any, libraries: dict[str, bytes]) -> KeptGraph | None:
    """A graph of the compiler for a CPU, of kernels in C++ and what ``_given_to_graphs`` has; None for others."""
    modules = torch._inductor.codecache.PyCodeCache.modules
    module = next(module for module in reversed(modules) if module.key == graph.cache_key)
    if set(graph.device_types) - {"cpu"} or graph.inputs_to_check or graph.frozen_param_names:
        return None
    source, used = class_alone(graph.source_code, "Runner")
    constants = {name: constant for name, constant in (graph.constants or {}).items() if name in used}
    kernels: dict[str, str] = {}
    for name in sorted(used - {*_given_to_graphs(), *constants}):
        kernel = getattr(module, name)
        file = getattr(getattr(kernel, "__self__", None), "__file__", None)
        if file is None or kernel.__name__ != "kernel":
            return None
        content = Path(file).read_bytes()
        kernels[name] = hashlib.sha256(content).hexdigest()
        libraries[kernels[name]] = content
    return KeptGraph(source, kernels, constants)


def _given_to_graphs() -> dict[str, Any]:
    guards: Any = torch._C._dynamo.guards
    return {
        "torch": torch,
        "aten": torch.ops.aten,
        "empty_strided_cpu": guards._empty_strided_cpu,
        "reinterpret_tensor": guards._reinterpret_tensor,
    }


def _needs_no_wrapper(entry: Any) -> bool:
    facts = entry.runtime_metadata
    return (
        entry.compiled_bw is None
        and entry.maybe_subclass_meta is None
        and not entry.indices_of_inps_to_detach
        and not any(getattr(wrapper, "needs_post_compile", True) for wrapper in entry.dispatch_wrappers)
        and not any(info.mutates_data or info.mutates_metadata for info in facts.input_info)
        and all(info.output_type.name == "non_alias" for info in facts.output_info)
        and not (facts.num_intermediate_bases or facts.tokens or facts.num_graphsafe_rng_states)
        and not facts.is_rng_op_functionalized
        and facts.grad_enabled_mutation is None
    )


def _guards_of(state: bytes) -> list[str] | None:
    """What has to hold of arguments, as Python: sizes and strides that are constant, and what relates the others.

    None if that has other names than those of the arguments.
    """
    loaded = torch._dynamo.package.load_guards_state(state)
    made = list(loaded.shape_code_parts.python_code_parts.exprs)
    for source, known in loaded.output_graph.input_source_to_sizes_strides.items():
        if source.name.startswith(("L['crossed']", "L['out']")):
            for what in ("size", "stride"):
                made += [f"{source.name}.{what}()[{at}] == {n}" for at, n in enumerate(known[what]) if n is not None]
    names = {node.id for guard in made for node in ast.walk(ast.parse(guard)) if isinstance(node, ast.Name)}
    return made if names <= {"L"} else None


def _kernel(library: Path) -> Any:
    guards: Any = torch._C._dynamo.guards
    of_tensor = str(guards._torchinductor_pyobject_tensor_data_ptr)
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = of_tensor  # read by the library, as it is loaded
    loader = ExtensionFileLoader(f"{library.stem}.kernel", str(library))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module.kernel


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
    modes = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(not isinstance(mode, torch.utils._device.DeviceContext) for mode in modes)  # all memory has its device
        or (frames is not None and getattr(getattr(frames, "_stance", None), "stance", "") == "force_eager")
    )


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
