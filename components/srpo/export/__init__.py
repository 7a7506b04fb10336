"""Publish a trained model as a release; point the candidate channel to it when it passed its gates."""
