"""Dynamics for any rule set, from the rules alone: ops by their edges, stages left by themselves, a reward.

Probabilities are cut into ladders over one uniform number. ``{READY: 0.25, EMPTY: 0.5}`` of the stage BUILD becomes
``(READY, ((0.25, EMPTY), (0.75, BUILD)))``: READY, from 0.25 on EMPTY, from 0.75 on BUILD, that is, it stays.
"""

import math
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.decision.given import Given
from esper_masks.decision.step import Mode
from esper_masks.errors import RulesError, SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout.env.dynamics import PROBED, Dynamics, Outcome, check_compiled, check_tensor, some_step
from esper_masks.rules import MaskRules
from esper_masks.rules.fields import either, name_of, told_values, values_of
from esper_masks.rules.names import AGE, INT32, OP, SLOT, STAGE

Ladder = tuple[int, tuple[tuple[float, int], ...]]  # the first value; from which uniform on, which other
Chances = Mapping[Any, float]
Values = Mapping[str, Tensor]
Change = Callable[[Tensor, Tensor, Tensor, Values, Tensor], Values]

NEAR = 1e-6  # by how much a sum of probabilities may miss 1


class Leaving(NamedTuple):
    """How a stage is left by itself."""

    stage: int
    target: int | None  # of a dwell time; None where ``draws`` are stages
    draws: Ladder  # the stage that follows, or a number of steps


