"""The pipelines, their recipes and images, and the command line `srpo`."""
