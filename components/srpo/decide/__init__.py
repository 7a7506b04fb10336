"""Move a channel to a release that people have rated, if every gate holds, and say which does not."""
