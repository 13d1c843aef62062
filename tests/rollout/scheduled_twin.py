"""The environment of June 2026 once more, by plain loops over Python numbers; see docs/environment-june.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from esper_masks import reference
from esper_masks.rollout import Calibration
from esper_masks.rules import MaskRules
from tests.rollout.twin import normal

SEEDS = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED")
ALPHA_TARGETS = {"HALF": 0.5, "SEVENTY": 0.7, "FULL": 1.0}
TEMPOS = {"FAST": 3, "STANDARD": 5, "SLOW": 8}
SPEEDS = {"INSTANT": 0, "FAST": 3, "MEDIUM": 5, "SLOW": 8}
CNN = {"NORM": 129, "ATTENTION": 2112, "CONV_SMALL": 4224, "BOTTLENECK": 4480, "DEPTHWISE": 4800}
CNN |= {"CONV_LIGHT": 36992, "CONV_HEAVY": 73984}
TRANSFORMER = {"NORM": 769, "LORA": 6144, "LORA_LARGE": 24576, "ATTENTION": 591360, "FLEX_ATTENTION": 591360}
TRANSFORMER |= {"MLP_SMALL": 590976, "MLP": 1181568}
MEASURED_AS = {"CONV_SMALL": "CONV_LIGHT", "BOTTLENECK": "DEPTHWISE", "LORA": "NORM", "LORA_LARGE": "NORM"}
MEASURED_AS |= {"MLP_SMALL": "CONV_LIGHT", "MLP": "CONV_HEAVY", "FLEX_ATTENTION": "ATTENTION"}
PHI = {"GERMINATED": 1.0, "TRAINING": 2.0, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6.0}


def curve_at(curve: str, x: float) -> float:
    if curve == "LINEAR":
        return x
    if curve == "COSINE":
        return (1 - math.cos(math.pi * x)) / 2
    s = {"SIGMOID_GENTLE": 6.0, "SIGMOID": 12.0, "SIGMOID_SHARP": 24.0}[curve]
    return (sigma(s * (x - 0.5)) - sigma(-s / 2)) / (sigma(s / 2) - sigma(-s / 2))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass
class Ramp:
    """The controller of a share."""

    alpha: float = 0.0
    start: float = 0.0
    target: float = 0.0
    total: int = 0
    done: int = 0
    curve: str = "LINEAR"
    mode: str = "HOLD"

    def retarget(self, target: float, total: int, curve: str) -> None:
        self.start, self.target, self.total, self.done, self.curve = self.alpha, target, total, 0, curve
        if total == 0:
            self.alpha = target
        if self.alpha != target:
            self.mode = "UP" if target > self.alpha else "DOWN"

    def tick(self) -> None:
        if self.mode == "HOLD":
            return
        self.done += 1
        if self.done == self.total:
            self.alpha, self.mode = self.target, "HOLD"
        else:
            self.alpha = self.start + (self.target - self.start) * curve_at(self.curve, self.done / self.total)


@dataclass
class Seed:
    blueprint: str
    style: str
    tempo: int
    goal: float
    quality: float
    base: float
    ramp: Ramp = field(default_factory=Ramp)
    velocity: float = 0.0
    measured: float | None = None
    evidence: float = 0.0
    weight: float = 0.0


@dataclass
class Slot:
    stage: str = "DORMANT"
    age: int = 0
    in_stage: int = 0
    seed: Seed | None = None

    def enter(self, stage: str) -> None:
        self.stage, self.in_stage = stage, 0
        if stage not in SEEDS:
            self.seed = None


@dataclass
class ScheduledTwin:
    rules: MaskRules
    slot_count: int
    length: int
    max_seeds: int = 0
    automatic: Sequence[str] = ()
    strict: bool = False
    reward: str = "gain"
    refusal: float = 0.1
    rent: float = 1e-6
    noise: float | None = None
    host: int = 6418
    params: Mapping[str, int] = field(default_factory=lambda: CNN)

    def __post_init__(self) -> None:
        self.calibration = {name.upper(): entry.improvement for name, entry in Calibration.default().blueprints.items()}
        if self.noise is None:
            self.noise = Calibration.default().unblended.spread
        self.reset()

    def reset(self) -> None:
        self.slots = [Slot() for _ in range(self.slot_count)]
        self.epoch, self.gain, self.rise, self.returns = 0, 0.0, 0.0, 0.0

    @property
    def seeds(self) -> int:
        return sum(slot.seed is not None for slot in self.slots)

    def slot_words(self) -> list[tuple[int, ...]]:
        modes = {"HOLD": 0, "UP": 1, "DOWN": 2}
        return [(int(self.rules.stages[s.stage]), s.age, modes[s.seed.ramp.mode] if s.seed else 0) for s in self.slots]

    def is_legal(self, action: dict[str, int]) -> bool:
        if not 0 <= action["op"] < len(self.rules.op_rules):
            return False
        op = self.rules.op_rules[action["op"]]
        for name in op.uses:
            head = self.rules.head(name)
            if name != "slot" and not 0 <= action[name] < len(head.choices):
                return False
            if name == "blueprint" and head.choices[action[name]] not in self.params:
                return False
        if "slot" not in op.uses:
            return op.always
        legal = reference.slot_by_op(
            self.rules,
            self.slot_words(),
            enabled=[True] * self.slot_count,
            total_seeds=self.seeds,
            max_seeds=self.max_seeds,
        )
        return 0 <= action["slot"] < self.slot_count and legal[op.id][action["slot"]]

    def step(self, action: dict[str, int], noise: Sequence[float], reset: bool = True) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal."""
        legal = self.is_legal(action)
        op = self.rules.op_rules[action["op"]].name if legal else "WAIT"
        slot = self.slots[action["slot"] if op != "WAIT" else 0]
        ends = self.epoch + 1 == self.length
        points = math.fsum(self.shaped(op, slot, ends).values()) if self.reward == "shaped" else 0.0
        said = {
            name: self.rules.head(name).choices[action[name]]
            for name in (self.rules.op_rules[action["op"]].uses if legal else ())
            if name != "slot"
        }
        healthy = noise[1] >= self.refusal
        before = [slot.seed.ramp.alpha if slot.seed else 0.0 for slot in self.slots]
        self.act(op, slot, said, noise[0], healthy)
        for each in self.slots:
            self.tick(each, healthy)
        gain = rent = 0.0
        for at, each in enumerate(self.slots):
            if each.stage != "DORMANT":
                each.age, each.in_stage = each.age + 1, each.in_stage + 1
            else:
                self.slots[at] = Slot()
            if (seed := each.seed) is None:
                continue
            alpha = seed.ramp.alpha
            seed.velocity, seed.measured = alpha - before[at], None
            if alpha > 0 and each.stage != "FOSSILIZED":
                seed.measured = alpha * seed.quality + (self.noise or 0.0) * normal(noise[2 + at])
                seed.evidence += alpha * seed.measured
                seed.weight += alpha * alpha
            if each.stage == "FOSSILIZED" or not ends:
                gain += alpha * seed.quality
            rent += self.rent * self.params[seed.blueprint]
        reward = points if self.reward == "shaped" else gain - self.gain - rent
        self.epoch, self.gain, self.rise = self.epoch + 1, gain, gain - self.gain
        self.returns += reward
        if ends and reset:
            self.reset()
        return reward, ends, legal

    # -- the op -------------------------------------------------------------------------------------------------------

    def act(self, op: str, slot: Slot, said: Mapping[str, str], lot: float, healthy: bool) -> None:
        if op == "GERMINATE":
            known = self.calibration.get(said["blueprint"]) or self.calibration[MEASURED_AS[said["blueprint"]]]
            spread = math.sqrt(max(known.spread**2 - (self.noise or 0.0) ** 2, 0.0))
            tempo, goal = TEMPOS[said["tempo"]], ALPHA_TARGETS[said["alpha_target"]]
            slot.seed = Seed(
                said["blueprint"], said["style"], tempo, goal, known.mean + spread * normal(lot), self.gain
            )
            slot.age = 0
            slot.enter("GERMINATED")
        seed = slot.seed
        if seed is None:
            return
        if op == "ADVANCE":
            if slot.stage == "GERMINATED":
                slot.enter("TRAINING")
            elif slot.stage == "TRAINING" and self.second_gate(slot, healthy):
                self.blend(slot)
            elif slot.stage == "BLENDING" and self.third_gate(slot):
                slot.enter("HOLDING")
        if op == "FOSSILIZE" and seed.measured is not None and (not self.strict or seed.measured >= 1.0):
            slot.enter("FOSSILIZED")
        if op == "SET_ALPHA_TARGET":
            seed.style = said["style"]
            target = ALPHA_TARGETS[said["alpha_target"]]
            if slot.stage == "HOLDING" and target < 1:
                slot.enter("BLENDING")
            seed.ramp.retarget(target, SPEEDS[said["alpha_speed"]], said["alpha_curve"])
        if op == "PRUNE":
            epochs = SPEEDS[said["alpha_speed"]]
            if epochs == 0 or seed.ramp.alpha == 0:
                slot.enter("PRUNED")
            elif seed.ramp.mode == "HOLD":
                if slot.stage == "HOLDING":
                    slot.enter("BLENDING")
                seed.ramp.retarget(0.0, epochs, said["alpha_curve"])

    def second_gate(self, slot: Slot, healthy: bool) -> bool:
        seed = slot.seed
        if seed is None:
            return False
        dead = seed.blueprint == "CONV_SMALL"
        dead |= seed.blueprint in ("CONV_LIGHT", "CONV_HEAVY", "DEPTHWISE") and seed.style == "LINEAR_MULTIPLY"
        return slot.in_stage >= 10 and healthy and not dead

    def third_gate(self, slot: Slot) -> bool:
        ramp = slot.seed.ramp if slot.seed else Ramp()
        long = slot.in_stage >= 10 or not self.strict
        return ramp.target == 1 and ramp.alpha == 1 and ramp.mode == "HOLD" and long

    def blend(self, slot: Slot) -> None:
        if (seed := slot.seed) is None:
            return
        slot.enter("BLENDING")
        curve = "SIGMOID" if seed.style == "SIGMOID_ADD" else "LINEAR"
        seed.ramp = Ramp(0.0, 0.0, seed.goal, seed.tempo, 0, curve, "UP")

    # -- what happens by itself ---------------------------------------------------------------------------------------

    def tick(self, slot: Slot, healthy: bool) -> None:
        if slot.stage == "GERMINATED" and "G1" in self.automatic:
            slot.enter("TRAINING")
        elif slot.stage == "TRAINING" and "G2" in self.automatic and self.second_gate(slot, healthy):
            self.blend(slot)
        elif slot.stage == "BLENDING" and slot.seed is not None:
            fading = slot.seed.ramp.target == 0
            slot.seed.ramp.tick()
            if fading and slot.seed.ramp.alpha == 0 and slot.seed.ramp.mode == "HOLD":
                slot.enter("PRUNED")
            elif "G3" in self.automatic and self.third_gate(slot):
                slot.enter("HOLDING")
        elif slot.stage == "PRUNED":
            slot.enter("EMBARGOED")
        elif slot.stage == "EMBARGOED":
            slot.in_stage += 1
            if slot.in_stage >= 5:
                slot.enter("RESETTING")
        elif slot.stage == "RESETTING":
            slot.enter("DORMANT")

    # -- the shaped reward --------------------------------------------------------------------------------------------

    def shaped(self, op: str, slot: Slot, ends: bool) -> dict[str, float]:
        terms = self.terms_of_seed(op, slot) if slot.seed else {}
        size, t = max(self.host, 200), self.epoch + 1
        paying = rise = bill = 0.0
        held = fossils = 0
        for each in self.slots:
            held += each.stage not in ("DORMANT", "PRUNED")
            fossils += each.stage == "FOSSILIZED"
            if each.seed is None:
                continue
            params = self.params[each.seed.blueprint]
            if each.stage in ("BLENDING", "HOLDING", "FOSSILIZED"):
                paying += 0.0039 * self.host + each.seed.ramp.alpha * params
            rise += each.seed.velocity**2 * params
            if each.stage in ("GERMINATED", "TRAINING"):
                bill += 0.2985 / 0.995**each.age
        terms["rent"] = -min(0.5 * math.log(1 + paying / size), 1.5)
        terms["shock"] = -min(0.1958 * rise / size, 1)
        terms["occupancy"] = -0.01 * max(0, held - 1) - 0.002 * fossils
        if op == "GERMINATE":
            terms["op"] = -0.15 + 0.2985 * min(0.4 + 0.06 * t, 1)
        if ends:
            terms["end"] = 0.05 * self.gain - bill
        return terms

    def terms_of_seed(self, op: str, slot: Slot) -> dict[str, float]:
        seed, n, f = slot.seed, slot.in_stage, self.gain
        assert seed is not None
        c, p, terms = seed.measured, self.gain - seed.base, {}
        phi = PHI[slot.stage] + min(0.3 * n, 2)
        terms["potential"] = 0.3 * (0.995 * phi - (PHI[slot.stage] + min(0.3 * (n - 1), 2)))
        worth = 0.0
        if c is not None and not (op == "FOSSILIZE" and f < 0):
            if c < 0:
                worth = c
            elif p > 0:
                worth = c if c < p else 2 * p * c / (p + c)
            if f < 0:
                worth *= sigma(3 * f)
            birth = self.epoch + 1 - slot.age
            if birth < 10:
                worth *= 0.4 + 0.06 * birth
            terms["contribution"] = -worth if op == "PRUNE" else worth
        if c is None and slot.stage == "BLENDING":
            terms["contribution"] = 0.3 * max(0.0, self.rise)
        if c is not None and c > 1 and f >= 0:
            if f <= 0.1:
                terms["ratio"] = -0.3 * min(1, c / 10)
            elif c / f > 5:
                terms["ratio"] = -min(0.3, 0.1 * (c / f - 5) / 5)
        if slot.stage == "BLENDING" and f < 0:
            terms["blending"] = -0.1 - min(0.05 * n, 0.3)
        if slot.stage == "HOLDING" and n >= 2 and worth > 0 and op not in ("FOSSILIZE", "PRUNE"):
            terms["holding"] = -min(0.1 + 0.05 * (n - 2), 0.3)
        if op == "ADVANCE" and slot.stage == "TRAINING":
            terms["op"] = -0.1
        if op == "SET_ALPHA_TARGET":
            terms["op"] = -0.005
        if op == "FOSSILIZE":
            terms["op"] = -0.01
            measured = c or 0.0
            if f < 0:
                terms["op"] -= 0.5 + min(0.2 * -f, 1) + (0.3 if measured > 0.1 and f < -0.2 else 0)
            elif measured >= 1:
                terms["op"] += (0.5 + 0.1 * measured + 3 * math.tanh(1 / 3)) * min(1, n / 5)
            else:
                terms["op"] -= 0.2
        if op == "PRUNE":
            terms["op"] = -0.005 - 0.3 * phi
            if c is not None:
                terms["op"] += 0.15 if c < -0.5 else 0.1 if c < 0 else -min(0.3 + 0.05 * c, 0.9)
        return terms

    # -- what is seen -------------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, float]:
        """By the names of the columns, without those that are 0."""
        seen = {"epoch": self.epoch / self.length, "seeds": self.seeds / (self.max_seeds or self.slot_count)}
        for at, slot in enumerate(self.slots):
            row = {f"stage {slot.stage}": 1.0}
            row |= {"age": slot.age / self.length, "epochs in stage": slot.in_stage / self.length}
            if (seed := slot.seed) is not None:
                ramp = seed.ramp
                row |= {f"blueprint {seed.blueprint}": 1.0, f"style {seed.style}": 1.0}
                row |= {"tempo": seed.tempo / 8, "goal": seed.goal, "alpha": ramp.alpha, "target": ramp.target}
                row |= {"alpha velocity": seed.velocity, "alpha mode": {"UP": 1.0, "DOWN": -1.0}.get(ramp.mode, 0.0)}
                row |= {
                    "steps": ramp.total / 8,
                    "steps done": ramp.done / 8,
                    "steps left": (ramp.total - ramp.done) / 8,
                }
                row |= {"contribution": (seed.measured or 0.0) / 10}
                row |= {"improvement": seed.evidence / (seed.weight or 1.0) / 10}
                row |= {"certainty": seed.weight / (1 + seed.weight)}
            seen |= {f"s{at}: {name}": value for name, value in row.items()}
        return seen

    def fields(self) -> dict[str, list[float]]:
        """The fields of the tensors' state, one number for each slot."""
        curves = self.rules.head("alpha_curve").choices
        named: dict[str, list[float]] = {}
        for slot in self.slots:
            seed = slot.seed or replace(NOTHING, ramp=Ramp())
            ramp = seed.ramp
            row: dict[str, float] = {"in_stage": slot.in_stage, "tempo": seed.tempo, "goal": seed.goal}
            row["blueprint"] = self.rules.head("blueprint").choices.index(seed.blueprint)
            row["style"] = self.rules.head("style").choices.index(seed.style)
            row |= {"alpha": ramp.alpha, "velocity": seed.velocity, "start": ramp.start, "target": ramp.target}
            row |= {"steps": ramp.total, "done": ramp.done, "curve": curves.index(ramp.curve)}
            row |= {"quality": seed.quality, "base": seed.base, "contribution": seed.measured or 0.0}
            row |= {"evidence": seed.evidence, "weight": seed.weight}
            for name, value in row.items():
                named.setdefault(name, []).append(value)
        return named


NOTHING = Seed("NOOP", "LINEAR_ADD", 0, 0.0, 0.0, 0.0)
