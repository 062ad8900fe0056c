"""Paired statistics as pure functions of numbers: no files, no models, no clock; every draw has a seed."""
