"""Runs on a lake: their record, the last end of each kind, and the lease that lets nights run one at a time."""
