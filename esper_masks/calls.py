"""Methods of a module as compiled code, and that as a CUDA graph."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

CPU_OPTIONS = {
    # one vectorized `exp` for all rows: by default the compiler leaves some to a scalar one, which rounds differently
    "cpp.enable_tiling_heuristics": False,
    # one loop over rows for all of a decision: by default it is cut into several, with what passes between in memory
    "max_fusion_size": 1 << 16,
    # sizes are looked at before, by what chooses the graph
    "size_asserts": False,
}
WARM_UP = 3  # calls before a capture

_numbers = count()


class Compiled:
    """A method of a module as compiled code: one graph for each form of its arguments, made at the first such call.

    A form is which arguments there are, bools themselves, and of tensors dtype, axes, memory layout, whether there is a
    gradient, and which sizes are 1 or 0. Other sizes have a graph of the first ones and then one for all.

    On a CPU, int32 arguments cross the border as the float32 of the same bits: for AVX2 the compiler reads integers by
    way of the stack, which takes longer than most of what is done with them.

    Args:
        module: what belongs to it, but for the values of its tensors, is constant to the graphs.
        name: the method. It takes tensors, pytrees of tensors, numbers and None; ``out`` last, and ``fused``, True in
            code that is compiled here.
    """

    def __init__(self, module: nn.Module, name: str):
        self.method = getattr(module, name)
        self.graphs: dict[Any, tuple[list[int], Callable[..., Any]]] = {}

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        key = tuple([_form(a) for a in arguments]), out is None or tuple([_form(place) for place in out])
        if key not in self.graphs:
            self.graphs[key] = self._compile(arguments)
        as_bits, graph = self.graphs[key]
        passed = list(arguments)
        for at in as_bits:
            passed[at] = passed[at].view(torch.float32)
        try:
            return graph(passed, out)
        except torch._dynamo.exc.TorchDynamoException:
            self.method(*arguments, None)  # what does not fit is named by the method itself
            raise

    def _compile(self, arguments: Sequence[Any]) -> tuple[list[int], Callable[..., Any]]:
        method = self.method
        as_bits = [
            at
            for at, a in enumerate(arguments)
            if isinstance(a, Tensor) and a.dtype == torch.int32 and a.device.type == "cpu"
        ]

        def call(arguments: list[Any], out: Any) -> Any:
            own = [a.view(torch.int32) if at in as_bits else a for at, a in enumerate(arguments)]
            return method(*own, out, fused=True)

        # with code of its own it shares no limit on graphs with other modules
        code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
        own_call = FunctionType(code, globals(), closure=call.__closure__)
        on_cpu = all(a.device.type == "cpu" for a in tree_flatten(arguments)[0] if isinstance(a, Tensor))
        options: dict[str, Any] = {**(CPU_OPTIONS if on_cpu else {}), "guard_filter_fn": _of_arguments}
        return as_bits, torch.compile(own_call, fullgraph=True, options=options)


def _form(argument: Any) -> Any:
    """What tells apart the arguments that one graph does not serve, in as little time as may be."""
    if isinstance(argument, Tensor):
        small = tuple([size if size < 2 else 2 for size in argument.shape])
        return argument.dtype, argument.is_contiguous(), argument.requires_grad, small
    if argument is None or isinstance(argument, bool):
        return argument
    if isinstance(argument, Mapping):
        return tuple([(name, _form(value)) for name, value in argument.items()])
    return type(argument)


def _of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which conditions of a graph are checked at each call: what the arguments are, and torch's modes.

    The others, some hundred on a module that does not change, take longer than deciding for a hundred rows.
    """
    return [not guard.name or re.search(r"\b(arguments|out)\b", guard.name) is not None for guard in guards]


def copy_into(places: Sequence[Tensor | None], values: Sequence[Tensor | None]) -> None:
    """Write values where there is a place for them."""
    for place, value in zip(places, values):
        if place is not None and value is not None:
            place.copy_(value)


class Graphed:
    """The same as a CUDA graph for each shape of its arguments: a call copies them, and launches nothing but the graph.

    What a call returns is overwritten by the next one of the same shape.

    Args:
        module: as of ``Compiled``.
        name: as of ``Compiled``.
    """

    def __init__(self, module: nn.Module, name: str):
        self.compiled = Compiled(module, name)
        self.graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        leaves, spec = tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        rest = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves)
        key = (spec, rest, *((t.shape, t.stride(), t.dtype) for t in tensors))
        if key not in self.graphs:
            self.graphs[key] = self._capture(tensors, rest, spec)
        made = self.graphs[key](*tensors)
        if out is None:
            return made
        copy_into(out, made)
        return None

    def _capture(self, tensors: Sequence[Tensor], rest: Sequence[Any], spec: Any) -> Callable[..., Any]:
        def call(*tensors: Tensor) -> Any:
            given = iter(tensors)
            return self.compiled(*tree_unflatten([next(given) if r is None else r[0] for r in rest], spec))

        static = tuple(t.clone() for t in tensors)
        with torch.autocast("cuda", enabled=False):  # logits are cast by the distribution, if at all
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(call, static, num_warmup_iters=WARM_UP)
        return graphed
