"""All losses of the package side by side on sentiment, registered in docs/methods-sentiment-plan.md."""
