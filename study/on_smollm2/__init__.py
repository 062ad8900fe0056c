"""The study's claims on SmolLM2, as docs/study-real-plan.md registered them before the first test figure."""
