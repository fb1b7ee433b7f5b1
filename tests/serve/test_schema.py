"""Requests drawn from the server's own schema, and two users who ask in turn."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from serving import learn, say

from nestling.serve.keys import SCOPES, Keys, database_in

EACH = 6  # requests drawn for an operation


def test_no_request_of_the_schema_finds_a_fault(start, tmp_path):
    schemathesis = pytest.importorskip("schemathesis")
    with start(tmp_path / "store", rate=10**6) as http:
        http.post("/v1/memories", json={"id": "m"})
        schema = schemathesis.openapi.from_dict(http.get("/v1/openapi.json").json())
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 20
        seen = set()
        for operation in operations:

            @given(operation.as_strategy())
            @settings(max_examples=EACH, deadline=None, suppress_health_check=list(HealthCheck))
            def called(case):
                if "memory" in (case.path_parameters or {}):
                    case.path_parameters["memory"] = "m"  # one that is there
                found = case.call(base_url=str(http.base_url))
                seen.add(found.status_code)
                assert found.status_code < 500, (case.as_curl_command(), found.text)
                if found.status_code >= 400:
                    assert found.json()["error"]["message"]

            called()
        assert seen & {200, 201} and seen & {400, 404, 422}
        assert http.get("/health").json()["status"] == "ok"


def test_two_users_who_ask_in_turn_get_what_each_gets_alone(start, tmp_path):
    keys = Keys(database_in(tmp_path / "store"))
    every = frozenset(SCOPES)
    secrets = {name: keys.add(name, space=name, scopes=every) for name in ("ann", "bob")}
    texts = {"ann": "The inlet filter is red.", "bob": "Padua is where Ida was born."}
    with start(tmp_path / "store", rate=10**6) as http:
        for name, secret in secrets.items():
            http.headers["Authorization"] = f"Bearer {secret}"
            http.post("/v1/memories", json={"id": "m"})
            learn(http, "m", texts[name])
        prompts = [f"{word} {number}" for number in range(5) for word in ("what", "where")]

        def asked(name, prompt):
            http.headers["Authorization"] = f"Bearer {secrets[name]}"
            return say(http, "m", prompt, seed=3, temperature=1.0)

        alone = {name: [asked(name, prompt) for prompt in prompts] for name in secrets}
        assert alone["ann"] != alone["bob"]
        turns = list(itertools.product(prompts, secrets))
        for number, (prompt, name) in enumerate(turns):
            assert asked(name, prompt) == alone[name][number // 2]
