"""Studies and benchmarks of nestling. The lab imports the library, never the other way round."""
