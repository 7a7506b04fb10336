"""Diffusion models behind one small adapter: load, roll out, velocity, decode."""
