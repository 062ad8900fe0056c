"""A run: what a suite is, which suites there are, the runner and the run's folder."""