class RuleState(NamedTuple):
    """The state of environments under ``RuleDynamics``."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    total_seeds: Tensor  # int32 [batch]: legal ops that filled an empty slot
    epoch: Tensor  # int32 [batch]
    returns: Tensor  # float32 [batch]
    dwell: Tensor  # int32 [slots, batch]: steps until a stage with a dwell time is left; 0 before it is drawn
    rows: Tensor  # int32 [rows, batch]: in the order of ``row_features``


class RuleDynamics:
    """Dynamics for any rule set, from the rules alone: what ``LifecycleEnv(rules, n, dynamics=...)`` takes.

    A step, in this order:

        1. the op, by ``engine.successors``; an illegal action changes nothing
        2. ``leaves``: slots that the op does not name leave their stage by chance, or after a dwell time; what enters
           from empty is as after an op, age and features 0, and a slot that becomes empty is all 0
        3. ages of occupied slots + 1
        4. ``clocks``: new values of features, such as those that count, or the age, where it is that of the stage
        5. ``rows``: new values of the environment's rows
        reward: of the states before 1 and after 4; the episode terminates after ``horizon`` steps

    What functions are given, all of it on the device; they are compiled with the rest, so they compute new tensors
    without a look at values, and compare with ``int(Stage.BUILD)``, not with a member of an enum:

        before, after  int32 [batch, slots, features], in the order of ``rules.feature_names``: before the step, and
                       after what came before in the list above
        actions        int64 [batch, heads]; -1 in all heads of an illegal one. Heads that the op ignores hold anything
        rows           name -> [batch], before the step: bool for a bool, else int32
        noise          float32 [batch, uniforms] in [0, 1], the same for ``clocks`` and ``rows``

    An observation has, for each slot, stage and enum features one-hot, bools as 0 or 1, ints as x / (|x| + horizon),
    and the age / horizon; the rows in the same way; time / horizon; and seeds over the limit, or where there is none
    over horizon.

    >>> import esper_masks as em, torch
    >>> rules = em.ruleset("esper-2025-12")
    >>> Stage = rules.stages
    >>> dynamics = em.rollout.RuleDynamics(
    ...     rules,
    ...     reward=lambda before, actions, after: (after[..., 0] == int(Stage.FOSSILIZED)).sum(-1).float(),
    ...     leaves={
    ...         Stage.GERMINATED: {Stage.TRAINING: 1},
    ...         Stage.TRAINING: (Stage.BLENDING, {3: 0.5, 5: 0.5}),
    ...         Stage.BLENDING: {Stage.PROBATIONARY: 0.5},
    ...         Stage.CULLED: {Stage.EMBARGOED: 1},
    ...         Stage.EMBARGOED: {Stage.RESETTING: 1},
    ...         Stage.RESETTING: {Stage.DORMANT: 1},
    ...     },
    ... )
    >>> env = em.rollout.LifecycleEnv(rules, 1000, dynamics=dynamics)
    >>> obs, reward, *_ = env.step(em.FactoredCategorical(torch.zeros(1000, 15), env.masks()).sample())

    Args:
        rules: the rules of the environment, whatever their switches.
        reward: ``(before, actions, after)`` -> float32 ``[batch]``, finite.
        leaves: stage -> ``{target: probability}``, the rest of the probability being to stay; or
            ``(target, {steps: probability})`` or ``(target, steps)``, after how many steps in the stage: at least one,
            drawn in the first of them. A slot that an op then names leaves in the next step in which none does.
        rows_start: row -> its value at the beginning of an episode, or a function of the first slot states to
            ``[batch]``. A row that is left out begins as the first of its values: False, 0, or a member.
        rows: ``(before, actions, after, rows, noise)`` -> name -> bool or integer ``[batch]``; others stay.
        clocks: ``(before, actions, after, rows, noise)`` -> name of a feature, ``"age"`` too, but not the stage ->
            bool or integer ``[batch, slots]``; others stay, and empty slots hold 0.
        head_masks: ``(states, rows)`` -> name of a head -> bool; see ``MaskEngine``.
        horizon: steps of an episode.
        uniforms: how many columns the noise of ``rows`` and ``clocks`` has.
        start: a function of empty slot states, int32 ``[batch, slots, features]``, to those in which an episode begins;
            by default all slots are empty.
        heuristic: ``(states, rows, masks)`` -> actions int64 ``[batch, heads]``, what is legal being in ``masks``,
            ``ActionMasks`` of the states: a baseline for what is learned. It is not compiled.

    Raises:
        RulesError: ``leaves`` that name no stage, no transition or no probabilities, a row that is none, or ``rows``
            where the rules have none.
        ValueError: an argument of another kind. When an environment is made: a function that gives something else than
            is said here on random states, or something else compiled.

    Warns:
        UserWarning: transitions that neither an op nor ``leaves`` takes.
    """

    def __init__(
        self,
        rules: MaskRules,
        *,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor],
        leaves: Mapping[Any, Chances | tuple[Any, Chances]] = {},
        rows_start: Mapping[str, int | Callable[[Tensor], Tensor]] = {},
        rows: Change | None = None,
        clocks: Change | None = None,
        head_masks: Callable[[Tensor, Values], Values] | None = None,
        horizon: int = 25,
        uniforms: int = 0,
        start: Callable[[Tensor], Tensor] | None = None,
        heuristic: Callable[[Tensor, Values, ActionMasks], Tensor] | None = None,
    ):
        if not isinstance(rules, MaskRules):
            raise ValueError(f"rules must be MaskRules, got {type(rules).__name__}")
        functions: dict[str, Any] = {"reward": reward, "clocks": clocks, "rows": rows, "head_masks": head_masks}
        functions["start"] = start
        for name, function in (*functions.items(), ("heuristic", heuristic)):
            if not (callable(function) or (function is None and name != "reward")):
                raise ValueError(f"{name} must be a function, got {function!r:.80}")
        for name, value, least in (("horizon", horizon, 1), ("uniforms", uniforms, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r:.80}")
        for name, mapping in (("leaves", leaves), ("rows_start", rows_start)):
            if not isinstance(mapping, Mapping):
                raise ValueError(f"{name} must be a mapping, got {type(mapping).__name__}")
        if rows is not None and not rules.row_features:
            raise RulesError(f"rows: {rules.name} has no row_features, so there is nothing to give; leave it out")
        self.rules, self.horizon, self.uniforms, self.functions = rules, horizon, uniforms, functions
        self.heuristic = heuristic
        self.leaves = tuple(_leaving(rules, stage, what) for stage, what in leaves.items())
        self.starts = _starts(rules, rows_start)
        if notes := [*_never_taken(rules, leaves)]:
            warnings.warn(f"{rules.name}: neither an op nor leaves takes {'; '.join(notes)}", stacklevel=2)

    def __call__(self, engine: MaskEngine) -> "RunningRules":
        """The dynamics for an engine.

        Raises:
            ValueError: an engine of other rules.
        """
        settings = product(*self.rules.switches.values())
        made = (self.rules.resolve(**dict(zip(self.rules.switches, setting))) for setting in settings)
        if engine.fingerprint not in (rules.fingerprint for rules in made):
            raise ValueError(
                f"the environment has the rules {engine.rules.name}, and its RuleDynamics those of {self.rules.name}"
                + ", which are others of this name" * (engine.rules.name == self.rules.name)
                + ": make both of the same"
            )
        return RunningRules(engine, self)


class RunningRules(Dynamics):
    """What ``RuleDynamics`` make for an engine."""

    def __init__(self, engine: MaskEngine, of: RuleDynamics):
        super().__init__(engine)
        rules, layout = of.rules, engine.layout
        self.of, self.slots, self.empty = of, len(engine.slot_ids), int(rules.empty)
        self.uniforms, self.episode_length = self.slots + of.uniforms, of.horizon
        self.op_at = layout.head_names.index(OP)
        to_slots = (SLOT, *(head.name for head in rules.slot_heads))
        self.naming = [(at, head.users) for at, head in enumerate(layout.heads) if head.name in to_slots]
        self.features = {STAGE: rules.stages, AGE: int, **rules.features}
        self.row_features = dict(rules.row_features)
        names = [
            f"{slot}: {name}"
            for feature, domain in self.features.items()
            for name in _names(feature, domain)
            for slot in engine.slot_ids
        ]
        names += [f"row {name}" for row, domain in self.row_features.items() for name in _names(row, domain)]
        self.obs_names = (*names, "time", "seeds")
        if of.heuristic is not None:
            self.heuristic = self._play
        self.fingerprint = self.digest(
            of.leaves, tuple(of.starts.items()), *of.functions.values(), of.horizon, of.uniforms
        )

    def fresh(self, batch: int) -> RuleState:
        """All slots empty, or as ``start`` has them."""
        states, device, start = self.engine.empty_slots(batch), self.engine.device, self.of.functions["start"]
        if start is not None:
            states = _int("start", start(states.clone()), states.shape, device)
        zero = torch.zeros(batch, dtype=torch.int32, device=device)
        starts = [
            self._row(f"rows_start of {name}", start(states), name, batch) if callable(start) else zero + int(start)
            for name, start in self.of.starts.items()
        ]
        rows = torch.stack(starts) if starts else zero.new_zeros(0, batch)
        dwell = torch.zeros(self.slots, batch, dtype=torch.int32, device=device)
        return RuleState(states, zero, zero.clone(), zero.float(), dwell, rows)

    def given(self, state: RuleState) -> Given:
        """The rows, and what ``head_masks`` gives."""
        rows, head_masks = self._rows(state), self.of.functions["head_masks"]
        made: Given = {"row": rows} if rows else {}
        return made if head_masks is None else {**made, "head_masks": head_masks(state.states, rows)}

    def advance(self, state: RuleState, actions: Tensor, noise: Tensor) -> tuple[RuleState, Outcome]:
        """See ``RuleDynamics``. Noise is for each slot, then for ``clocks`` and ``rows``."""
        limit, before, batch = self.engine.max_seeds, state.states, len(state.epoch)
        uniform, extra = noise[:, : self.slots].movedim(-1, 0), noise[:, self.slots :]
        totals = state.total_seeds if limit > 0 else None
        moved, legal = self.engine.successors(before, actions, totals, max_seeds=limit, **self.given(state))
        told = torch.where(legal.unsqueeze(-1), actions.long(), -1)
        was, (stage, age, *features) = before[..., 0].movedim(-1, 0), moved.movedim(0, -1).unbind(1)  # [slots, batch]

        following, dwell = self._leave(state, was, stage, ~self._named(told), uniform)
        occupied = following != self.empty
        columns = [following, age + 1, *features]
        after = torch.stack([columns[0], *[torch.where(occupied, column, 0) for column in columns[1:]]])
        after = after.permute(2, 1, 0)  # [batch, slots, features]

        rows, clocks, changes = self._rows(state), self.of.functions["clocks"], self.of.functions["rows"]
        if clocks is not None:
            after = self._clocked(after, clocks(before, told, after, rows, extra))
        reward = self._reward(before, told, after)
        kept = state.rows
        if changes is not None:
            new = _mapping("rows", changes(before, told, after, rows, extra), self.row_features)
            kept = torch.stack(
                [self._row("rows", new[name], name, batch) if name in new else old for name, old in zip(rows, kept)]
            )
        filled = ((was == self.empty) & (stage != self.empty)).any(0)
        ends = state.epoch + 1 >= self.episode_length
        made = RuleState(after, state.total_seeds + filled.int(), state.epoch, state.returns, dwell, kept)
        return made, Outcome(reward, ends, ~legal)

    def observe(self, state: RuleState) -> Tensor:
        """See ``RuleDynamics``; ``obs_names`` has the order."""
        columns, horizon = state.states.movedim(0, -1).unbind(1), self.episode_length  # [slots, batch]
        parts = []
        for (feature, domain), column in zip(self.features.items(), columns):
            parts += [column.float() / horizon] if feature == AGE else _scaled(column, domain, horizon)
        for domain, row in zip(self.row_features.values(), state.rows.unsqueeze(1)):
            parts += _scaled(row, domain, horizon)
        limit = self.engine.max_seeds
        time, seeds = state.epoch.float() / horizon, state.total_seeds.float() / (limit if limit > 0 else horizon)
        return torch.cat([*parts, torch.stack([time, seeds])]).movedim(0, -1)

    def check(self, mode: Mode) -> None:
        """Try all functions on random states, and beside that compiled, where the environment is."""
        generator = torch.Generator().manual_seed(0)
        with self._naming():
            state = self._any_state(generator)
            actions, noise = some_step(self, state, generator)
            actions[0] = -1
            if self.heuristic is not None:
                self.heuristic(state)
            after, outcome = self.advance(state, actions, noise)
        try:
            self.engine.check_slots(self.fresh(1).states)
        except SlotStateError as error:
            raise SlotStateError(f"start: {error}") from None
        if bad := int((~outcome.reward.isfinite()).sum()):
            at = int(outcome.reward.isfinite().int().argmin())
            raise ValueError(
                f"reward is {float(outcome.reward[at])} in a step from the random states {state.states[at].tolist()} "
                f"by {actions[at].tolist()} to {after.states[at].tolist()}, and not finite in {bad} of {PROBED}"
            )
        self._check_values("rows", self.row_features, after.rows)
        occupied = after.states[after.states[..., 0] != self.empty]
        self._check_values("clocks", self.of.rules.features, occupied[:, 2:].unbind(-1))
        if (least := int(after.states[..., 1].min())) < 0:
            raise ValueError(f"clocks: 'age' becomes {least}; wanted at least 0")
        if mode == "eager":
            return
        rows = self._rows(state)
        told = torch.where(outcome.illegal.unsqueeze(-1), -1, actions)
        step = (state.states, told, after.states, rows, noise[:, self.slots :])
        given = {"reward": step[:3], "clocks": step, "rows": step, "head_masks": (state.states, rows)}
        given["start"] = (self.engine.empty_slots(PROBED),)
        tried = [(name, function, given[name]) for name, function in self.of.functions.items() if function is not None]
        starts = ((name, start) for name, start in self.of.starts.items() if callable(start))
        tried += [(f"rows_start of {name}", start, (state.states,)) for name, start in starts]
        for name, function, arguments in tried:
            check_compiled(name, function, [arguments])

    # -- parts --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say in which function, and in which line of it, an error was raised that is not ours."""
        try:
            yield
        except Exception as error:
            functions = {**self.of.functions, "heuristic": self.of.heuristic}
            functions |= {f"rows_start of {name}": start for name, start in self.of.starts.items()}
            named = {getattr(function, "__code__", None): name for name, function in functions.items()}
            for frame, line in traceback.walk_tb(error.__traceback__):
                if name := named.get(frame.f_code):
                    where = f"{os.path.basename(frame.f_code.co_filename)}:{line}"
                    indexes = name in ("clocks", "rows") and isinstance(error, IndexError | RuntimeError)
                    noise = f"; noise has {self.of.uniforms} columns, uniforms= says how many" * indexes
                    noise += f"; the rows are {', '.join(map(repr, self.row_features))}" * isinstance(error, KeyError)
                    reason = f"{name} raised {type(error).__name__} in {where}: {error}{noise}"
                    raise ValueError(reason) from error
            raise

    def _check_values(self, what: str, domains: Mapping[str, Any], columns: Iterable[Tensor]) -> None:
        """Raise ``ValueError`` for a value that is none of its domain."""
        for (name, domain), values in zip(domains.items(), columns):
            if (known := values_of(domain)) is not None and (wrong := set(values.tolist()) - set(known)):
                raise ValueError(f"{what}: {name!r} becomes {min(wrong)}; wanted {told_values(domain)}")

    def _named(self, actions: Tensor) -> Tensor:
        """In which slots legal actions act: those that a head names which the op uses, bool ``[slots, batch]``."""
        op = actions[:, self.op_at]
        bit = torch.ones_like(op) << op.clamp_min(0)
        slots = torch.arange(self.slots, device=op.device).unsqueeze(-1)
        named = torch.zeros(self.slots, len(op), dtype=torch.bool, device=op.device)
        for at, users in self.naming:
            named = named | (actions[:, at] == slots) & (bit & users != 0)
        return named

    def _leave(
        self, state: RuleState, was: Tensor, stage: Tensor, free: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stages after ``leaves``, and dwell times, from those before the op and after it; ``[slots, batch]`` all.

        A dwell time is drawn in the first step that begins in the stage, so that an episode, too, may begin in one.
        """
        following, dwell = stage, torch.zeros_like(state.dwell)
        for source, target, draws in self.of.leaves:
            here = stage == source
            if target is None:
                following = torch.where(here & free, _drawn(uniform, draws), following)
                continue
            left = torch.where(state.dwell == 0, _drawn(uniform, draws), state.dwell) - 1
            leaves = here & free & (left <= 0)
            following = torch.where(leaves, target, following)
            dwell = torch.where(here & (was == source) & ~leaves, left.clamp_min(1), dwell)
        return following, dwell

    def _play(self, state: RuleState) -> Tensor:
        """What ``heuristic`` does."""
        play = self.of.heuristic
        assert play is not None  # it is a method only where there is one
        actions = play(state.states, self._rows(state), self.masks(state))
        wanted = len(state.epoch), len(self.engine.layout.heads)
        check_tensor("heuristic", actions, wanted, torch.int64, self.engine.device)
        return actions

    def _rows(self, state: RuleState) -> dict[str, Tensor]:
        items = zip(self.row_features.items(), state.rows.unbind(0))
        return {name: row != 0 if domain is bool else row for (name, domain), row in items}

    def _row(self, what: str, values: Any, name: str, batch: int) -> Tensor:
        """Values of a row, as the state holds them."""
        return _int(f"{what}: {name!r}", values, (batch,), self.engine.device, self.row_features[name] is bool)

    def _clocked(self, after: Tensor, given: Any) -> Tensor:
        """States with the values that ``clocks`` gives."""
        features = {AGE: int, **self.of.rules.features}
        new, columns = _mapping("clocks", given, features), list(after.unbind(-1))
        for feature, values in new.items():
            at, may_be_bool = self.engine.feature_names.index(feature), features[feature] is bool
            values = _int(f"clocks: {feature!r}", values, after.shape[:2], after.device, may_be_bool)
            columns[at] = torch.where(columns[0] != self.empty, values, 0)
        return torch.stack([column.movedim(-1, 0) for column in columns]).permute(2, 1, 0)

    def _reward(self, before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        reward: Tensor = self.of.functions["reward"](before, actions, after)
        check_tensor("reward", reward, before.shape[:1], torch.float32, before.device)
        return reward

    def _any_state(self, generator: torch.Generator) -> RuleState:
        """Random values that the rules know, in ``PROBED`` environments; ints are from 0 to horizon."""

        def some(domain: Any, *size: int) -> Tensor:
            known = torch.tensor(values_of(domain) or range(self.episode_length + 1), dtype=torch.int32)
            return known[torch.randint(len(known), size, generator=generator)].to(self.engine.device)

        stage, *rest = (some(domain, PROBED, self.slots) for domain in self.features.values())
        states = torch.stack([stage, *[torch.where(stage == self.empty, 0, column) for column in rest]], -1)
        rows = [some(domain, PROBED) for domain in self.row_features.values()]
        state = self.fresh(PROBED)
        return state._replace(states=states, rows=torch.stack(rows) if rows else state.rows)


# -- what is observed -------------------------------------------------------------------------------------------------


def _names(name: str, domain: Any) -> list[str]:
    known = values_of(domain)
    return [name] if domain is bool or known is None else [f"{name} {name_of(domain, value)}" for value in known]


def _scaled(values: Tensor, domain: Any, horizon: int) -> list[Tensor]:
    """A bool as it is, an int as x / (|x| + horizon), members one-hot; float32 of the shape of the values."""
    known = values_of(domain)
    if known is None:
        return [values.float() / (values.float().abs() + horizon)]
    return [values.float()] if domain is bool else [(values == value).float() for value in known]


# -- what is drawn ----------------------------------------------------------------------------------------------------


def _ladder(chances: Iterable[tuple[int, float]]) -> Ladder:
    """Values with their probabilities as steps over a uniform number; the last one has what is left."""
    some = [(value, chance) for value, chance in chances if chance > 0]
    sums = [math.fsum(chance for _, chance in some[:at]) for at in range(1, len(some))]
    return some[0][0], tuple((above, value) for above, (value, _) in zip(sums, some[1:]))


def _drawn(uniform: Tensor, ladder: Ladder) -> Tensor:
    """The value of a ladder at each uniform number, int32."""
    first, steps = ladder
    drawn = torch.full_like(uniform, first, dtype=torch.int32)
    for above, value in steps:
        drawn = torch.where(uniform >= above, value, drawn)
    return drawn


# -- what is checked --------------------------------------------------------------------------------------------------


def _leaving(rules: MaskRules, stage: Any, what: Any) -> Leaving:
    """An entry of ``leaves``.

    Raises:
        RulesError: one that is none.
    """
    if not isinstance(stage, rules.stages):
        raise RulesError(
            f"leaves: {stage!r} is no stage of {rules.name}; they are {either(s.name for s in rules.stages)}"
        )
    where, dwells = f"leaves of {stage.name}", isinstance(what, tuple) and len(what) == 2
    target, chances = what if dwells else (None, what)
    chances = {chances: 1} if dwells and type(chances) is int else chances
    if not isinstance(chances, Mapping) or (dwells and not chances):
        raise RulesError(
            f"{where}: wanted {{target: probability}} or (target, {{steps: probability}}), got {what!r:.80}"
        )
    for to in [target] if dwells else chances:
        if to not in rules.transitions[stage] or not isinstance(to, IntEnum):
            known = either(to.name for to in rules.transitions[stage]) or "no other stage"
            named = to.name if isinstance(to, IntEnum) else repr(to)
            raise RulesError(f"{where}: {stage.name} -> {named} is no transition; {rules.name} leads to {known}")
    for key, chance in chances.items():
        if dwells and (type(key) is not int or not 1 <= key <= INT32[-1]):
            raise RulesError(f"{where}: {key!r} steps; wanted an int of at least 1")
        if not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise RulesError(f"{where}: the probability of {getattr(key, 'name', key)} is {chance!r}; wanted 0 to 1")
    total = math.fsum(chances.values())
    if total > 1 + NEAR or (dwells and total < 1 - NEAR):
        raise RulesError(f"{where}: the probabilities add up to {total:g}; wanted {'' if dwells else 'at most '}1")
    some = [(int(key), chance) for key, chance in chances.items()]
    stays = [(int(stage), 1 - total)] if not dwells and total < 1 - NEAR else []
    return Leaving(int(stage), None if target is None else int(target), _ladder([*some, *stays]))


def _starts(rules: MaskRules, given: Mapping[str, Any]) -> dict[str, Any]:
    """How each row begins.

    Raises:
        RulesError: a row that is none, or a value that is none of it.
    """
    if unknown := [name for name in given if name not in rules.row_features]:
        raise RulesError(f"rows_start: {unknown[0]!r} is no row of {rules.name}; it has {_told(rules.row_features)}")
    made = {}
    for name, domain in rules.row_features.items():
        known = values_of(domain) or (0,)
        start = made[name] = given.get(name, known[0])
        if not callable(start) and not (isinstance(start, int) and start in (values_of(domain) or INT32)):
            raise RulesError(
                f"rows_start: {name!r} begins as {start!r:.80}; wanted {told_values(domain)}, or a function"
            )
    return made


def _never_taken(rules: MaskRules, leaves: Mapping[Any, Any]) -> Iterator[str]:
    """Transitions that nothing takes, a text for each stage that has any."""
    taken = {(stage, to) for op in rules.op_rules for stage, to in rules.edges(op.id).items()}
    taken |= {edge for head in rules.slot_heads for edge in head.moves.items()}
    taken |= {(s, to) for s, what in leaves.items() for to in ([what[0]] if isinstance(what, tuple) else what)}
    for stage, targets in rules.transitions.items():
        if never := [to.name for to in targets if (stage, to) not in taken]:
            yield f"{stage.name} -> {', '.join(never)}"


def _mapping(what: str, given: Any, known: Iterable[str]) -> Mapping[str, Any]:
    """What ``clocks`` or ``rows`` gave, if it is a mapping from their names."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must give a mapping from name to tensor, got {type(given).__name__}")
    for name in given:
        if name not in known:
            kind = "feature that may change" if what == "clocks" else "row"
            raise ValueError(f"{what} gives {name!r}, which is no {kind}; there is {_told(known)}")
    return given


def _told(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _int(what: str, values: Any, shape: Any, device: torch.device, may_be_bool: bool = False) -> Tensor:
    """Values as int32, if they are integers of a shape.

    Raises:
        ValueError: they are not.
    """
    kind: torch.dtype = getattr(values, "dtype", torch.int32)
    fits = not (kind.is_floating_point or kind.is_complex) and (may_be_bool or kind != torch.bool)
    check_tensor(what, values, shape, kind if fits else torch.int32, device)
    made: Tensor = values.int()
    return made
