"""Semantic IDs from vectors: fit a codebook, assign codes, resolve collisions, build the trie, measure.

Arrays in, arrays out. Nothing here knows where vectors are stored or what runs when, and every result depends
only on the vectors, the item ids and what was published before: never on input order, block size or worker
count.
"""
