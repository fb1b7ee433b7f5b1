"""Metrics for Prometheus. Names of memories and keys are never labels."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "nestling_requests", "Requests by path and status", ("path", "status"), **common
        )
        self.seconds = Histogram(
            "nestling_request_seconds", "Time of a request", ("path",), buckets=BUCKETS, **common
        )
        self.written = Counter("nestling_tokens_written", "Tokens of answers", **common)
        self.read = Counter("nestling_tokens_read", "Tokens of prompts", **common)
        self.jobs = Counter("nestling_jobs", "Documents by job outcome", ("end",), **common)
        self.answers = Gauge("nestling_answers", "Answers running or waiting", **common)

    def text(self) -> bytes:
        """All metrics in the format of Prometheus."""
        return generate_latest(self.registry)
