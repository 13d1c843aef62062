"""Replay of event logs: the real ones, made-up ones with every fault, and anything at all."""

import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em
from esper_masks import reference
from esper_masks.telemetry import Replay, Report
from esper_masks.telemetry.events import Germinated, Malformed, Other, Outcome, StageChanged, clean, parse_line
from esper_masks.telemetry.replay import MAX_SLOTS
from esper_masks.telemetry.report import MAX_NAMES, OTHER_NAMES
from tests.helpers import shared
from tests.logs import event, germinate, move, outcome

DECEMBER = em.ruleset("esper-2025-12")


def replay(*lines: bytes, rules: em.MaskRules = DECEMBER, **options: Any) -> Report:
    reader = Replay(rules, **options)
    reader.read(io.BytesIO(b"".join(lines)), "log.jsonl")
    return reader.report


def reasons(report: Report) -> list[tuple[int, str, str]]:
    return [(finding.line, finding.what, finding.why) for finding in report.findings]


GROW = (germinate(), move("GERMINATED", "TRAINING"), move("TRAINING", "BLENDING"), move("BLENDING", "PROBATIONARY"))


# -- the real logs ---------------------------------------------------------------------------------------------------


def test_the_log_whose_figures_are_known() -> None:
    log = shared("telemetry/2025-12-06_054426.jsonl")
    for name, illegal, transitions in (
        ("esper-2025-11", {}, {}),
        ("esper-2025-12", {"CULL": 19}, {"BLENDING->SHADOWING": 104, "SHADOWING->PROBATIONARY": 82}),
    ):
        reader = Replay(em.ruleset(name))
        with log.open("rb") as stream:
            reader.read(stream, log.name)
        result = reader.report.to_json()
        assert {key: result[key] for key in ("files", "lines", "malformed", "seeds", "episodes", "transitions")} == {
            "files": 1,
            "lines": 810,
            "malformed": 0,
            "seeds": 130,
            "episodes": 97,
            "transitions": 560,
        }
        assert result["ops"] == {"GERMINATE": 130, "CULL": 47, "FOSSILIZE": 73}
        assert result["illegal"] == illegal
        assert result["illegal_transitions"] == transitions
        assert result["unknown_stages"] == ({"SHADOWING": 104} if transitions else {})
        assert result["age_unknown"] == 0
        assert len(result["findings"]) == sum(illegal.values()) + sum(transitions.values())


def test_what_is_illegal_in_the_other_logs() -> None:
    reader = Replay(em.ruleset("esper-2025-11"))
    for name in ("2025-12-06_172006", "2025-12-07_081426"):
        with shared(f"telemetry/{name}.jsonl").open("rb") as stream:
            reader.read(stream, name)
    report = reader.report
    assert (report.files, report.lines, report.malformed) == (2, 1080 + 1350, 0)
    assert report.illegal == {}
    assert report.illegal_transitions == {"DORMANT->SHADOWING": 1}
    assert [(f.file, f.line, f.seed, f.what) for f in report.findings] == [
        ("2025-12-07_081426", 1098, "env2_seed_1", "log and tracked state disagree"),
        ("2025-12-07_081426", 1098, "env2_seed_1", "illegal transition DORMANT->SHADOWING"),
    ]
    assert report.other_events["TAMIYO_INITIATED"] == 200


# -- what is judged --------------------------------------------------------------------------------------------------


def test_a_whole_life_is_legal() -> None:
    report = replay(*GROW, move("PROBATIONARY", "FOSSILIZED"), outcome("FOSSILIZED", 12))
    assert reasons(report) == []
    assert report.ops == {"GERMINATE": 1, "FOSSILIZE": 1}
    assert (report.seeds, report.episodes, report.transitions, report.age_unknown) == (1, 1, 4, 0)


def test_an_op_is_judged_by_the_age_that_follows() -> None:
    for age, illegal in ((0, {"CULL": 1}), (1, {}), (10**15, {})):
        report = replay(germinate(), move("GERMINATED", "CULLED"), outcome("CULLED", age))
        assert report.illegal == illegal
        assert report.age_unknown == 0
    assert reasons(replay(germinate(), move("GERMINATED", "CULLED"), outcome("CULLED", 0))) == [
        (2, "illegal CULL", "age 0 < 1")
    ]


