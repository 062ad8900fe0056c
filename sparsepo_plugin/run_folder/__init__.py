"""What a training leaves in its output folder beside the model: one file here per file there.

Each file has its writer and its reader. ``configuration``: sparsepo_config.yaml and sparsepo_run.json.
``metrics``: metrics.jsonl. ``tokens``: tokens.jsonl, whose rows ``token_rows`` makes of tensors.
``histograms``: mask_histograms.jsonl. ``log`` is what a trainer holds; ``lines`` is common to all JSON lines.
"""
