"""Slot states: Python objects packed into one integer tensor, and back-to-front checks of its values.

Shape everybody sees: ``[batch, slots, features]``. Storage: feature-major with the batch contiguous,

    stage  slot 0: env 0, env 1, ...   slot 1: env 0, env 1, ...   age  slot 0: ...

so that vector lanes and GPU threads run over environments. Any other strides work too.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from esper_masks.errors import SlotStateError
from esper_masks.rules import MaskRules
from esper_masks.rules.fields import name_of, values_of
from esper_masks.rules.names import AGE, STAGE


class SlotState:
    """What one occupied slot holds.

    >>> SlotState("BLENDING", 6, alpha_mode="UP")
    SlotState('BLENDING', 6, alpha_mode='UP')

    Args:
        stage: a stage of the rules, a member or its name; any other integer is an occupied, inert slot.
        age: the seed's age, in the unit of the rules' ``min_age``.
        features: further features in the order of ``rules.feature_names``, or by name; members of their enums, integers
            or names, 0 where not given.
    """

    __slots__ = ("named", "values")

    def __init__(self, stage: int | str, age: int = 0, *features: int | str, **named: int | str):
        self.values: tuple[int | str, ...] = (stage, age, *features)
        self.named = named

    @property
    def stage(self) -> int | str:
        return self.values[0]

    @property
    def age(self) -> int | str:
        return self.values[1]

    def row(self, rules: MaskRules) -> tuple[int | str, ...]:
        """Stage, age and further features, in the order of ``rules.feature_names``; names as they were given."""
        names, missing = rules.feature_names, len(rules.feature_names) - len(self.values)
        if missing < 0:
            raise SlotStateError(f"{self!r} has {len(self.values)} features; {rules.name} has {len(names)}")
        values: dict[str, int | str] = dict(zip(names, self.values + (0,) * missing))
        for name, value in self.named.items():
            if name not in names[len(self.values) :]:
                known = ", ".join(names)
                raise SlotStateError(f"{self!r}: feature {name!r} is given twice or unknown; {rules.name} has {known}")
            values[name] = value
        return tuple(values.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotState) and (self.values, self.named) == (other.values, other.named)

    def __hash__(self) -> int:
        return hash((self.values, frozenset(self.named.items())))

    def __repr__(self) -> str:
        return (
            f"SlotState({', '.join([*map(_show, self.values), *(f'{k}={_show(v)}' for k, v in self.named.items())])})"
        )


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


SlotMapping = Mapping[str, SlotState | None]


def allocate_states(batch: int, slots: int, features: int, device: torch.device, pin: bool = False) -> Tensor:
    """Uninitialized int32 ``[batch, slots, features]`` in batch-last memory."""
    storage = torch.empty((features, slots, batch), dtype=torch.int32, device=device, pin_memory=pin)
    return rearrange(storage, "features slots batch -> batch slots features")


def pack_slots(rules: MaskRules, slot_ids: Sequence[str], batch: Iterable[SlotMapping], device: torch.device) -> Tensor:
    """One tensor of all slots of a batch, in one pass and one transfer.

    Returns: int32 ``[batch, slots, features]`` on the device, batch-last in memory.
    Raises:
        SlotStateError: an unknown slot id, something that is not a ``SlotState``, or a value that is neither int32
            nor a name of the rules, with its environment, slot and feature.
    """
    batch = list(batch)
    known, width = frozenset(slot_ids), len(rules.feature_names)
    empty_row = (int(rules.empty),) + (0,) * (width - 1)
    values: list[Any] = []
    for env, slots in enumerate(batch):
        if not isinstance(slots, Mapping):
            raise SlotStateError(f"env {env}: wanted a mapping from slot id to SlotState or None, got {slots!r:.80}")
        if not slots.keys() <= known:
            unknown = ", ".join(repr(key) for key in slots if key not in known)
            raise SlotStateError(f"env {env}: no slot {unknown}; the slots are {', '.join(slot_ids)}")
        for slot_id in slot_ids:
            state = slots.get(slot_id)
            if state is None:
                values += empty_row
            elif not isinstance(state, SlotState):
                raise SlotStateError(f"env {env} slot {slot_id!r}: wanted a SlotState or None, got {state!r:.80}")
            elif len(state.values) == width and not state.named:
                values += state.values
            else:
                try:
                    values += state.row(rules)
                except SlotStateError as error:
                    raise SlotStateError(f"env {env} slot {slot_id!r}: {error}") from None
    try:
        buffer = array("i", values)
    except (TypeError, OverflowError):  # a name, or something that is no 32-bit integer
        places = product(range(len(batch)), slot_ids, rules.feature_names)
        buffer = array("i", [_number(rules, value, *place) for value, place in zip(values, places)])
    packed = allocate_states(len(batch), len(slot_ids), width, torch.device("cpu"), pin=device.type == "cuda")
    if values:
        packed.copy_(torch.frombuffer(buffer, dtype=torch.int32).view(packed.shape))
    return packed.to(device, non_blocking=True)


def _number(rules: MaskRules, value: Any, env: int, slot: str, feature: str) -> int:
    """A value of a slot state as an integer; names are those of the feature's enum."""
    domain = domain_of(rules, feature)
    if isinstance(value, str) and (known := values_of(domain)) is not None:
        names = {name_of(domain, number): number for number in known}
        if value in names:
            return names[value]
        raise SlotStateError(f"env {env} slot {slot!r}: {feature} {value!r:.80} is not one of {_members(domain)}")
    try:
        number: int = array("i", [value])[0]
        return number
    except (TypeError, OverflowError) as error:
        raise SlotStateError(f"env {env} slot {slot!r}: {feature} {value!r:.80} is no 32-bit integer") from error


def check_slots(rules: MaskRules, slot_ids: Sequence[str], states: Tensor) -> None:
    """Raise for the first value in ``states``, ``[..., slots, features]``, that the rules do not know.

    Raises:
        SlotStateError: a stage, age below 0, or feature value outside the rules, with its environment and slot.
    """
    wrong = torch.empty(states.shape, dtype=torch.bool, device=states.device)
    for column, feature in enumerate(rules.feature_names):
        numbers, values = values_of(domain_of(rules, feature)), states[..., column].long()
        if numbers is not None:
            wrong[..., column] = ~torch.isin(values, torch.tensor(numbers, device=states.device))
        else:
            wrong[..., column] = values < 0 if feature == AGE else False
    faults = wrong.nonzero()
    if not len(faults):
        return
    *env, slot, column = faults[0].tolist()
    feature = rules.feature_names[column]
    why = "is negative" if feature == AGE else f"is not one of {_members(domain_of(rules, feature))}"
    if feature == "stage":
        known = _members(rules.stages)
        why = f"is not a stage of {rules.name} (stages: {known}); an empty slot is {rules.empty.name}"
    where = f"env {env[0] if len(env) == 1 else tuple(env)} " if env else ""
    count = f" ({len(faults)} wrong values in all)" if len(faults) > 1 else ""
    raise SlotStateError(f"{where}slot {slot_ids[slot]!r}: {feature} {int(states[(*env, slot, column)])} {why}{count}")


def domain_of(rules: MaskRules, feature: str) -> Any:
    """What a feature may hold; the age, any number from 0 on."""
    return rules.stages if feature == STAGE else int if feature == AGE else rules.features[feature]


def _members(domain: Any) -> str:
    return ", ".join(f"{name_of(domain, value)} {value}" for value in values_of(domain) or ())
