"""What is usual for every operation, what is anomalous, and what growth leads to.

In:  the features of `signals`.
Out: models and bounds (`models`, `training`), anomalies and their reasons (`detection`), capacity
     forecasts (`growth`).

Start with `training.stages`, which dvc.yaml runs, and `training.training.train`.
"""
