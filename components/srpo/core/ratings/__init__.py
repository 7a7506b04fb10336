"""People's ratings: the protocol, a study and its key, what raters hand in, and the statistics of it."""
