"""Take in what raters saved, check it against the study's key, and say what they said."""
