"""What crosses a stage boundary: schemas, manifests, configuration and the error for bad input."""
