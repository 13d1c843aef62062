"""The committed results, by what reads them."""

from tests.helpers import ROOT

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))
TRAINING = [path for path in RESULTS if "training" in path.stem]  # rollout/test_training_results.py
SCALING = [path for path in RESULTS if path.stem.startswith("scaling")]  # of `esper-masks bench`: test_suite.py
