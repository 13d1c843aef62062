"""The gates and guards of rules as an engine runs them: tests of numbers, each with the bits that it clears.

A *subject* is what a test can close: an op or, in a slot, a head whose choices are slots (then the slot is none of
them). Each subject has a bit, and so has each distinct set of stages that gates watch in all slots. The bits of ops
come first; what does not fit one word below its sign bit goes to further words, one more lookup each. So any number of
helper bits goes with 62 ops.

Subjects with equal parts share one step. PRUNE (bit 3) of ``esper-2026-06`` needs age >= 5 and alpha_mode HOLD,
SET_ALPHA_TARGET (bit 2) alpha_mode HOLD; the steps of each slot are

    column 1 (age)         outside 5..   clears 0b001000
    column 2 (alpha_mode)  not 0         clears 0b001100

Everything here is tuples of numbers and functions, so that a compiler sees constants. Numbers are of ``int`` itself:
torch 2.13 takes ``tensor == member`` for False where the member is one of an IntEnum.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from esper_masks.actions.layout import word_bits
from esper_masks.rules import MaskRules
from esper_masks.rules.bounds import Runs
from esper_masks.rules.gates import Env, InEnv, parts_of, parts_of_targets
from esper_masks.rules.judged import InAny, InCount, InKind, InRow, InSlot, plain_parts

Bit = tuple[int, int]  # which word, and the bit in it
Words = tuple[int, ...]  # one for each word


class SlotTest(NamedTuple):
    """Closed where a column lies outside the runs, see ``InSlot``."""

    column: int
    runs: Runs
    stage: int | None
    unless: str | None


class KindTest(NamedTuple):
    """Closed in slots that are of none of some kinds, see ``InKind``."""

    kinds: int  # number in ``Program.kinds``
    unless: str | None


class CountTest(NamedTuple):
    """Closed where the number of slots with a bit lies outside the runs, see ``InCount``."""

    bit: Bit
    others: bool
    runs: Runs
    stage: int | None
    unless: str | None
    kinds: int | None


class RowTest(NamedTuple):
    """Closed where a row lies outside the runs, see ``InRow``."""

    name: str
    runs: Runs
    unless: str | None


class EnvTest(NamedTuple):
    """Closed where ``closed(env, bit)``, see ``InEnv``; without a bit, 0."""

    closed: Callable[[Env, int], Any]
    bit: Bit | None


class AnyTest(NamedTuple):
    """Closed where each of some groups of tests has one that is closed, see ``InAny``."""

    groups: tuple[tuple[Any, ...], ...]


Test = SlotTest | KindTest | CountTest | RowTest | EnvTest | AnyTest


class Step(NamedTuple):
    """A test, and the bits that it clears in each word where it is closed."""

    test: Any
    clears: Words


class Target(NamedTuple):
    """A head whose choices are the slots that have a bit."""

    head: str
    bit: Bit
    distinct: bool


class Program(NamedTuple):
    """What an engine runs. Tests of slots are ``[..., slots]``, those of environments ``[...]``."""

    slots: tuple[Step, ...]  # of each slot by itself
    counts: tuple[Step, ...]  # of slots, once it is known which are enabled
    envs: tuple[Step, ...]  # of environments
    targets: tuple[Target, ...]
    subjects: Words  # the bits of all subjects
    stages: tuple[Words, ...]  # the words of each stage, from 0 to the highest; the last are those of no stage
    kinds: tuple[tuple[str, ...], ...]  # of which slots must be one
    rows: tuple[str, ...]  # the rows that some test reads
    limited: bool  # some op is under the seed limit
    strips: bool  # word 0 has helper bits that no test of environments clears


class _Bits:
    """Which bit each subject has, and each set of stages that gates watch: ops first, then sets, then targets."""

    def __init__(self, rules: MaskRules, watched: Iterable[frozenset[IntEnum]]):
        self.ops, self.width = len(rules.op_rules), word_bits(len(rules.op_rules))
        self.watched = {stages: self.ops + at for at, stages in enumerate(dict.fromkeys(watched))}
        first = self.ops + len(self.watched)
        self.targets = {head.name: first + at for at, head in enumerate(rules.slot_heads)}
        self.words = -(-(first + len(self.targets)) // self.width)

    def place(self, bit: int) -> Bit:
        return bit // self.width, 1 << bit % self.width

    def split(self, bits: Iterable[int]) -> Words:
        """Bits as one word after the other."""
        places = [self.place(bit) for bit in set(bits)]
        return tuple(sum(bit for at, bit in places if at == word) for word in range(self.words))


def build_program(rules: MaskRules) -> Program:
    """The program of resolved rules."""
    of_ops = list(parts_of(rules.op_rules, rules.scopes))
    of_targets = list(parts_of_targets(rules.slot_heads, rules.target_scopes))
    plain = [part for _, whole in (*of_ops, *of_targets) for part in plain_parts(whole)]
    bits = _Bits(rules, (part.watches for part in plain if isinstance(part, (InEnv, InCount)) and part.watches))
    named: list[tuple[str, ...]] = [part.kinds for part in plain if isinstance(part, InKind)]
    named += [(part.kind,) for part in plain if isinstance(part, InCount) and part.kind is not None]
    kinds = tuple(dict.fromkeys(named))
    merged: dict[Any, list[int]] = {}
    for op, part in of_ops:
        merged.setdefault(part, []).append(int(op.id))
    for head, part in of_targets:
        merged.setdefault(part, []).append(bits.targets[head.name])

    def test(part: Any) -> Test:
        if isinstance(part, InSlot):
            column = rules.feature_names.index(part.reads)
            return SlotTest(column, part.runs, _plain(part.stage), part.unless)
        if isinstance(part, InKind):
            return KindTest(kinds.index(part.kinds), part.unless)
        if isinstance(part, InRow):
            return RowTest(part.reads, part.runs, part.unless)
        if isinstance(part, InAny):
            return AnyTest(tuple(tuple(map(test, group)) for group in part.guards))
        if isinstance(part, InEnv):
            return EnvTest(part.closed, bits.place(bits.watched[part.watches]) if part.watches else None)
        kind = None if part.kind is None else kinds.index((part.kind,))
        bit = bits.place(bits.watched[part.watches])
        return CountTest(bit, part.others, part.runs, _plain(part.stage), part.unless, kind)

    steps = [Step(test(part), bits.split(closed)) for part, closed in merged.items()]
    slots, counts, envs = (
        tuple(step for step in steps if _group(step.test) == group) for group in ("slots", "counts", "envs")
    )
    subjects = bits.split([*range(bits.ops), *bits.targets.values()])
    return Program(
        slots=slots,
        counts=counts,
        envs=envs,
        targets=tuple(
            Target(head.name, bits.place(bits.targets[head.name]), head.distinct) for head in rules.slot_heads
        ),
        subjects=subjects,
        stages=tuple(map(bits.split, _bits_of_stages(rules, bits))),
        kinds=kinds,
        rows=tuple(dict.fromkeys(_rows_read(step.test for step in steps))),
        limited=any(op.seed_limit for op in rules.op_rules),
        strips=bool(bits.watched or bits.targets)
        and not (subjects[0] >> bits.ops == 0 and any(map(_always_clears, envs))),
    )


def _plain(number: int | None) -> int | None:
    return None if number is None else int(number)


def is_of_slots(test: Test) -> bool:
    """Whether a test differs from slot to slot."""
    if isinstance(test, AnyTest):
        return any(is_of_slots(part) for group in test.groups for part in group)
    if isinstance(test, CountTest):
        return test.others or test.stage is not None
    return isinstance(test, (SlotTest, KindTest))


def _group(test: Test) -> str:
    """The field of ``Program`` in which a test belongs."""
    if not is_of_slots(test):
        return "envs"
    return "slots" if isinstance(test, (SlotTest, KindTest)) else "counts"


def _always_clears(step: Step) -> bool:
    """Whether a test of environments has a result whatever it is given, unlike that of a seed limit."""
    return step.clears[0] != 0 and not (isinstance(step.test, EnvTest) and step.test.bit is None)


def _bits_of_stages(rules: MaskRules, bits: _Bits) -> list[set[int]]:
    """The bits of each stage before gates, from 0 to the highest; last those of integers that are no stage."""
    free = [int(op.id) for op in rules.op_rules if op.always or not (op.in_slot or op.disabled)]
    made = [set(free) for _ in range(max(rules.stages) + 2)]
    where: dict[int, Iterable[IntEnum]] = {int(op.id): rules.legal_stages(op.id) for op in rules.op_rules}
    where |= {bit: stages for stages, bit in bits.watched.items()}
    where |= {bit: rules.target_scopes[name].legal for name, bit in bits.targets.items()}
    for bit, stages in where.items():
        for stage in stages:
            made[stage].add(bit)
    return made


def _rows_read(tests: Iterable[Any]) -> Iterator[str]:
    for test in tests:
        if isinstance(test, AnyTest):
            for group in test.groups:
                yield from _rows_read(group)
        elif isinstance(test, RowTest):
            yield test.name
        if (unless := getattr(test, "unless", None)) is not None:
            yield unless
