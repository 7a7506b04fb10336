"""Compute the rewards' text features once, before training."""
