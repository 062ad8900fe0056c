"""Plots of trainings and sweeps."""
