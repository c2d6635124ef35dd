"""Measure rate, errors and duration of every operation."""

from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stages.features)
