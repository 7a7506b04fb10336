"""Fetch, verify and cache the models of a run."""
