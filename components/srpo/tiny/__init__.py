"""The embedded default: a procedural world of captioned images, and a tiny FLUX pipeline with rewards made from it."""
