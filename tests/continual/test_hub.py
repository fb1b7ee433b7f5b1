"""Models and memory files on the hub: push with a card, pull, refusals."""

import httpx2
import huggingface_hub
import pytest
import torch
from hub_stand_in import Hub
from huggingface_hub import constants
from huggingface_hub.utils import _http
from tiny_bases import tiny_base
from transformers import AutoModelForCausalLM

from nestling.cli.main import main
from nestling.continual import ContinualLearner
from nestling.continual.file import read_memory
from nestling.continual.hub import pull_memory, push_memory
from nestling.continual.state import Document
from nestling.continual.study.record import Waiting
from nestling.core.error import UserError
from nestling.models import create
from nestling.models.pretrained import parse_levels
from nestling.report.levels import clock

pytestmark = pytest.mark.skipif(
    not hasattr(_http, "httpx2"), reason="an older huggingface_hub, which asks by another library"
)
REPOSITORY = "someone/notes"
SECRET = "a-private-name.txt"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in for the network."""
    found = Hub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(transport=httpx2.MockTransport(found), follow_redirects=True)
    )
    yield found
    huggingface_hub.set_client_factory(_http.default_client_factory)


@pytest.fixture
def memory(models, ids, tmp_path):
    """A memory within a period, of a named document."""
    learner = ContinualLearner(models["llama"], levels=parse_levels("8:1e-2,32:1e-2"))
    learner.read_tokens(ids[:100])
    named = Document(SECRET, "0" * 64, 100, 100)
    learner.state = learner.state._replace(documents=(named,))
    return learner, learner.save(tmp_path / "memory")


def test_push_memory_with_card_and_pull(hub, memory, tmp_path, capsys):
    learner, file = memory
    told = ["--base", "someone/base", "--licence", "apache-2.0"]
    assert main(["memory", "push", str(file), REPOSITORY, *told]) == 0
    assert f"{REPOSITORY}/commit/" in capsys.readouterr().out and hub.private[REPOSITORY]
    card = hub.files[REPOSITORY]["README.md"].decode()
    assert card.startswith("---\n") and "base_model: someone/base" in card
    for word in (
        "license: apache-2.0",
        "32:0.01:adam",
        learner.digest,
        "memory pull " + REPOSITORY,
    ):
        assert word in card
    assert main(["memory", "pull", REPOSITORY, str(tmp_path / "got")]) == 0
    again = learner.fork()
    again.load(tmp_path / "got")
    pairs = zip(again.state.levels, learner.state.levels, strict=True)
    assert all(torch.equal(x, y) for a, b in pairs for x, y in zip(a.moved, b.moved, strict=True))
    assert main(["memory", "pull", REPOSITORY, str(tmp_path / "got")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_pushed_memory_omits_names_by_default_and_recent_text_always(hub, memory):
    learner, file = memory
    push_memory(file, REPOSITORY)
    assert SECRET not in str(hub.files)
    stored = read_memory_of(hub, file.parent)
    assert read_memory(file).about["stream"]["window"] and not stored.about["stream"]["window"]
    assert not stored.about["stream"]["open_ids"]
    assert not any(name.startswith("context.") for name in stored.tensors)
    push_memory(file, REPOSITORY, names=True)
    assert f"- {SECRET}" in hub.files[REPOSITORY]["README.md"].decode()
    assert read_memory_of(hub, file.parent).about["documents"][0][0] == SECRET


def read_memory_of(hub, folder):
    """The memory file on the hub."""
    (folder / "stored").write_bytes(hub.files[REPOSITORY]["memory.safetensors"])
    return read_memory(folder / "stored")


def test_pending_text_is_never_pushed(hub, memory):
    learner, file = memory
    learner.state = learner.state._replace(waiting=(Waiting(SECRET, "0" * 64, "a secret"),))
    with pytest.raises(UserError, match="wait for study"):
        push_memory(learner.save(file), REPOSITORY)
    assert hub.files == {}


def test_pulling_for_another_model_is_refused(hub, memory, tmp_path):
    learner, file = memory
    push_memory(file, REPOSITORY)
    got = pull_memory(REPOSITORY, tmp_path / "got")
    other = ContinualLearner(tiny_base("llama", seed=1), levels=parse_levels("8:1e-2,32:1e-2"))
    with pytest.raises(UserError, match="another base model"):
        other.load(got)


def test_hub_errors_are_one_line(hub, memory, tmp_path):
    _, file = memory
    model = create("hope-tiny", vocab_size=16, hidden_size=16, num_heads=2, num_hidden_layers=1)
    with pytest.raises(UserError, match="cannot pull") as caught:
        pull_memory("someone/nothing", tmp_path / "got")
    assert "\n" not in str(caught.value)
    hub.files[REPOSITORY] = {"memory.safetensors": b"cut"}
    with pytest.raises(UserError, match="truncated"):
        pull_memory(REPOSITORY, tmp_path / "got")
    hub.down = True
    for push in (lambda: push_memory(file, REPOSITORY), lambda: model.push_to_hub(REPOSITORY)):
        with pytest.raises(UserError, match="network"):
            push()
    assert not (tmp_path / "got").exists()


def test_push_model_with_card_and_load(hub, tmp_path):
    model = create("hope-tiny", vocab_size=64, hidden_size=32, num_heads=2, num_hidden_layers=1)
    model.push_to_hub("someone/small-hope", licence="mit", private=True)
    files = hub.files["someone/small-hope"]
    card = files["README.md"].decode()
    clocks = {clock(level) for level in model.levels().values()}
    for word in ("license: mit", "- nestling", *clocks, f"{model.num_parameters():,}"):
        assert word in card
    again = AutoModelForCausalLM.from_pretrained("someone/small-hope", cache_dir=tmp_path / "c")
    ids = torch.randint(64, (1, 40))
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)
    own = b"---\nlicense: mit\n---\n\nmy own words\n"
    hub.put("someone/small-hope", "README.md", own)
    model.push_to_hub("someone/small-hope")
    assert "my own words" in files["README.md"].decode()
