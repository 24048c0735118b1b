"""Comparison of lakes after kills, contention and faults with lakes that were left alone."""
