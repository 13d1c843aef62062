"""``esper-masks warm``: build compiled steps before a program needs them, or into a file that needs no Python."""

import argparse
import json
import os
from functools import partial

import torch

from esper_masks.cli.common import DEFAULT_RULES, RULE_NAMES, CommandError, find_rules, positive, tell
from esper_masks.compiled import kept
from esper_masks.compiled.methods import build_reason
from esper_masks.compiled.torch_private import has_compiler
from esper_masks.decision.buffer import RolloutBuffer
from esper_masks.decision.export import export_step
from esper_masks.decision.step import DecisionStep
from esper_masks.errors import SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules import MaskRules

BATCHES = 64, 65  # the second gives a graph for any number of rows from 2 on


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("rules", nargs="?", default=DEFAULT_RULES, metavar="RULES", help=f"{RULE_NAMES} (default: {DEFAULT_RULES})")
    add("--slots", type=positive, metavar="N", help="slots of each environment (default: those of the rules)")
    names = partial(str.split, sep=",")
    add("--slot-ids", type=names, metavar="A,B,...", help="their names (default: those of the rules, or slot0, slot1)")
    add("--threads", type=positive, metavar="N", help="threads of the program (default: as many as torch takes here)")
    exported = "write the decision as an AOTInductor package instead, for programs without Python; see em.export_step"
    add("--export", metavar="FILE.pt2", help=exported)
    add("--device", choices=("cpu", "cuda"), default="cpu", help="for which --export builds (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Build the compiled step of a rule set, for any number of environments from 2 on, and keep it in the folder that
    ESPER_MASKS_CACHE names (default: ~/.cache/esper_masks): decisions, decisions that are written to a buffer, and
    scores with their gradient. The first call in a process on the same machine then builds nothing.
    """
    if options.device == "cuda" and options.export is None:
        raise CommandError("--device cuda goes with --export: code for a GPU is not kept")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch finds no GPU here")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rules = find_rules(options.rules)
    engine = MaskEngine(rules, _slot_ids(rules, options.slots, options.slot_ids), device=options.device)
    return _export(engine, options) if options.export is not None else _warm(rules, engine, options)


def _export(engine: MaskEngine, options: argparse.Namespace) -> int:
    try:
        export_step(DecisionStep(engine), options.export)
    except (ValueError, RuntimeError) as error:
        raise CommandError(build_reason(error)) from error
    size, threads = os.path.getsize(options.export), torch.get_num_threads()
    if options.json:
        print(json.dumps({"file": options.export, "bytes": size, "threads": threads}))
    else:
        print(f"{options.export}: {size / 1e6:.1f} MB; for {options.device}, {threads} threads")
    return 0


def _warm(rules: MaskRules, engine: MaskEngine, options: argparse.Namespace) -> int:
    if rules.row_features:
        raise CommandError(
            f"{rules.name} reads values of environments, which only a program has: its first call builds"
        )
    if not kept.is_on():
        raise CommandError(f"there is no folder to keep code in; {kept.VARIABLE} names one")
    if (folder := kept.contents()[0]) is None or not os.access(folder, os.W_OK):
        raise CommandError(f"{folder} takes no file; {kept.VARIABLE} names another folder")
    if not has_compiler():
        raise CommandError("no C++ compiler is found; CXX names one")
    step = DecisionStep(engine)
    for batch in BATCHES:
        if not options.json:
            tell("esper-masks warm", f"{rules.name}, {len(engine.slot_ids)} slots, {batch} environments")
        _call(step, engine, batch)
    folder, files, size = kept.contents()
    if options.json:
        print(json.dumps({"folder": str(folder), "files": files, "bytes": size, "threads": torch.get_num_threads()}))
    else:
        print(f"{folder}: {files} files, {size / 1e6:.1f} MB; for {torch.get_num_threads()} threads")
    return 0


def _slot_ids(rules: MaskRules, number: int | None, names: list[str] | None) -> list[str] | None:
    if names is not None and number not in (None, len(names)):
        raise SlotStateError(f"--slot-ids has {len(names)} names for {number} slots")
    if names is not None or number in (None, len(rules.slot_ids)):
        return names
    return [f"slot{at}" for at in range(number or 0)]  # as `train` names them


def _call(step: DecisionStep, engine: MaskEngine, batch: int) -> None:
    """A program's first calls."""
    states, logits = engine.empty_slots(batch), torch.zeros(batch, sum(head.size for head in engine.layout.heads))
    leaf = logits.clone().requires_grad_()
    made = step(states, logits)
    if made.packed is None:
        masks = ActionMasks.from_words(engine.layout, made.slot_words)
    else:
        masks = ActionMasks.from_packed(engine.layout, made.packed)
    buffer = RolloutBuffer(engine, steps=1, batch=batch)
    step(states, logits, out=buffer.at(0))
    rows = buffer.minibatch(torch.arange(batch))
    for scored in (
        step.evaluate(leaf, masks, made.actions),
        step.evaluate(leaf, rows.masks, rows.actions, active=rows.active),
    ):
        torch.autograd.grad(scored.log_prob.sum(), leaf)
