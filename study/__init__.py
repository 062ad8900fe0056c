"""The paper's claims tried on real data: sentiment, dialogue, summaries; see docs/study.md."""
