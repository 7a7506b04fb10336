"""How a stage runs: content keys, reuse, records of failures, progress."""