@pytest.mark.parametrize(
    "after",
    [
        (),
        (outcome("CULLED", None),),
        (germinate(seed=1),),
        (germinate(seed=0),),
        (outcome("CULLED", 0, seed=7),),
        (outcome("FOSSILIZED", 0),),
        (outcome("CULLED", 0, slot="mid"),),
    ],
    ids=["end", "no age", "next seed", "next episode", "another seed", "another outcome", "another slot"],
)
def test_an_age_that_does_not_follow_is_unknown_and_passes(after: tuple[bytes, ...]) -> None:
    report = replay(germinate(), move("GERMINATED", "CULLED"), *after)
    assert report.age_unknown == 1
    assert report.illegal == {}


def test_a_highest_age_is_judged_and_an_unknown_age_passes_it() -> None:
    ops = [replace(op, max_age=3 if op.name == "CULL" else None) for op in DECEMBER.op_rules]
    rules = replace(DECEMBER, op_rules=ops)
    culled = (germinate(), move("GERMINATED", "CULLED"))
    for age, why in ((0, "age 0 < 1"), (1, None), (3, None), (4, "age 4 > 3"), (10**15, f"age {2**31 - 1} > 3")):
        report = replay(*culled, outcome("CULLED", age), rules=rules)
        assert reasons(report) == ([] if why is None else [(2, "illegal CULL", why)])
    report = replay(*culled, rules=rules)
    assert (report.age_unknown, report.illegal, report.not_judged) == (1, {}, ("seed limit of GERMINATE",))


def test_an_outcome_may_follow_later_if_the_slot_is_quiet() -> None:
    report = replay(germinate(), move("GERMINATED", "CULLED"), germinate(1), b"junk\n", outcome("CULLED", 0))
    assert report.illegal == {"CULL": 1}


def test_illegal_ops_and_their_reasons() -> None:
    assert reasons(replay(germinate(), germinate(seed=1))) == [
        (2, "illegal GERMINATE", "stage GERMINATED, needs DORMANT")
    ]
    assert reasons(replay(germinate(), move("GERMINATED", "FOSSILIZED"), outcome("FOSSILIZED"))) == [
        (2, "illegal FOSSILIZE", "stage GERMINATED, needs PROBATIONARY")
    ]
    assert reasons(replay(germinate(), move("GERMINATED", "BLENDING"))) == [
        (
            2,
            "illegal transition GERMINATED->BLENDING",
            "GERMINATED may go to TRAINING, CULLED; the slot is GERMINATED since line 1 (env0_seed_0)",
        )
    ]
    # after an illegal event the state follows the log
    assert replay(germinate(), move("GERMINATED", "BLENDING"), move("BLENDING", "PROBATIONARY")).disagreements == 0


def test_a_ghost_seed() -> None:
    """A culled seed that keeps changing stage, as one of the real logs has it."""
    report = replay(*GROW[:3], move("BLENDING", "CULLED"), outcome("CULLED"), move("BLENDING", "PROBATIONARY"))
    assert reasons(report) == [
        (
            6,
            "log and tracked state disagree",
            "the event says from BLENDING, the slot is DORMANT since env0_seed_0 was CULLED in line 4",
        ),
        (
            6,
            "illegal transition DORMANT->PROBATIONARY",
            "DORMANT may go to GERMINATED; the slot is DORMANT since env0_seed_0 was CULLED in line 4",
        ),
    ]
    assert report.disagreements == 1


def test_a_seed_that_is_not_the_one_in_the_slot() -> None:
    report = replay(germinate(), move("GERMINATED", "TRAINING", seed=5))
    assert [(line, what) for line, what, _ in reasons(report)] == [(2, "log and tracked state disagree")]
    assert report.illegal_transitions == {}


def test_an_outcome_out_of_place() -> None:
    twice = replay(germinate(), move("GERMINATED", "CULLED"), outcome("CULLED"), outcome("CULLED"))
    assert twice.outcomes_out_of_place == 1
    report = replay(germinate(), outcome("FOSSILIZED"))
    assert reasons(report) == [
        (
            2,
            "FOSSILIZED out of place",
            "no stage change of this seed into FOSSILIZED came before; "
            "the slot is GERMINATED since line 1 (env0_seed_0)",
        )
    ]


