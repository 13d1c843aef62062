"""Whether an installed package works: ``python -I tests/smoke.py``, from any folder. Needs no other package."""

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import files, version
from importlib.resources import files as resources
from pathlib import Path


def main() -> int:
    import torch

    import esper_masks as em

    assert version("esper-masks") == em.__version__
    assert Path(sysconfig.get_path("purelib")) in Path(em.__file__).parents, (
        f"{em.__file__} is not an installed package"
    )
    held = {str(path) for path in files("esper-masks") or () if ".dist-info/" not in str(path)}
    extra = {name for name in held if not name.startswith("esper_masks/") and not name.endswith("/bin/esper-masks")}
    assert not extra, f"installed beside the package: {sorted(extra)}"
    for name in ("py.typed", "data/calibration.json", "data/sample.jsonl"):
        assert resources("esper_masks").joinpath(name).is_file(), f"{name} is missing"

    for rules in em.rulesets():
        engine = em.MaskEngine(em.ruleset(rules))
        masks = engine(engine.empty_slots(100))
        policy = em.FactoredCategorical(torch.zeros(100, engine.layout.logit_size), masks)
        assert masks.permits(policy.sample()).all()
    env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 100, seed=1)
    for _ in range(25):
        policy = em.FactoredCategorical(torch.zeros(100, 15), env.masks())
        env.step(policy.sample())
    assert not env.illegal_actions.any()

    shown = run("show", "esper-2025-12")
    assert shown.startswith("esper-2025-12: 10 stages, 4 ops, 4 heads"), shown
    replayed = json.loads(run("replay", "--json"))
    assert replayed["lines"] == 31, replayed
    assert sum(replayed["illegal"].values()) == 1, replayed
    print(f"esper-masks {em.__version__} works: Python {sys.version.split()[0]}, torch {torch.__version__}")
    return 0


def run(*arguments: str) -> str:
    command = Path(sysconfig.get_path("scripts")) / "esper-masks"
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
