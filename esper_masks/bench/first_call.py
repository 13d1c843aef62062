"""The first call of a compiled step in a process: what it takes to build its code, or to load what was kept.

``python -m esper_masks.bench.first_call '{"batch": 64, ...}'`` makes one, and prints what it took as JSON. A process of
its own has imported this package and nothing of torch's compiler, as a program has before its first call.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from esper_masks.bench import suite, ways
from esper_masks.bench.cases import COLD, Case
from esper_masks.compiled.torch_private import has_begun


def measure(case: Case, processes: int) -> list[float]:
    """Seconds that first calls took, in processes one after another. What they give is checked there, as of any row.

    Args:
        case: of "first call". Where it is ``COLD``, nothing of this package has been built on this machine, but
            something else by torch: its precompiled header lies in the folder for temporary files, whatever folder its
            compiler has. Where not, an ordinary first call in another process has left what it keeps.
        processes: how many.

    Raises:
        AssertionError: outputs that are not what they should be, or other bits than those of another process.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = [] if case.way == COLD else [_in_process(case, folder)]
        for number in range(processes):
            made.append(_in_process(case, os.path.join(folder, f"cold{number}") if case.way == COLD else folder))
    assert len({bits for _, bits in made}) == 1, "processes give other bits"
    return [seconds for seconds, _ in made[-processes:]]


def _in_process(case: Case, folder: str) -> tuple[float, str]:
    done = suite.python_in(folder, "-m", __name__, json.dumps(asdict(case)))
    if done.returncode:
        raise AssertionError(f"a first call failed: {suite.last_line(done)}")
    seconds, bits = json.loads(done.stdout.splitlines()[-1])
    return seconds, bits


def main(argument: str) -> int:
    """Make a first call, check what it gives, and print its seconds and the SHA-256 of its bits.

    Args:
        argument: the fields of the case in JSON.
    """
    case = Case(**json.loads(argument))
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    run, verify = ways.prepare(replace(case, work="decision", way="compiled"), "cpu", alike=False)
    assert not has_begun(), "torch's compiler was imported before the call"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        start = time.perf_counter()
        made = run()
        seconds = time.perf_counter() - start
    # code that was not built, and runs op by op, or that cannot be kept
    warned = [str(warning.message) for warning in said if issubclass(warning.category, RuntimeWarning)]
    assert not warned, warned[0]
    verify(made)
    digest = hashlib.sha256()
    for leaf in tree_leaves(made):
        if isinstance(leaf, Tensor):
            digest.update(leaf.detach().contiguous().numpy().tobytes())
    print(json.dumps([seconds, digest.hexdigest()]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
