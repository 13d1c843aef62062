"""Event logs of real runs: reading them, and judging them against a rule set."""

from esper_masks.telemetry.replay import Replay
from esper_masks.telemetry.report import Finding, Report

__all__ = ["Finding", "Replay", "Report"]
