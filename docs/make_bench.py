"""Write the tables of committed results into README.md and the pages: ``python -m docs.make_bench``.

A table stands between ``<!-- bench: NAME -->`` and ``<!-- end -->``, with the commit that was measured below it.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median, stdev
from textwrap import fill
from typing import Any

import esper_masks as em
from benchmarks.learning import ARMS, illegal_shares, reached_at, summary
from esper_masks.bench.cases import CENTRE, DISTRIBUTIONS, DROPINS, LOOPS, MASKABLE_PPO, OURS, ROLLOUT
from esper_masks.bench.lifecycles import GUARDS, PODS, PREFIX

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / em.__version__
PART = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = 12  # characters of a commit
TIMES = "\N{MULTIPLICATION SIGN}"
Fields = Mapping[str, Any]
Named = tuple[str, Fields]


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


@cache
def result(group: str) -> Any:
    """What is committed of a group, or of an experiment as ``"experiments/PART"``."""
    return json.loads((RESULTS / f"{group}-cpu.json").read_text(encoding="utf-8"))


def found(group: str, fields: Fields) -> Fields | None:
    """The row that differs from the centre in these fields."""
    wanted = {**asdict(CENTRE), **fields}
    return next((row for row in result(group)["rows"] if all(row[name] == wanted[name] for name in wanted)), None)


def nanoseconds(group: str, fields: Fields) -> float:
    """The fastest block of a row; not a number where the row was not measured."""
    row = found(group, fields)
    return float("nan") if row is None else float(row.get("ns_per_env", "nan"))


@dataclass(frozen=True)
class Grid:
    """Times of a group, one for each row and column.

    Args:
        group: the file.
        corner: what the figures are.
        rows: names and fields, and after them the fields of what is usual, if times as fast as that are wanted.
        columns: names and fields.
        figure: what is printed of nanoseconds.
        best: along which axis the least figure is bold, "column", "row" or "".
    """

    group: str
    corner: str
    rows: Sequence[tuple[str, Fields] | tuple[str, Fields, Fields]]
    columns: Sequence[Named]
    figure: Callable[[float], float] = float
    best: str = ""

    def __call__(self) -> str:
        """The table, and what it was measured on."""
        values = [
            [self.figure(nanoseconds(self.group, {**row[1], **of})) for _, of in self.columns] for row in self.rows
        ]
        cells = []
        for row, of_row in zip(self.rows, values):
            texts = [row[0]]
            for (_, column), value, of_column in zip(self.columns, of_row, zip(*values)):
                along = [v for v in (of_column if self.best == "column" else of_row) if v == v]
                text = figure(value)
                if len(row) == 3 and row[2] != row[1] and text:
                    ratio = nanoseconds(self.group, {**row[2], **column}) / nanoseconds(
                        self.group, {**row[1], **column}
                    )
                    text += f" ({figure(ratio)} {TIMES})" if ratio == ratio else ""
                best = self.best and text and value == min(along)
                texts.append(f"**{text}**" if best else text)
            cells.append(texts)
        return table(self.group, [self.corner, *(name for name, _ in self.columns)], *cells)


def table(groups: str | Sequence[str], *rows: Iterable[str]) -> str:
    """Markdown; the first row is the head. Below it is what each file of the groups was measured on."""
    head, *body = map(list, rows)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in body)]
    files = [groups] if isinstance(groups, str) else groups
    return "\n".join([*lines, *(line for group in files for line in ("", told(group)))]) + "\n"


def told(group: str) -> str:
    """What a file was measured on, and of which commit."""
    made = result(group)
    machine, versions = made["machine"], made["versions"]
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "esper_masks")
    where = f"one thread of an {machine['cpu']} ({machine['capability']}), {others} (`{group}-cpu.json`)."
    return fill(f"Commit `{made['commit']['id'][:SHORT]}`, {where}", 120, break_on_hyphens=False)


def figure(value: float) -> str:
    if value != value:
        return ""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def batches(*sizes: int) -> list[Named]:
    return [(f"batch {size:,}" if size < 1 << 20 else f"2^{size.bit_length() - 1}", {"batch": size}) for size in sizes]


LOOP, WORDS, BACK = {"way": LOOPS[0]}, {"work": "words"}, {"step": "forward+backward"}
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
    steps = {"forward": {}, "forward + backward": BACK}
    rows = [(f"{kind}, {step}", {**fields, **more}) for kind, fields in kinds.items() for step, more in steps.items()]
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


def grown() -> str:
    names = {
        "no_op": "nothing",
        "random": "random legal actions",
        "heuristic": "heuristic: a seed where the loss stands still, judged by alpha 0",
        "fixed_plan": "the best of 36 plans",
        "known_task": "the best plan for each task, the task being known",
        "known_task, tried again": "the same, four of each tried again on four times the hosts",
    }
    made = result("experiments/scores")
    rows = [[names.get(row["policy"], row["policy"]), *_scored(row)] for row in made["rows"]]
    over = made["over_seeds"]
    mean = ["learned, mean; ± over seeds", *(nats(over[name], "se_seeds") for name in ("test", *made["tasks"]))]
    return table("experiments/scores", ["score on test, nats", "all", *made["tasks"]], *rows, mean)


def accuracy() -> str:
    made = result("experiments/scores")
    alone, *trained = made["grown"].values()
    rows = [["hosts alone", *(f"{alone[task]['accuracy']:.1%}" for task in made["tasks"])]]
    rows.append(["grown", *(f"{fmean(each[task]['accuracy'] for each in trained):.1%}" for task in made["tasks"])])
    for name in alone[made["tasks"][0]]["kept"]:
        kept = (fmean(each[task]["kept"][name] for each in trained) for task in made["tasks"])
        rows.append([f"kept {name} seeds of a host", *(f"{share:.2f}" for share in kept)])
    return table("experiments/scores", ["accuracy on test, mean of the five", *made["tasks"]], *rows)


def widths() -> str:
    made: dict[int, dict[str, Fields]] = {}
    for row in result("experiments/widths")["rows"]:
        made.setdefault(row["width"], {})[row["policy"]] = row["score_test"]
    plans = ("fixed_plan", "known_task", "fixed_plan, found there", "known_task, found there")
    cells = []
    for width, rows in made.items():
        seeds = [each["mean"] for name, each in rows.items() if name.startswith("learned")]
        learned = {"mean": fmean(seeds), "se": stdev(seeds) / len(seeds) ** 0.5}
        cells.append([str(width), nats(learned), *(nats(rows[name]) for name in plans)])
    heads = ["width", "learned at 8; ± over seeds", "fixed plan of 8", "known task of 8", "fixed plan, found there"]
    heads.append("known task, found there")
    return table("experiments/widths", heads, *cells)


def arms() -> str:
    """Masked trainings and others, by what they came to and how soon they were as good as the fixed plan."""
    mark = next(row for row in result("experiments/scores")["rows"] if row["policy"] == "fixed_plan")
    wanted, cells = mark["score_validation"]["mean"], []
    for name, file in (("with masks", "scores"), ("without", "unmasked")):
        made = result(f"experiments/{file}")
        curves = [run["curve"] for run in made["runs"]]
        reached = [math.inf if (at := reached_at(curve, wanted)) is None else at for curve in curves]
        first, last = illegal_shares(curves)
        share = f"{first:.0%}, {last:.1%}" if first else "0"
        cells.append(
            [name, str(len(curves)), nats(made["over_seeds"]["test"], "se_seeds"), f"{median(reached):,}", share]
        )
    heads = ["", "seeds", "score; ± over seeds", "host-epochs to the fixed plan's, median", "illegal, first and last"]
    return table(["experiments/scores", "experiments/unmasked"], heads, *cells)


def slots() -> str:
    cells = []
    for count in (1, 3, 8):
        made = result(f"experiments/{f'slots-{count}' if count != 3 else 'scores'}")
        rows = {row["policy"]: row["score_test"] for row in made["rows"]}
        names = ("learned, seed 0", "fixed_plan", "known_task", "known_task, tried again")
        cells.append([str(count), *(nats(rows[name]) for name in names)])
    heads = ["slots", "learned, seed 0", "fixed plan", "known task", "known task, tried again"]
    return table([f"experiments/{name}" for name in ("slots-1", "scores", "slots-8")], heads, *cells)


def mnist1d() -> str:
    names = {
        "learned": "grown by a policy that was learned in 600 steps",
        "fixed_plan": "grown by the best plan",
        "host alone": "the host alone",
        "as large from the start": "a wider host from the start",
    }
    cells = []
    both = [result(f"experiments/{file}")["kinds"] for file in ("mnist1d", "mnist1d-coadapting")]
    for kind, made in [each for kinds in both for each in kinds.items()]:
        shown, alone = kind.replace("mlp", "MLP").replace("cnn", "CNN"), made["rows"][-2]["parameters"]
        for row in made["rows"]:
            if row["policy"] == "as large from the start" and row["parameters"] == alone:
                continue  # nothing was kept: it is the host alone
            right, kept = row["accuracy_of_host"], row.get("kept_seeds")
            facts = [f"{right['mean']:.1%} ± {right['se']:.1%}", f"{row['loss_of_host']['mean']:.2f}"]
            seeds = ", ".join(f"{count} {name}" for name, count in (kept or {}).items() if count) or "none"
            facts += [f"{row['parameters']:,.0f}", seeds if kept else ""]
            cells.append([f"{shown}: {names[row['policy']]}", *facts])
    heads = ["MNIST-1D, 32 hosts, 6,000 steps", "accuracy on test", "loss", "parameters", "kept seeds"]
    return table(["experiments/mnist1d", "experiments/mnist1d-coadapting"], heads, *cells)


def _scored(row: Fields) -> list[str]:
    return [nats(row["score_test"]), *(f"{each['mean']:+.3f}" for each in row["by_task"].values())]


def nats(score: Fields, error: str = "se") -> str:
    """A score and its standard error."""
    return f"{score['mean']:+.3f} ± {score[error]:.3f}"


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
    "grown": grown,
    "accuracy": accuracy,
    "widths": widths,
    "arms": arms,
    "slots": slots,
    "mnist1d": mnist1d,
}

if __name__ == "__main__":
    sys.exit(main())
