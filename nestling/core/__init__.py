"""The common vocabulary: memory, level, result, registry, error."""
