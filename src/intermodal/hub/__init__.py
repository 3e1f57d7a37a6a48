"""Published checkpoints <-> ours: declarative key maps, always strict."""
