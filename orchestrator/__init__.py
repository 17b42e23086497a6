"""The sweep: Ray Tune schedules it, an Optuna study remembers it, MLflow shows it."""