def test_episodes() -> None:
    """A number that is not above the last one starts a new episode of that environment alone, with empty slots."""
    report = replay(
        germinate(0, 0), germinate(0, 1, "mid"), germinate(1, 0), germinate(0, 1, "early"), germinate(0, 2, "mid")
    )
    assert report.episodes == 3
    assert report.illegal == {}
    assert replay(germinate(0, 0), germinate(0, 1)).illegal == {"GERMINATE": 1}
    # a log that begins in the middle of a run: the first germination it shows does not empty the other slots
    report = replay(move("TRAINING", "BLENDING"), germinate(0, 1, "mid"), move("BLENDING", "PROBATIONARY"))
    assert (report.episodes, report.disagreements) == (1, 1)


def test_a_new_episode_leaves_nothing_behind() -> None:
    """Not the op that waited for its age, not the seed that was in the slot."""
    before = (germinate(), move("GERMINATED", "CULLED"))
    after = (germinate(slot="mid"), move("DORMANT", "GERMINATED", seed=9), outcome("CULLED", 0))
    report = replay(*before, *after)
    assert (report.episodes, report.age_unknown, report.illegal) == (2, 1, {})
    assert (report.disagreements, report.outcomes_out_of_place) == (0, 1)
    stale = replay(*before, germinate(slot="mid"), move("CULLED", "EMBARGOED"))
    assert (stale.disagreements, stale.illegal_transitions) == (1, {"DORMANT->EMBARGOED": 1})


def test_a_log_that_begins_in_the_middle_of_an_episode() -> None:
    """The numbers of the seeds it shows count, although their germination came before."""
    report = replay(move("BLENDING", "PROBATIONARY", seed=3), germinate(seed=0))
    assert (report.episodes, report.illegal) == (2, {})
    assert replay(move("BLENDING", "PROBATIONARY", seed=3), germinate(seed=4)).illegal == {"GERMINATE": 1}


def test_a_log_that_records_the_clearing_is_taken_at_its_word() -> None:
    chain = ("CULLED", "EMBARGOED", "RESETTING", "DORMANT")
    clearing = [move(a, b) for a, b in itertools.pairwise(chain)]
    report = replay(germinate(), move("GERMINATED", "CULLED"), outcome("CULLED"), *clearing, germinate(seed=1))
    assert reasons(report) == []
    early = replay(germinate(), move("GERMINATED", "CULLED"), outcome("CULLED"), clearing[0], germinate(seed=1))
    assert reasons(early) == [(5, "illegal GERMINATE", "stage EMBARGOED, needs DORMANT")]


def test_too_many_slots_are_no_log_of_this_kind() -> None:
    report = replay(*(germinate(0, i, f"s{i}") for i in range(MAX_SLOTS + 5)), germinate(1))
    assert (report.seeds, report.malformed) == (MAX_SLOTS + 1, 5)
    assert reasons(report)[0] == (MAX_SLOTS + 1, "malformed line", f"environment 0 has more than {MAX_SLOTS} slots")


def test_blocking_stages_reach_across_slots_of_one_environment() -> None:
    june = em.ruleset("esper-2026-06")
    report = replay(germinate(0, 0, "a"), germinate(1, 0, "b"), germinate(0, 1, "b"), rules=june)
    assert reasons(report) == [(3, "illegal GERMINATE", "slot a is GERMINATED, which blocks it everywhere")]
    again = (germinate(), move("GERMINATED", "PRUNED"), outcome("PRUNED", 9), germinate(seed=1))
    assert reasons(replay(*again, rules=june)) == []
    pruned = (germinate(), move("GERMINATED", "PRUNED"), outcome("PRUNED", 4))
    assert reasons(replay(*pruned, rules=june)) == [(2, "illegal PRUNE", "age 4 < 5")]


def test_features_that_logs_do_not_tell_are_not_held_against_an_op() -> None:
    june = em.ruleset("esper-2026-06")
    report = replay(germinate(), move("GERMINATED", "PRUNED"), outcome("PRUNED", 5), rules=june)
    assert report.illegal == {}
    assert report.not_judged == (
        "alpha_mode of SET_ALPHA_TARGET",
        "alpha_mode of PRUNE",
        "seed limit of GERMINATE",
    )


