"""A program that decides and scores, run in processes of its own by tests of compiled code in files.

python -m tests.compiled.process BATCH...

prints JSON: the bits of the results for each batch, what was said, and how many graphs there are in the end.
"""

import hashlib
import json
import logging
import sys
from typing import Any

import torch

import esper_masks as em
from tests.decision.inputs import graphs
from tests.own_rules import OWN

FIELDS = ("actions", "log_prob", "slot_words", "raw_entropy")


def bits(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def results(step: em.DecisionStep, batch: int) -> dict[str, Any]:
    """Bits of a decision, its scores and their gradient; whether torch's compiler was imported before the scores."""
    generator = torch.Generator().manual_seed(batch)
    logits = torch.randn(batch, 5, generator=generator)
    noise = torch.rand(batch, 2, generator=generator)
    states = torch.randint(0, 2, (2, 2, batch), generator=generator, dtype=torch.int32).movedim(-1, 0)
    made = step(states, logits, noise=noise)
    out = step(states, logits, noise=noise, out=step.allocate(batch))
    assert all(torch.equal(place.to(part.dtype), part) for place, part in zip(out[:4], made[:4]))
    imported = "torch._dynamo" in sys.modules
    leaf = logits.clone().requires_grad_()
    scored = step.evaluate(leaf, em.ActionMasks.from_words(step.layout, made.slot_words), made.actions)
    (scored.log_prob.sum() + (scored.raw_entropy**2).sum()).backward()
    assert leaf.grad is not None
    assert torch.equal(scored.log_prob, made.log_prob)
    scores = bits(scored.log_prob, scored.raw_entropy)
    decided = bits(*(getattr(made, name) for name in FIELDS))
    return {"decided": decided, "scores": scores, "gradient": bits(leaf.grad), "imported": imported}


def main(batches: list[int]) -> None:
    built: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: built.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("esper_masks")
    log.addHandler(handler)
    log.setLevel("INFO")
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    exec(OWN, names)
    step = em.DecisionStep(em.MaskEngine(names["JOBS"]))
    made = [results(step, batch) for batch in batches]
    print(json.dumps({"results": made, "said": built, "graphs": graphs(step)}))


if __name__ == "__main__":
    main([int(batch) for batch in sys.argv[1:]])
