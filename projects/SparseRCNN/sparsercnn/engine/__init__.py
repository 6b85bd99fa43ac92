"""Training, checkpoints and prediction: what runs the models."""
