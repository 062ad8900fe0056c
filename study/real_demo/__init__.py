"""Train, evaluate and gate SmolLM2 on real data in twenty minutes, shown on one page: `make demo-real`."""