def test_unknown_stages_are_counted_and_tracked() -> None:
    report = replay(*GROW[:3], move("BLENDING", "SHADOWING"), move("SHADOWING", "CULLED"), outcome("CULLED"))
    assert report.unknown_stages == {"SHADOWING": 1}
    assert report.illegal == {"CULL": 1}
    assert reasons(report)[-1] == (5, "illegal CULL", "the slot is SHADOWING, which is no stage of esper-2025-12")


def test_findings_come_in_line_order_and_are_bounded() -> None:
    late = (germinate(), move("GERMINATED", "CULLED"), b"junk\n", b"junk\n", outcome("CULLED", 0))
    assert [line for line, _, _ in reasons(replay(*late))] == [2, 3, 4]
    report = replay(*[b"junk\n"] * 50, max_findings=7)
    assert (len(report.findings), report.findings_omitted, report.malformed) == (7, 43, 50)


def test_a_flood_of_one_kind_does_not_hide_another() -> None:
    """Ops are judged late; malformed lines once filled the list before the illegal op was known."""
    late = (germinate(), move("GERMINATED", "CULLED"), outcome("CULLED", 0))
    report = replay(*late, *[b"junk\n"] * 20, max_findings=10)
    assert (2, "illegal CULL", "age 0 < 1") in reasons(report)
    assert report.findings_omitted == 10


def test_files_are_separate_runs() -> None:
    reader = Replay(DECEMBER)
    reader.read(io.BytesIO(germinate(seed=0) + move("GERMINATED", "TRAINING") + b"junk\n"), "a")
    reader.read(io.BytesIO(germinate(seed=1) + move("GERMINATED", "BLENDING", seed=1)), "b")
    report = reader.report
    assert (report.files, report.episodes, report.illegal) == (2, 2, {})
    assert [(finding.file, finding.line) for finding in report.findings] == [("a", 3), ("b", 2)]


def test_many_environments_and_slots_cross_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """More judgements than one batch holds, environments of different widths, every seventh op illegal."""
    lines, illegal = [], 0
    for env in range(3000):
        for slot in range(env % 9 + 1):
            lines.append(germinate(env, slot, f"s{slot}"))
        if env % 7 == 0:
            illegal += 1
            lines.append(germinate(env, 99, "s0"))
    judged: list[tuple[int, int]] = []  # rows and slots of each call of an engine
    forward = em.MaskEngine.forward

    def counted(engine: em.MaskEngine, states: Tensor, **given: Any) -> em.ActionMasks:
        judged.append((len(states), len(engine.slot_ids)))
        return forward(engine, states, **given)

    monkeypatch.setattr(em.MaskEngine, "forward", counted)
    report = replay(*lines)
    assert report.illegal == {"GERMINATE": illegal}
    assert report.ops == {"GERMINATE": len(lines)}
    assert sum(rows for rows, _ in judged) == len(lines)
    assert set(Counter(slots for _, slots in judged).values()) <= {2, 3, 4}  # not one by one, and not all at once


# -- a twin in plain loops -------------------------------------------------------------------------------------------

STAGES = ["GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED", "SHADOWING"]


def twin(steps: list[tuple[str, int, str, str, int | None]]) -> tuple[Counter[str], Counter[str]]:
    """Illegal ops and transitions of a one-episode log, judged step by step."""
    rules = DECEMBER.resolve()
    names = {stage.name: int(stage) for stage in rules.stages}
    envs: dict[int, dict[str, str]] = {}
    ops: Counter[str] = Counter()
    moves: Counter[str] = Counter()
    for kind, env, slot, target, age in steps:
        slots = envs.setdefault(env, {})
        now = slots.setdefault(slot, "DORMANT")
        order = list(slots)
        rows = [[names.get(slots[s], -1), 10**6 if age is None or s != slot else age] for s in order]
        op_name = {"GERMINATED": "GERMINATE", "CULLED": "CULL", "FOSSILIZED": "FOSSILIZE"}.get(target)
        if kind == "germinate" or (op_name and target != "GERMINATED"):
            op = next(op for op in rules.op_rules if op.name == op_name)
            if reference.forbids(rules, op, rows, order.index(slot)):
                ops[op.name] += 1
        elif now not in names or target not in names or names[target] not in rules.transitions[rules.stages[now]]:
            moves[f"{now}->{target}"] += 1
        slots[slot] = "DORMANT" if target == "CULLED" else target
    return ops, moves


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["germinate", "move", "move", "move"]),
            st.integers(0, 1),
            st.sampled_from(["early", "mid"]),
            st.sampled_from(STAGES),
            st.one_of(st.none(), st.integers(0, 2)),
        ),
        max_size=30,
    )
)
def test_replay_equals_its_twin(drawn: list[tuple[str, int, str, str, int | None]]) -> None:
    lines, steps, number = [], [], 0
    for kind, env, slot, target, age in drawn:
        if kind == "germinate":
            number += 1
            lines.append(germinate(env, number, slot))
            steps.append((kind, env, slot, "GERMINATED", None))
        else:
            lines.append(move("TRAINING", target, env, number, slot))
            takes_age = age is not None and target in ("CULLED", "FOSSILIZED")
            if takes_age:
                lines.append(outcome(target, age, env, number, slot))
            steps.append((kind, env, slot, target, age if takes_age else None))
    report = replay(*lines)
    assert (report.illegal, report.illegal_transitions) == twin(steps)


