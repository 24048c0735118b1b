"""`sidmill recipe check` and `--dry-run`: what a run would read, about how long it would take, and faults."""
