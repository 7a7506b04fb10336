"""Files: hashes, atomic writes, copies that appear whole."""
