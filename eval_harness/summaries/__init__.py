"""What the faithfulness suite is made of: presets, documents, results."""
