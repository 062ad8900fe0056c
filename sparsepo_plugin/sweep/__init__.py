"""A grid of trainings with the real trainer."""