# -- faulty logs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\n", "blank line"),
        (b"not json\n", "not JSON: Expecting value"),
        (b"\xff\xfe\x00\x80\n", "not UTF-8"),
        (b"\x00\x01\x02\n", "not JSON"),
        (b"[1, 2]\n", "a JSON list, wanted an object"),
        (b"null\n", "a JSON NoneType, wanted an object"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "not JSON"),
        (b"{}\n", "no event_type"),
        (b'{"event_type": 3}\n', "no event_type"),
        (b'{"event_type": "SEED_GERMINATED"}\n', "SEED_GERMINATED: no data"),
        (event("SEED_GERMINATED").replace(b'"env_id": 0', b'"env": 0'), "SEED_GERMINATED: no env_id"),
        (event("SEED_GERMINATED").replace(b'"env_id": 0', b'"env_id": "0"'), "env_id is '0', wanted an integer"),
        (event("SEED_GERMINATED").replace(b'"env_id": 0', b'"env_id": true'), "env_id is True, wanted an integer"),
        (event("SEED_GERMINATED").replace(b"env0_seed_0", b"a_seed"), "seed_id 'a_seed' does not end in a number"),
        (event("SEED_GERMINATED").replace(b'"early"', b"null"), "slot_id is None, wanted a string"),
        (event("SEED_STAGE_CHANGED", to="TRAINING"), "SEED_STAGE_CHANGED: no from"),
        (move("A", "B").replace(b'"B"', b"7"), "to is 7, wanted a string"),
        (outcome("CULLED", -3), "epochs_total is -3"),
        (outcome("CULLED", -(10**4000)), "epochs_total is -1" + "0" * 75 + "..."),
        (event("SEED_CULLED", epochs_total=2.5), "epochs_total is 2.5, wanted an integer"),
    ],
)
def test_a_malformed_line_is_counted_and_found(line: bytes, reason: str) -> None:
    report = replay(germinate(), line, move("GERMINATED", "TRAINING"))
    assert (report.lines, report.malformed, report.seeds, report.transitions) == (3, 1, 1, 1)
    [(number, what, why)] = reasons(report)
    assert (number, what) == (2, "malformed line")
    assert reason in why


def test_the_last_line() -> None:
    whole = move("GERMINATED", "TRAINING")
    assert reasons(replay(germinate(), whole.rstrip())) == []
    [(line, _, why)] = reasons(replay(germinate(), whole[:-9]))
    assert line == 2
    assert "cut off before its end" in why


def test_an_overlong_line_is_read_past() -> None:
    from esper_masks.telemetry.events import read_events

    def kinds(data: bytes, limit: int) -> list[type]:
        return [type(found) for found in read_events(io.BytesIO(data), limit)]

    first, last = germinate(), germinate(1)
    assert kinds(first + b"x" * 5000 + b"\n" + last, 1000) == [Germinated, Malformed, Germinated]
    assert kinds(first + b"x" * 5000, 1000) == [Germinated, Malformed]
    assert kinds(first + last, len(first)) == [Germinated, Germinated]  # the limit counts the line with its end
    assert kinds(first + last, len(first) - 1) == [Germinated, Germinated]
    assert kinds(first + last, len(first) - 2) == [Malformed, Malformed]
    assert kinds(first + last.rstrip(), len(first) - 1) == [Germinated, Germinated]


