"""The vocabulary: memory, level, result, registry, error."""
