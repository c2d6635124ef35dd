"""Write what the lake holds, so that the next stages run only when it changed."""

from apm_analytics.baselines.training import stages

if __name__ == "__main__":
    stages.main(stages.snapshot)
