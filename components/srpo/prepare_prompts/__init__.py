"""Prompt sources become one clean table, split into prompts to train on and prompts held out."""
