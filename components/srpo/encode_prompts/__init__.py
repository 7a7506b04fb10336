"""Encode prompts with the base model's text encoders, once."""
