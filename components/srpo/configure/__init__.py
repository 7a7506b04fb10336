"""Turn a run's parameters into the checked configuration of every stage."""
