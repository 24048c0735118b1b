"""The few coarse tasks that flows are made of: resolve what to read, run something pure, commit, pass on references."""
