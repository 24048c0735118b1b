"""`sidmill recipe check` and `--dry-run`: what a run would read, how long it takes about, and what is wrong."""
