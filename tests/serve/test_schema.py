"""Random requests from the server's schema, and two concurrent users."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from serving import learn, say

from nestling.serve.keys import SCOPES, Keys, database_in


@pytest.mark.parametrize(
    ("each", "least"), [(3, 40), pytest.param(100, 1000, marks=pytest.mark.slow)]
)
def test_schema_fuzzing_finds_no_fault(start, tmp_path, each, least):
    """At most ``each`` requests per operation; some operations have few."""
    schemathesis = pytest.importorskip("schemathesis")
    with start(tmp_path / "store", rate=10**6) as http:
        schema = schemathesis.openapi.from_dict(http.get("/v1/openapi.json").json())
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 20
        codes = []
        for operation in operations:
            http.post("/v1/memories", json={"id": "m"})  # an earlier request may have deleted it

            @given(operation.as_strategy())
            @settings(max_examples=each, deadline=None, suppress_health_check=list(HealthCheck))
            def called(case):
                if "memory" in (case.path_parameters or {}):
                    case.path_parameters["memory"] = "m"  # an existing one
                found = case.call(base_url=str(http.base_url))
                codes.append(found.status_code)
                assert found.status_code < 500, (case.as_curl_command(), found.text)
                if found.status_code >= 400:
                    assert found.json()["error"]["message"]

            called()
        assert set(codes) & {200, 201} and set(codes) & {400, 404, 422}
        assert len(codes) >= least
        assert http.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize("each", [3, pytest.param(250, marks=pytest.mark.slow)])
def test_concurrent_users_get_their_own_answers(start, tmp_path, each):
    keys = Keys(database_in(tmp_path / "store"))
    every = frozenset(SCOPES)
    secrets = {name: keys.add(name, space=name, scopes=every) for name in ("ann", "bob")}
    texts = {"ann": "The inlet filter is red.", "bob": "Padua is where Ida was born."}
    prompts = [f"{('filter', 'Padua')[number % 2]} {number // 2}" for number in range(each)]
    with start(tmp_path / "store", rate=10**6) as http:
        users = {
            name: httpx2.Client(
                base_url=http.base_url, timeout=600, headers={"Authorization": f"Bearer {secret}"}
            )
            for name, secret in secrets.items()
        }

        def asked(name, prompt):
            return say(users[name], "m", prompt, seed=3, temperature=1.0)

        def all_of(name):
            return [asked(name, prompt) for prompt in prompts]

        for name, user in users.items():
            user.post("/v1/memories", json={"id": "m"})
            learn(user, "m", texts[name])
        alone = {name: all_of(name) for name in users}
        assert alone["ann"] != alone["bob"]
        for (number, prompt), name in itertools.product(enumerate(prompts), users):
            assert asked(name, prompt) == alone[name][number]
        with ThreadPoolExecutor() as pool:
            assert dict(zip(users, pool.map(all_of, users), strict=True)) == alone
        for user in users.values():
            user.close()
