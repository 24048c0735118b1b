"""What a lake is after kills, contention and faults."""
