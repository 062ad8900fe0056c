"""From two runs to a verdict: comparison, gates, decision, reports."""
