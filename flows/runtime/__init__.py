"""Common parts of all runs: state, display, cancellation, and the Prefect server that they use."""
