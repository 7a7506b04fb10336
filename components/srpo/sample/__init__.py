"""Sample base and tuned model on the same noise and score the images."""
