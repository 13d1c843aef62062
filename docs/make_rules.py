"""Write the tables of the shipped rule sets into ``docs/rules.md``: ``python docs/make_rules.py``."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import esper_masks as em
from esper_masks.inspection.describe import sentences

PAGE = Path(__file__).resolve().with_name("rules.md")
PART = re.compile(r"(<!-- rules: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NEVER = "·"


def main() -> int:
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written to docs/{PAGE.name}")
    return 0


def with_tables(page: str) -> str:
    """The page with the tables that its marks ask for."""
    return PART.sub(lambda part: f"{part[1]}\n{tables(em.ruleset(part[2]))}\n{part[3]}", page)


def tables(rules: em.MaskRules) -> str:
    """What each op does in each stage, what else it needs, the heads, and the switches."""
    return "\n".join([*stage_table(rules), "", *op_table(rules), "", *head_table(rules), *switches(rules)]) + "\n"


def table(*rows: list[str]) -> Iterator[str]:
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in body)


def stage_table(rules: em.MaskRules) -> Iterator[str]:
    """A row a stage: where an op takes a seed from there, ``stays`` where it acts without moving it."""
    rows = [
        [f"{stage.name} {int(stage)}", *(cell(rules, op, stage) for op in rules.op_rules)] for stage in rules.stages
    ]
    return table(["stage", *(f"{op.name} {int(op.id)}" for op in rules.op_rules)], *rows)


def cell(rules: em.MaskRules, op: em.Op, stage: int) -> str:
    if op.always:
        return "always"
    if stage not in rules.legal_stages(op.id):
        return NEVER
    target = rules.edges(op.id).get(stage)
    return "stays" if target is None else f"→ {target.name}"


def op_table(rules: em.MaskRules) -> Iterator[str]:
    rows = [[op.name, "; ".join(sentences(op)) or "nothing", ", ".join(op.uses) or "none"] for op in rules.op_rules]
    return table(["op", "needs, beside its stage", "heads that it uses"], *rows)


def head_table(rules: em.MaskRules) -> Iterator[str]:
    rows = []
    for head in rules.heads:
        choices = {"slot": rules.slot_ids, "op": rules.op_names}.get(head.name, head.choices)
        canonical = "" if head.name == "op" else head.canonical or choices[0]
        rows.append([f"{head.name} ({len(choices)})", ", ".join(choices), "; ".join(limits(head)) or "all", canonical])
    return table(["head", "choices", "mask", "when ignored"], *rows)


def limits(head: em.Head) -> Iterator[str]:
    if head.name == "slot":
        yield "enabled slots"
    elif head.name == "op":
        yield "legal in some slot"
    elif isinstance(head.legal, Mapping):
        yield from (f"{head.switch}={value}: {', '.join(choices)}" for value, choices in head.legal.items())
    elif head.legal is not None:
        yield f"{', '.join(head.legal)}"
    if head.closed is not None:
        yield f"{', '.join(head.closed)} alone unless {' or '.join(op.name for op in head.opened_by)} is legal"
    yield from (f"under {op.name}: {', '.join(choices)}" for op, choices in head.by_op.items())


def switches(rules: em.MaskRules) -> Iterator[str]:
    if rules.switches:
        yield ""
        yield from table(
            ["switch", "values, the default first"],
            *([name, ", ".join(map(str, values))] for name, values in rules.switches.items()),
        )


if __name__ == "__main__":
    sys.exit(main())
