"""What lies on disk: files written whole, rows of JSON, configuration in YAML, tables."""
