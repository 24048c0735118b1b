"""The loop on the workers of Ray Train. Only this package starts Ray Train."""