def test_the_limit_of_a_line_is_in_force() -> None:
    report = replay(germinate(), b'{"event_type": "' + b"x" * (1 << 20) + b'"}\n', germinate(1))
    assert reasons(report) == [(2, "malformed line", "longer than 1048576 bytes")]
    assert report.seeds == 2


def test_long_names_are_refused_not_cut() -> None:
    """Two slots whose first 77 characters are equal were once one."""
    names = ("x" * 90 + "A", "x" * 90 + "B")
    assert replay(germinate(0, 0, names[0]), germinate(0, 1, names[1])).illegal == {}
    [(_, _, why)] = reasons(replay(germinate(slot="x" * 300)))
    assert why == "SEED_GERMINATED: slot_id has 300 characters, more than 256"


def test_an_empty_log() -> None:
    report = replay(b"")
    assert (report.files, report.lines, report.findings) == (1, 0, [])


def test_a_byte_order_mark_is_no_fault() -> None:
    assert replay(b"\xef\xbb\xbf" + germinate()).malformed == 0


def test_names_from_a_log_are_bounded_and_printable() -> None:
    assert clean("x" * 1000) == "x" * 77 + "..."
    assert clean("\x1b[31mred\n") == "\\x1b[31mred\\n"
    assert clean("\ud800") == "\\ud800"
    lines = [json.dumps({"event_type": f"T{i}"}).encode() + b"\n" for i in range(MAX_NAMES + 50)]
    report = replay(*lines)
    assert len(report.other_events) == MAX_NAMES + 1
    assert report.other_events[OTHER_NAMES] == 50


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([*GROW, outcome("CULLED"), b"{", b"\n"])), max_size=12)
)
@example([b'{"event_type": "SEED_CULLED", "data": {"env_id": 1e400}}\n'])
def test_any_bytes_are_accounted_for(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    report = replay(data)
    assert report.lines == len(data.split(b"\n")) - data.endswith(b"\n") - (not data)
    json.dumps(report.to_json())


def test_parsed_events() -> None:
    assert parse_line(germinate(2, 14)) == Germinated(2, "early", "env2_seed_14")
    assert parse_line(move("A", "B")) == StageChanged(0, "early", "env0_seed_0", "A", "B")
    assert parse_line(outcome("CULLED", 4)) == Outcome(0, "early", "env0_seed_0", "CULLED", 4)
    assert parse_line(outcome("CULLED", None)) == Outcome(0, "early", "env0_seed_0", "CULLED", None)
    assert parse_line(b'{"event_type": "PPO_UPDATE_COMPLETED"}') == Other("PPO_UPDATE_COMPLETED")


# -- rules with guards ------------------------------------------------------------------------------------------------


def guarded(*when: Any, **more: Any) -> em.MaskRules:
    """The rules of December with guards on CULL, and on the slot that it swaps with."""
    swap = em.SlotHead("swap", when=more.pop("target", ()))
    cull = replace(DECEMBER.op_rules[2], when=when, uses=("slot", "swap"), **more)
    return replace(
        DECEMBER,
        op_rules=(*DECEMBER.op_rules[:2], cull, *DECEMBER.op_rules[3:]),
        heads=(*DECEMBER.heads, swap),
        row_features={"night": bool, "free": int},
        kinds={"first": ("early",)},
        features={"hot": bool},
    )


CULLED = (germinate(), move("GERMINATED", "CULLED"), outcome("CULLED", 5))


@pytest.mark.parametrize(
    ("when", "unknown", "not_judged"),
    [
        ((em.Row("free", at_least=1),), 1, "free of CULL"),
        ((em.Unless("night", em.Age(at_least=9)),), 1, "night of CULL"),
        ((em.Any(em.Row("free", at_least=1), em.Age(at_least=9)),), 1, "free of CULL"),
        ((em.Kind("first"),), 0, "kind of CULL"),
        ((em.Count((DECEMBER.stages.TRAINING,), of="all", at_least=2, kind="first"),), 0, "kind of CULL"),
        ((em.Feature("hot", in_=(True,)),), 0, "hot of CULL"),
        ((em.Count((DECEMBER.empty,), of="all", at_least=1),), 0, "empty slots of CULL"),  # of those not named
        ((em.Any(em.Count((DECEMBER.empty,), of="all", at_least=1), em.Age(at_least=9)),), 0, "empty slots of CULL"),
    ],
)
def test_guards_of_what_logs_lack_pass(when: tuple[Any, ...], unknown: int, not_judged: str) -> None:
    report = replay(*CULLED, rules=guarded(*when))
    assert report.illegal == {}
    assert report.row_unknown == unknown
    assert not_judged in report.not_judged
    assert report.to_json()["row_unknown"] == unknown


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ((em.Age(at_least=9),), "age 5 < 9"),
        ((em.Age(at_least={DECEMBER.stages.GERMINATED: 6}),), "age 5 < 6"),
        ((em.Feature("stage", not_in=(DECEMBER.stages.GERMINATED,)),), "stage GERMINATED, needs TRAINING, BLENDING or"),
        ((em.Count((DECEMBER.stages.TRAINING,), of="others", at_least=3),), "0 TRAINING elsewhere, needs at least 3"),
    ],
)
def test_guards_of_what_logs_tell_are_judged(when: tuple[Any, ...], why: str) -> None:
    report = replay(*CULLED, rules=guarded(*when))
    assert report.illegal == {"CULL": 1}
    assert report.findings[0].why.startswith(why)
    assert report.row_unknown == 0


