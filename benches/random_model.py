#!/usr/bin/env python3
"""Writes a model folder with a known model's sizes and random weights, for measuring speed.

    python3 benches/random_model.py llama-1b 4bit /tmp/llama-1b-4bit
    unimlx bench -m /tmp/llama-1b-4bit

Needs numpy. Kinds: bf16, or MLX's affine format with 8bit or 4bit codes in groups of 64.
"""
import json
import os
import struct
import sys

import numpy as np

COMMON = dict(hidden_act="silu", eos_token_id=2, num_key_value_heads=8, tie_word_embeddings=True)
SHAPES = {
    "qwen3-0.6b": dict(
        COMMON, model_type="qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, head_dim=128, vocab_size=151936, rope_theta=1e6, rms_norm_eps=1e-6,
        max_position_embeddings=40960,
    ),
    "llama-1b": dict(
        COMMON, model_type="llama", hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, head_dim=64, vocab_size=128256, rope_theta=5e5, rms_norm_eps=1e-5,
        max_position_embeddings=131072,
    ),
}
GROUP = 64


def bf16(x):
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in ("bf16", "8bit", "4bit"):
        sys.exit(__doc__)
    shape, kind, out = sys.argv[1:]
    c = dict(SHAPES[shape])
    bits = {"bf16": 0, "8bit": 8, "4bit": 4}[kind]
    if bits:
        c["quantization"] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    rng = np.random.default_rng(0)
    tensors = []  # (name, dtype, shape, maker)

    def linear(name, n, k):
        if not bits:
            make = lambda: bf16(rng.standard_normal((n, k), dtype=np.float32) * 0.02)
            tensors.append((name + ".weight", "BF16", (n, k), make))
            return
        words, groups = (n, k * bits // 32), (n, k // GROUP)
        scale = 0.08 / (2**bits - 1)
        tensors.append((name + ".weight", "U32", words, lambda: rng.integers(0, 2**32, words, dtype=np.uint32)))
        tensors.append((name + ".scales", "BF16", groups, lambda: bf16(scale * (0.5 + rng.random(groups, dtype=np.float32)))))
        tensors.append((name + ".biases", "BF16", groups, lambda: bf16(np.full(groups, -0.04, np.float32))))

    def norm(name, n):
        tensors.append((name + ".weight", "BF16", (n,), lambda: bf16(np.ones(n, np.float32))))

    hidden, inner, dim = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
    linear("model.embed_tokens", c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        norm(layer + "input_layernorm", hidden)
        norm(layer + "post_attention_layernorm", hidden)
        for name, n, k in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            linear(f"{layer}self_attn.{name}_proj", n, k)
        if c["model_type"] == "qwen3":
            norm(layer + "self_attn.q_norm", dim)
            norm(layer + "self_attn.k_norm", dim)
        for name, n, k in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            linear(f"{layer}mlp.{name}_proj", n, k)
    norm("model.norm", hidden)

    header, offset = {}, 0
    for name, dtype, dims, _ in tensors:
        size = int(np.prod(dims)) * {"BF16": 2, "U32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(c, f)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for _, _, _, make in tensors:
            f.write(make().tobytes())


main()
