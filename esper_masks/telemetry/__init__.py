"""Event logs of real runs: reading them, and judging them against a rule set.

replay      ``Replay``: every op and every transition of a log, judged
report      ``Report`` and ``Finding``: what came of it, as a table or JSON
events      lines of a log as events
tracks      what is known of each slot while a log is read
log_files   files, compressed files, standard input
"""

from esper_masks.telemetry.replay import Replay
from esper_masks.telemetry.report import Finding, Report

__all__ = ["Finding", "Replay", "Report"]
