"""The networks that scorers ask: found, loaded, and run in batches."""