@pytest.mark.parametrize(
    "target",
    [
        (em.Feature("stage", in_=(DECEMBER.empty,)),),
        (em.Feature("stage", in_=(DECEMBER.stages.GERMINATED,)), em.Count((DECEMBER.empty,), of="all", at_least=1)),
    ],
)
def test_a_second_slot_may_be_one_that_the_log_has_not_named(target: tuple[Any, ...]) -> None:
    report = replay(*CULLED, rules=guarded(target=target))
    assert report.illegal == {}
    assert "empty slots of swap of CULL" in report.not_judged


def test_engines_are_as_wide_as_what_is_counted_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = Replay._make_engine

    def spy(self: Replay, width: int, ageless: bool) -> em.MaskEngine:
        made.append(width)
        return make(self, width, ageless)

    monkeypatch.setattr(Replay, "_make_engine", spy)
    training = (DECEMBER.stages.TRAINING,)
    replay(*CULLED, rules=guarded(em.Count(training, of="others", at_most=1_000_000)))
    assert max(made) < 8
    few = em.Count(training, of="others", at_least={DECEMBER.stages.BLENDING: 1, DECEMBER.stages.GERMINATED: 30})
    replay(*CULLED, rules=guarded(few))
    assert made[-1] == 32
    replay(
        *CULLED,
        rules=guarded(
            target=(em.Feature("stage", not_in=(DECEMBER.empty,)), em.Count(training, of="all", at_least=70))
        ),
    )
    assert made[-1] == 128


def test_a_wide_engine_is_given_few_environments_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_masks.telemetry.replay.BATCH_CELLS", 256)
    rows: list[int] = []
    forward = em.MaskEngine.forward

    def counted(engine: em.MaskEngine, states: Tensor, **given: Any) -> em.ActionMasks:
        rows.append(len(states))
        return forward(engine, states, **given)

    monkeypatch.setattr(em.MaskEngine, "forward", counted)
    rules = guarded(em.Count((DECEMBER.stages.TRAINING,), of="all", at_least=100))
    replay(*(germinate(env) for env in range(10)), rules=rules)
    assert sum(rows) == 10
    assert max(rows) == 3


def test_second_slots_are_judged_by_their_stage_alone() -> None:
    only = DECEMBER.stages.TRAINING
    rules = guarded(target=(em.Feature("stage", in_=(only,)), em.Age(at_least=9), em.Row("free", at_least=1)))
    report = replay(*CULLED, rules=rules)
    assert report.illegal == {"CULL": 1}
    assert report.findings[0].why == "no choice of swap: early: stage GERMINATED, needs TRAINING"
    assert report.row_unknown == 1
    assert {"age of swap of CULL", "free of swap of CULL"} <= set(report.not_judged)
    trained = (germinate(slot="other"), move("GERMINATED", "TRAINING", slot="other"))
    culled = (germinate(seed=1), move("GERMINATED", "CULLED", seed=1), outcome("CULLED", 5, seed=1))
    assert replay(*trained, *culled, rules=rules).illegal == {}
