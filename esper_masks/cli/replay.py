"""``esper-masks replay``: event logs of real runs, judged against a rule set."""

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import as_file, files

from esper_masks.cli.common import DEFAULT_RULES, INTERRUPTED, RULES_HELP, console, count, find_rules, reason_of, tell
from esper_masks.telemetry import Replay
from esper_masks.telemetry.log_files import LOG_HELP, LogFiles, open_logs

SAMPLE = "esper_masks/data/sample.jsonl"
ILLEGAL = 3  # exit code


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("files", nargs="*", metavar="FILE", help=LOG_HELP)
    parser.add_argument("--rules", default=DEFAULT_RULES, metavar="NAME", help=RULES_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--fail-on-illegal", action="store_true", help=f"exit code {ILLEGAL} where an event is illegal")
    kept = "findings of each kind to keep, all of which are counted (default: %(default)s)"
    parser.add_argument("--max-findings", type=count, default=10_000, metavar="N", help=kept)


def run(options: argparse.Namespace) -> int:
    """Judge every op and every stage transition of event logs against a rule set. Prints each finding with its file,
    line and reason, then a summary. Without a FILE it replays the sample that ships with the package.
    """
    replay = Replay(find_rules(options.rules), options.max_findings)
    with as_file(files("esper_masks") / "data" / "sample.jsonl") as sample:
        paths = options.files or [str(sample)]
        code = _read_all(replay, paths, open_logs(paths, "replay"))
    report = replay.report
    if options.fail_on_illegal and code == 0 and report.illegal_events:
        code = ILLEGAL
    with suppress(BrokenPipeError):  # who wants the exit code alone has it
        if options.json:
            print(json.dumps(report.to_json(), indent=2))
            return code
        if not options.files:
            print(f"no file given, so this replays the sample that ships with the package: {SAMPLE}\n")
        report.print(console())
    return code


def _read_all(replay: Replay, paths: Sequence[str], logs: LogFiles) -> int:
    """Read every file; whatever stops the reading, what was read before it is judged."""
    try:
        for path in paths:
            with logs.open(path) as stream:
                replay.read(stream, path)
    except (KeyboardInterrupt, OSError) as error:
        replay.report.interrupted = True
        replay.finish()
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        tell("esper-masks replay", reason_of(error))
        return 2
    return 0
