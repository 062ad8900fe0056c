"""The reasoning suite: lm-eval's tasks on a checkpoint."""
