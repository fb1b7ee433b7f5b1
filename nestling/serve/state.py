"""The shared state of the routes of a server."""

from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from nestling.continual.study.plan import PLANS, Plan
from nestling.serve.database import Database
from nestling.serve.engine import Engine
from nestling.serve.feed import Feed
from nestling.serve.jobs import Jobs
from nestling.serve.keys import Keys, database_in
from nestling.serve.knowledge import Knowledge, Known
from nestling.serve.library import Library, Memory
from nestling.serve.metrics import Metrics
from nestling.serve.model import Served
from nestling.serve.recollection import Recollection
from nestling.serve.school import School
from nestling.serve.settings import Settings


@dataclass(kw_only=True)
class Shared:
    """One running server."""

    settings: Settings
    served: Served
    database: Database
    keys: Keys
    metrics: Metrics
    engine: Engine
    knowledge: Knowledge
    recollection: Recollection
    library: Library
    jobs: Jobs
    school: School
    feed: Feed
    started: int  # seconds since 1970

    def known(self, memory: Memory | None, text: str) -> Known:
        """The model's weights with what a memory knows of a text, or without a memory."""
        if memory is None:
            return self.knowledge.base
        return self.knowledge.of(memory, text)


def new_server(
    served: Served, settings: Settings, started: int, plan: Plan | None = None
) -> Shared:
    """Build the parts of a server without starting them; ``plan`` overrides the settings."""
    limits = settings.limits
    database = database_in(settings.store)
    library = Library(database, settings.store / "memories", served, limits.memories)
    jobs, feed, metrics = Jobs(database, limits.jobs), Feed(), Metrics()
    usual = replace(
        PLANS[settings.study or "full"], budget=settings.budget, rank=served.teacher.rank
    )
    school = School(served, library, jobs, feed, plan or usual)
    school.ended = lambda state: metrics.jobs.labels(state).inc()
    engine = Engine(served.reader, rows=limits.rows, waiting=limits.waiting)
    metrics.answers.set_function(lambda: float(engine.count))
    return Shared(
        settings=settings,
        served=served,
        database=database,
        keys=Keys(database),
        metrics=metrics,
        engine=engine,
        knowledge=Knowledge(served),
        recollection=Recollection(served, waiting=limits.waiting),
        library=library,
        jobs=jobs,
        school=school,
        feed=feed,
        started=started,
    )


def shared(request: Request) -> Shared:
    """The server that received a request."""
    found: Any = request.app.state.shared
    return found
