"""Arrays of items: vectors in memory and on disk, distances, exact sums, SID keys, array files and threads."""
