"""Sentences, words and chunks of a text, by rule."""
