"""Arrays of items: vectors in memory and on disk, distances, exact sums, keys of SIDs, files of arrays, and threads."""
