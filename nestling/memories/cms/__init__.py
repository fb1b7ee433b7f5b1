"""The continuum memory system: MLP levels, each written at its own period."""
