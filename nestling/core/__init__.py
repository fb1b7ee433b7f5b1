"""The common vocabulary: memories, levels, results, registries, errors."""
