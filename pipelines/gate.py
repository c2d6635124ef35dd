"""Replay every alert over weeks that did not teach it, and decide which may page."""

from apm_analytics.alerts.gate import stage
from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stage.gate_stage)
