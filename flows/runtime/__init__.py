"""What every run has: record, display, cancellation, and the Prefect server that it talks to."""
