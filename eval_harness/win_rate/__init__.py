"""Win rates: prompts, texts of two models, judgements in both orders, and what they add up to."""
