"""Train baselines and forests; write bounds for the coming week and scores of the history."""

from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stages.train)
