"""The six synthetic tasks of MAD (arXiv 2403.17844), with the configurations of mad-lab."""
