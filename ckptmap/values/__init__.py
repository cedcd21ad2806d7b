"""Values of two checkpoints compared, and of one looked at: bytes first, numbers only where bytes differ.

`sources` says where a tensor's bytes come from, `pairs` and `correspondence` which belong together. `compare` reads
them, `dtypes` and `measure` make numbers of them, and `moved` sense. `digest` and `examine` look at one checkpoint.
"""
