"""The loop on the workers of Ray Train. The one place that starts Ray Train."""
