"""Write the tables of committed results into README.md and the pages: ``python -m docs.make_bench``.

A table stands between ``<!-- bench: NAME -->`` and ``<!-- end -->``, with the commit that was measured below it.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mode

from benchmarks.learning import ARMS, summary
from docs.tables import ROOT, TIMES, Fields, Grid, batches, figure, found, nanoseconds, result, table
from docs.tables_of_goals import eager, first_calls, goals
from docs.tables_of_networks import accuracy, arms, grown, mnist1d, networks, slots, widths
from esper_masks.bench.cases import (
    DISTRIBUTIONS,
    DROPINS,
    EPOCH,
    LOOPS,
    MASKABLE_PPO,
    OURS,
    POPULATION,
    ROLLOUT,
    SEQUENTIAL,
)
from esper_masks.bench.lifecycles import GUARDS, PODS, PREFIX
from esper_masks.viz.measuring import GROWING, sizes_of

PART = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            page.write_text(made, encoding="utf-8")
            print(f"written to {page.relative_to(ROOT)}")
    return 0


def pages() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(page: str) -> str:
    """The page with the tables that its marks ask for."""
    return PART.sub(lambda part: f"{part[1]}\n{TABLES[part[2]]()}\n{part[3]}", page)


LOOP, WORDS, BACK = {"way": LOOPS[0]}, {"work": "words"}, {"step": "forward+backward"}
BY_STEP: dict[str, Fields] = {"forward": {}, "forward + backward": BACK}
USUAL = ("loop, `Categorical` head by head", LOOP, LOOP)
READY = ("torch, compiled, ready masks", {"way": "torch compiled"}, LOOP)
STEP = ("`DecisionStep`, compiled", {"way": "compiled"}, LOOP)


def masks() -> str:
    names = {
        LOOPS[0]: "loop, small tensors",
        LOOPS[1]: "loop, one tensor",
        "from objects": "engine, from Python objects",
        "eager, bools": "engine, eager, all heads as bools",
        "compiled, bools": "engine, compiled, all heads as bools",
        "eager": "engine, eager, words",
        "compiled": "engine, compiled, words",
    }
    rows = [(name, {**WORDS, "way": way}, {**WORDS, **LOOP}) for way, name in names.items()]
    return Grid("masks", "way", rows, batches(1, 4, 4096, 65536), best="column")()


def distributions() -> str:
    long = {"work": "head of 1000"}
    most = max(row["batch"] for row in result("distributions")["rows"] if row["work"] == long["work"])
    kinds = {
        "one head of 13": {"work": "head of 13"},
        f"one head of 1,000 at {most:,}": {**long, "batch": most},
        "decision of 4 heads": {},
        "decision of 8 heads": {"rules": "esper-2026-06"},
    }
    rows = [(f"{kind}, {step}", {**fields, **more}) for kind, fields in kinds.items() for step, more in BY_STEP.items()]
    names = ("ours, compiled", "ours, eager", "torch, eager", "torch, compiled", "TorchRL", "sb3-contrib")
    columns = [(name, {"way": way}) for name, way in zip(names, DISTRIBUTIONS)]
    return Grid("distributions", "nanoseconds per row, batch 65,536", rows, columns, best="row")()


def guards() -> str:
    cells = []
    for name in GUARDS:
        fields = {**WORDS, "rules": PREFIX + name, "slots": 8}
        each = [nanoseconds("guards", {**fields, "way": way}) for way in OURS[:2]]
        eager = found("guards", {**fields, "way": OURS[1]})
        cells.append([name, "" if eager is None else str(eager["aten_ops"]), *map(figure, reversed(each))])
    return table("guards", ["guard of one op of three, 8 slots", "operators", "eager", "compiled"], *cells)


def pods() -> str:
    sets = {"rules": PODS.name, "slots": 8}
    names = {
        "masks: loop": {**WORDS, **LOOP},
        "masks: engine, eager": {**WORDS, "way": "eager"},
        "masks: engine, compiled": WORDS,
        "decision: loop, `Categorical` head by head": LOOP,
        "decision: `DecisionStep`, eager": {"way": "eager"},
        "decision: `DecisionStep`, compiled": {"way": "compiled"},
        "ready masks: ours, compiled": {"way": "ours compiled"},
        "ready masks: ours, eager": {"way": "ours eager"},
        "ready flat masks: torch, eager": {"way": "torch eager"},
        "ready flat masks: torch, compiled": {"way": "torch compiled"},
        "ready flat masks: TorchRL": {"way": "torchrl eager"},
        "ready flat masks: sb3-contrib": {"way": "sb3 eager"},
    }
    cells = []
    for name, fields in names.items():
        row = found("guards", {**sets, **fields}) or {}
        ours = name.startswith(("decision: `DecisionStep`", "ready masks"))  # no row of which passes its check else
        share = row.get("illegal_share", 0.0 if ours else None)
        cells.append([name, figure(float(row.get("ns_per_env", "nan"))), "" if share is None else f"{share:.0%}"])
    return table("guards", ["8 pods, 16 nodes, batch 65,536", "nanoseconds", "illegal actions"], *cells)


def dropin() -> str:
    names = dict(zip((LOOPS[0], *DROPINS), ("the loop", "drop-in, one by one", "drop-in, batch")))
    rows = [
        (f"{rules}: {name}", {"work": "dropin", "rules": rules, "way": way})
        for rules in ("esper-2025-12", "esper-2026-06")
        for way, name in names.items()
    ]
    columns = batches(1, 4, 16, 64, 256, 4096)
    return Grid("dropin", "microseconds per environment", rows, columns, lambda ns: ns / 1000)()


def training() -> str:
    joint = {"way": MASKABLE_PPO[1]}
    ways = {"ours, compiled": "compiled", "ours, eager": "eager", "heads": MASKABLE_PPO[0], "joint": MASKABLE_PPO[1]}
    rows = [
        (
            f"{'rollout' if work == 'rollout' else 'whole loop'}, {name}",
            {"work": work, "way": way},
            {"work": work, **joint},
        )
        for work in ("rollout", "training")
        for name, way in ways.items()
    ]
    columns = [(f"{envs:,} environments", {"batch": envs}) for envs in (8, 64, 1024)]
    return Grid("training", "thousand steps a second", rows, columns, lambda ns: 1e6 / ns)()


def parts() -> str:
    """An iteration: a rollout, and 16 optimizer steps of a quarter of its rows each."""
    columns = [(way, envs) for envs in (1024, 8192) for way in ("eager", "compiled")]
    cells: dict[str, list[str]] = {}
    for way, envs in columns:
        steps = envs * ROLLOUT / 1e6
        rollout, whole = (steps * nanoseconds("training", {"work": w, "way": way, "batch": envs}) for w in WHOLE)
        decisions = steps * nanoseconds("training", {"way": way, "batch": envs})
        scores = 4 * steps * nanoseconds("training", {"way": way, "batch": envs * ROLLOUT // 4, **BACK})
        took = {
            "rollout": rollout,
            "masks and decisions, alone": decisions,
            "update": whole - rollout,
            "scores with their gradients, alone": scores,
        }
        for name, value in took.items():
            cells.setdefault(name, [name]).append(figure(value))
    return table("training", ["milliseconds", *(f"{way}, {envs:,}" for way, envs in columns)], *cells.values())


def growth() -> str:
    """What a decision takes as one thing grows and the others stay at their most usual value."""
    rows = [{**row, **sizes_of(row["rules"])} for row in result("growth")["rows"]]
    centre = {name: mode(row[name] for row in rows) for name in GROWING}
    cells = []
    for over, label in GROWING.items():
        on = [row for row in rows if all(row[name] == centre[name] for name in GROWING if name != over)]
        places = sorted({row[over] for row in on})
        for way in OURS[:2]:
            took = {row[over]: row["ns_per_env"] for row in on if row["way"] == way}
            each = "; ".join(f"**{place:,}** {figure(took[place])}" for place in places)
            cells.append([f"{label}, {way}", each])
    return table("growth", ["nanoseconds an environment, along", "at each **size**"], *cells)


COMPILED, EAGER = ({way: {"way": way}} for way in ("torch compiled", "torch eager"))
OURS_AND_TORCHS = [(DISTRIBUTIONS[0], "compiled by the user", COMPILED), (DISTRIBUTIONS[1], "eager", EAGER)]


@dataclass(frozen=True)
class Use:
    """A line of the table that says who is ahead: our row, and those that it is compared with."""

    name: str
    group: str
    ours: Fields
    others: Mapping[str, Fields]


def uses() -> Iterator[Use]:
    loops = {"the loop": LOOP, "the best loop": {"way": LOOPS[1]}}
    for name, size in (("1 environment", 1), ("65,536", 65536)):
        for way in ("eager", "compiled", "from objects"):
            yield Use(f"masks, {name}, {way}", "masks", {**WORDS, "way": way, "batch": size}, loops)
    for name, size in (("1 environment", 1), ("4", 4), ("4,096", 4096), ("65,536", 65536)):
        for way in ("eager", "compiled"):
            yield Use(f"decision from states and logits, {name}, {way}", "scaling", {"way": way, "batch": size}, loops)
    evaluate = "`DecisionStep.evaluate` and its gradient, 65,536"
    yield Use(evaluate, "scaling", BACK, COMPILED)
    for heads, rules in ((4, "esper-2025-12"), (8, "esper-2026-06")):
        for step, fields in BY_STEP.items():
            for way, how, other in OURS_AND_TORCHS:
                name = f"{heads} heads, masks given, {step}, {how}, 65,536"
                yield Use(name, "distributions", {"rules": rules, "way": way, **fields}, other)
    for step, fields in BY_STEP.items():
        few = {"way": DISTRIBUTIONS[1], "batch": 4, **fields}
        yield Use(f"4 heads, masks given, {step}, eager, 4", "distributions", few, EAGER)
        for width, size in ((13, 65536), (1000, 16384)):
            head = {"work": f"head of {width}", "batch": size, **fields}
            for way, how, other in OURS_AND_TORCHS:
                name = f"one head of {width:,}, {step}, {how}, {size:,}"
                yield Use(name, "distributions", {**head, "way": way}, other)
    ready = {"rules": PODS.name, "slots": 8, "way": DISTRIBUTIONS[1]}
    yield Use("pods, masks given, eager, 65,536", "guards", ready, EAGER)
    for size in (1, 16, 4096):
        given = {"work": "dropin", "way": DROPINS[1], "batch": size}
        yield Use(f"drop-in for a batch, {size:,}", "dropin", given, {"the loop": LOOP})
    alone = {"work": "dropin", "way": DROPINS[0], "batch": 1}
    yield Use("drop-in one by one", "dropin", alone, {"the loop": LOOP})
    for size in (8, 64, 1024):
        others = {f"MaskablePPO, {way.split()[1]}": {"way": way} for way in MASKABLE_PPO}
        for way in ("compiled", "eager"):
            given = {"work": "training", "way": way, "batch": size}
            yield Use(f"training, {size:,} environments, {way}", "training", given, others)
    for host, size in (("MLP of width 16", 1024), ("CNN of 8 channels", 256)):
        given = {"work": EPOCH + host, "way": POPULATION, "batch": size}
        alone = {"one after another": {"way": SEQUENTIAL, "batch": 16}}
        yield Use(f"epoch of {size:,} hosts, {host}", "networks", given, alone)


def standing() -> str:
    """Who is ahead: all kinds of use in one table, those that are lost at its end."""
    rows = []
    for use in uses():
        mine = nanoseconds(use.group, use.ours)
        took = {other: nanoseconds(use.group, {**use.ours, **fields}) for other, fields in use.others.items()}
        best = min((name for name in took if took[name] == took[name]), key=lambda name: took[name])
        rows.append((took[best] / mine, [use.name, figure(mine), f"{figure(took[best])} ({best})"]))
    rows.sort(key=lambda row: -row[0])
    cells = [[*texts, f"{figure(ratio)} {TIMES}" + " **lost**" * (ratio < 0.995)] for ratio, texts in rows]
    files = list(dict.fromkeys(use.group for use in uses()))
    return table(
        files, ["nanoseconds an environment, row or host", "ours", "the best other of its kind", "ahead"], *cells
    )


def endurance() -> str:
    """Millions of steps of long trainings, alone and beside a busy process."""
    cells, ways = [], {"alone": "endurance/alone", "beside a busy process": "endurance/beside"}
    for name, group in ways.items():
        _, second, *others, last, _ = result(group)["rows"]  # the first compiles, and the end is not a whole million
        cells.append([name])
        for kind in ("steps_per_s", "steps_per_cpu_s"):
            least = min(row[kind] for row in (second, *others, last))
            ratios = (f"{figure(speed)} ({speed / second[kind]:.2f} {TIMES})" for speed in (last[kind], least))
            cells[-1].append("; ".join([figure(second[kind]), *ratios]))
        cells[-1].append(", ".join(f"{row['held_bytes'] / 1e6:,.1f}" for row in (second, last)))
    heads = ["second million; last; slowest", "steps a second", "by processor time", "megabytes held: second, last"]
    return table(list(ways.values()), heads, *cells)


def learning() -> str:
    slots = (3, 16)
    heads = [name for n in slots for name in (f"return, {n} slots (range)", "steps to 90 %", "illegal, first and last")]
    trained = {(row["slots"], row["way"]): row for row in result("learning")["rows"]}
    heuristics = {n: trained[n, "heuristic"] for n in slots}
    rows = []
    for arm in ARMS:
        cells = [arm]
        for n in slots:
            made = summary(trained[n, arm], heuristics[n]["return_mean"])
            cells.append(f"{made['mean']:.2f} ({made['least']:.2f} to {made['most']:.2f})")
            cells.append("" if made["reached"] is None else f"{made['reached'] / 1e6:.2f} M")
            cells.append(f"{made['first']:.0%}, {made['last']:.1%}" if made["first"] else "0")
        rows.append(cells)
    last = [cell for row in heuristics.values() for cell in (f"{row['return_mean']:.2f}", "", "")]
    return table("learning", ["", *heads], *rows, ["heuristic", *last])


WHOLE = ("rollout", "training")
TABLES: dict[str, Callable[[], str]] = {
    "readme": Grid("scaling", "nanoseconds per environment", [USUAL, READY, STEP], batches(4, 4096, 65536)),
    "masks": masks,
    "decision": Grid(
        "scaling",
        "nanoseconds per environment",
        [
            USUAL,
            ("best loop, `Categorical` head by head", {"way": LOOPS[1]}, LOOP),
            READY,
            ("sb3-contrib, ready masks", {"way": "sb3 eager"}, LOOP),
            ("TorchRL, ready masks", {"way": "torchrl eager"}, LOOP),
            ("`DecisionStep`, eager", {"way": "eager"}, LOOP),
            STEP,
            ("masks alone, loop", {**WORDS, **LOOP}, {**WORDS, **LOOP}),
            ("masks alone, compiled", WORDS, {**WORDS, **LOOP}),
            ("scores and their gradient: torch, compiled", {"way": "torch compiled", **BACK}),
            ("the same: sb3-contrib", {"way": "sb3 eager", **BACK}),
            ("the same: TorchRL", {"way": "torchrl eager", **BACK}),
            ("the same: `DecisionStep.evaluate`, compiled", BACK),
        ],
        batches(4, 4096, 65536, 1 << 20),
    ),
    "distributions": distributions,
    "guards": guards,
    "pods": pods,
    "dropin": dropin,
    "training": training,
    "parts": parts,
    "learning": learning,
    "endurance": endurance,
    "growth": growth,
    "standing": standing,
    "eager": eager,
    "first-calls": first_calls,
    "goals": goals,
    "networks": networks,
    "grown": grown,
    "accuracy": accuracy,
    "widths": widths,
    "arms": arms,
    "slots": slots,
    "mnist1d": mnist1d,
}

if __name__ == "__main__":
    sys.exit(main())
