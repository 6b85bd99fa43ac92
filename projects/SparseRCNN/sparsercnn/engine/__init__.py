"""Training: configs, solver, one step, hooks, checkpoints."""
