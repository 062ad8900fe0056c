"""What scorers stand on: cases, the registry, words, model folders, batched pairs."""
