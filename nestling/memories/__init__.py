"""Memories: one module per file, from [B, T, D] to [B, T, D], with an explicit state."""

from nestling.core.registry import Registry

MEMORIES = Registry(
    "memory",
    {
        "attention": "nestling.memories.attention:Attention",
        "ada_transformer": "nestling.memories.ada_transformer:AdaTransformer",
        "self_titans": "nestling.memories.self_titans:SelfTitans",
        "lstm": "nestling.memories.lstm:LSTM",
        "rwkv7": "nestling.memories.rwkv7:RWKV7",
        "srwm": "nestling.memories.srwm:SRWM",
        "ttt_linear": "nestling.memories.ttt:TTTLinear",
        "ttt_mlp": "nestling.memories.ttt:TTTMLP",
        "titans": "nestling.memories.titans:Titans",
        "linear_attention": "nestling.memories.linear.linear_attention:LinearAttention",
        "retnet": "nestling.memories.linear.retnet:RetNet",
        "delta_net": "nestling.memories.linear.delta_net:DeltaNet",
        "gated_delta_net": "nestling.memories.linear.gated_delta_net:GatedDeltaNet",
        "oja_net": "nestling.memories.linear.oja_net:OjaNet",
        "comba": "nestling.memories.linear.comba:Comba",
        "dla": "nestling.memories.deep:DLA",
        "titans_mac": "nestling.memories.titans:TitansMAC",
        "titans_mag": "nestling.memories.titans:TitansMAG",
        "titans_mal": "nestling.memories.titans:TitansMAL",
        "mamba": "nestling.memories.mamba:Mamba",
        "mamba2": "nestling.memories.mamba:Mamba2",
        "omega": "nestling.memories.deep:Omega",
        "atlas": "nestling.memories.deep:Atlas",
        "memora": "nestling.memories.deep:Memora",
        "mlp": "nestling.memories.mlp:MLP",
        "cms": "nestling.memories.cms.chain:CMS",
        "cms_context": "nestling.memories.cms.context:CMSContext",
        "cms_nested": "nestling.memories.cms.nested:CMSNested",
        "cms_headwise": "nestling.memories.cms.headwise:CMSHeadwise",
    },
)

__all__ = ["MEMORIES"]
