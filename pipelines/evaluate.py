"""Score the training on held-out days; metrics, model cards and plots."""

from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stages.evaluate)
