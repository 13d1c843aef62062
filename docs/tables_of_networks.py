"""Tables of real networks: how fast a population is trained, and what came of experiments."""

import math
from statistics import fmean, median, stdev

from benchmarks.learning import illegal_shares, reached_at
from docs.tables import TIMES, Fields, figure, nanoseconds, result, table
from esper_masks.bench.cases import EPOCH, POPULATION, PRODUCTS, SEQUENTIAL, VALIDATED


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


def networks() -> str:
    """Host-epochs a second, and how many times as fast as hosts that are trained one after another."""
    ways = {"one after another": SEQUENTIAL, "population": POPULATION, "products alone": PRODUCTS}
    rows = result("networks")["rows"]
    sizes = sorted({row["batch"] for row in rows})
    cells = []
    for host in ("MLP of width 8", "MLP of width 16", "CNN of 8 channels"):
        for what in ("", VALIDATED):
            work = {"work": f"{EPOCH}{host}{what}"}
            alone = next((row["batch"] for row in rows if row["way"] == SEQUENTIAL and row["work"] == work["work"]), 0)
            usual = nanoseconds("networks", {**work, "way": SEQUENTIAL, "batch": alone})
            for name, way in ways.items():
                texts = []
                for size in sizes:
                    took = nanoseconds("networks", {**work, "way": way, "batch": size})
                    ratio = "" if way == SEQUENTIAL or took != took else f" ({figure(usual / took)} {TIMES})"
                    texts.append(figure(1e9 / took) + ratio)
                if any(texts):
                    cells.append([f"{host}{what}: {name}", *texts])
    return table("networks", ["host-epochs a second", *(f"{size:,} hosts" for size in sizes)], *cells)
