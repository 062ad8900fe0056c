"""A model's forward pass becomes token statistics: windows, states, heads, runner, statistics."""
