"""Replay every alert over weeks it was not trained on, and decide which ones page."""

from apm_analytics.alerts.gate import stage
from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stage.gate_stage)
