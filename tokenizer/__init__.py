"""Semantic IDs from vectors: fit a codebook, assign codes, resolve collisions, build the trie, measure.

Arrays in, arrays out. Nothing here depends on where vectors are stored or on the order of runs. Every result depends
only on the vectors, the item ids and the published SIDs, never on input order, block size or worker count.
"""
