"""A model that is asked: reference and identity, engines, checks, endpoints, generation."""
