"""Align the model: Direct-Align / SRPO training."""
