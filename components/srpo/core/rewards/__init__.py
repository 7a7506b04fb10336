"""Differentiable scorers behind one small adapter: image features, text features, score."""
