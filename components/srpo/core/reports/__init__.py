"""Small self-contained pages that a person reads in the pipeline's UI."""
