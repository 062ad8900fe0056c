"""A decision as HTML, Markdown, JUnit XML and JSON; every file appears whole or not at all."""
