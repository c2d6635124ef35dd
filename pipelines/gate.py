"""Replay every alert over weeks that did not teach it, and decide which may page."""

from apm_analytics.alerts import gating
from apm_analytics.baselines import stages

if __name__ == "__main__":
    stages.main(gating.gate_stage)
