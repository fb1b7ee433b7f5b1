"""After a long text every memory still differs from the identity and can be written."""

import torch

from nestling.data import encode, load_corpus, load_tokenizer
from nestling.memories.self_titans import SelfTitans

TOKENS = 100_000


def test_memory_still_responds_after_100000_tokens():
    corpus = load_corpus("stdlib")
    tokenizer = load_tokenizer(corpus, vocab_size=1024)
    ids = encode(corpus.documents[:150], tokenizer).ids[:TOKENS].long()
    assert len(ids) == TOKENS
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1024, 64, generator=generator)
    module = SelfTitans(SelfTitans.Config(), hidden_size=64, num_heads=2)
    module.init_weights(generator)
    norms = []
    with torch.no_grad():
        before, state = module.reach(), None
        for part in ids.split(4096):
            _, state = module(embedding[part][None], state)
            norms.append(max(float(x.norm()) for x in state.weight))
        after = module.reach(state)
        again, _ = module(embedding[ids[:512]][None], state)
        fresh, _ = module(embedding[ids[:512]][None])
    assert all(after[name] > 0.1 * before[name] for name in before), (before, after)
    assert max(norms[12:]) < 1.5 * max(norms[:12])
    assert torch.isfinite(again).all()
    # writes of the text can be read
    assert (again - fresh).norm() > 0.05 * fresh.norm()
