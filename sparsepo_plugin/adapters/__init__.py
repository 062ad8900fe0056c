"""The only modules that import a training framework; one sub-package or file for each."""
