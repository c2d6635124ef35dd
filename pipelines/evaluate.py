"""Score the models on held-out days; write metrics, model cards and plots."""

from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stages.evaluate)
