"""Compiled code as bytes, that a later process loads without tracing and without a compiler.

What torch's ``aot_compile`` gives becomes

    bytecode   of torch: takes the arguments apart, calls the graph, puts its results together. Python code.
    graph      of the compiler: a class of Python that allocates memory and calls kernels. Source without its imports,
               which would take a second; what it needs of torch is given to it.
    kernels    libraries, by the SHA-256 of their content
    guards     what still has to hold of arguments of the same signature: sizes, strides and numbers
    wrapper    of a graph with a gradient: torch's own, pickled, which imports torch's compiler. A graph without a
               gradient that writes to none of its arguments, and whose results share no memory with them, needs none.
    seen       which sizes torch has seen, because it makes an axis dynamic whose size has changed

Keys, files and who may write to them are of ``kept``.
"""

import ast
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from inspect import signature
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from esper_masks.compiled.bytecode import Later, class_alone, plain_code, whole_code
from esper_masks.compiled.torch_private import Ahead, has

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
UNKEPT = "compiled code is not kept for the next process"


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
        graph: Callable[[list[Any]], Any] = names["Runner"](partitions=[]).call

        def call(arguments: list[Any]) -> Any:  # takes an attribute, which a method does not
            return graph(arguments)

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    def post_compile(self, result: Any, fx_config: Any) -> Any:
        if self.num_symints_saved_for_bw_ is None:
            return result
        disable: Callable[..., Any] = torch.compiler.disable
        return disable(result, reason="do not trace a generated backward pass")


OF_BYTECODE: dict[str, Any] = {  # what it uses of torch._dynamo.utils, whose import takes a second
    "record_pregraph_bytecode_enter": tuple,  # they tell a profiler what runs
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
