from __future__ import annotations

import pytest
import torch

from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.block import TransformerBlock
from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig

VARIANTS = {
    "plain": {},
    "qwen2": {"n_kv_heads": 2, "qkv_bias": True},
    "olmo1": {"norm_type": "layer", "norm_has_weight": False, "weight_tying": True},
    "olmo2": {"norm_after": True, "qk_norm": True},
    "olmoe": {"block_type": "olmoe", "n_experts": 6, "experts_per_token": 2, "qk_norm": True},
    "llama3": {"n_kv_heads": 1, "rope": {"scaling": "llama3", "original_max_position": 32}},
}
VOCAB, NEW = 40, 6


def build(**values):
    config = LlmConfig.new(
        **{
            "d_model": 32, "n_heads": 4, "n_layers": 3, "mlp_hidden_size": 24, "vocab_size": VOCAB,
            "additional_vocab_size": NEW, "init_std": 0.2, **values,
        }
    )  # fmt: skip
    llm = Llm(config)
    llm.reset_parameters(torch.Generator().manual_seed(5))
    return llm.eval()


@pytest.fixture(params=VARIANTS)
def llm(request):
    return build(**VARIANTS[request.param])


def random_ids(batch, length, seed=0):
    return torch.randint(0, VOCAB + NEW, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_of(llm, ids, **arguments):
    arguments.setdefault("position_ids", torch.arange(ids.shape[1])[None])
    return llm.logits(llm(llm.embed(ids), **arguments).hidden)


def decode(llm, ids, lengths, cache, valid=None):
    """Logits of `ids` fed in pieces of the given lengths."""
    parts, start = [], 0
    positions = torch.arange(ids.shape[1])[None] if valid is None else (valid.cumsum(1) - 1).clamp(min=0)
    for n in lengths:
        end = start + n
        seen = None if valid is None else valid[:, :end]
        mask = build_attention_mask(n, past_length=start, key_is_valid=seen)
        piece, where = ids[:, start:end], positions[:, start:end]
        parts.append(logits_of(llm, piece, position_ids=where, attention_mask=mask, cache=cache))
        start = end
    return torch.cat(parts, 1)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1] * 9, [4, 5], [5, 1, 1, 2], [9]])
@pytest.mark.parametrize("reserved", [9, 2])
def test_cached_equals_uncached(llm, lengths, reserved):
    ids = random_ids(2, 9)
    cache = llm.new_cache(2, reserved)
    torch.testing.assert_close(decode(llm, ids, lengths, cache), logits_of(llm, ids), atol=2e-5, rtol=1e-4)
    assert cache.length == 9


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_equals_alone(llm, side):
    short, long = random_ids(1, 4, seed=1), random_ids(1, 7, seed=2)
    padding = torch.full((1, 3), -1)
    padded = torch.cat((padding, short) if side == "left" else (short, padding), 1)
    ids = torch.cat((padded, long))
    valid = ids >= 0
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    together = logits_of(llm, ids, position_ids=positions, attention_mask=build_attention_mask(7, key_is_valid=valid))
    assert together.isfinite().all()
    torch.testing.assert_close(together[0][valid[0]], logits_of(llm, short)[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together[1], logits_of(llm, long)[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_right_padding_needs_no_mask_before_decoding(llm):
    short = random_ids(1, 4, seed=1)
    padded = torch.cat((short, torch.full((1, 3), -1)), 1)
    torch.testing.assert_close(logits_of(llm, padded)[:, :4], logits_of(llm, short), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_decoding_equals_alone(llm, side):
    """Slots are the same for all rows; the padding in the middle of a right-padded row stays invisible."""
    prompt, tail = random_ids(1, 3, seed=1), random_ids(1, 4, seed=2)
    padding = torch.full((1, 2), -1)
    head = torch.cat((padding, prompt) if side == "left" else (prompt, padding), 1)
    ids = torch.cat((torch.cat((head, tail), 1), random_ids(1, 9, seed=3)))
    valid = ids >= 0
    got = decode(llm, ids, [5, 1, 1, 1, 1], llm.new_cache(2, 9), valid)
    alone = logits_of(llm, torch.cat((prompt, tail), 1))
    torch.testing.assert_close(got[0][valid[0]], alone[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_reordered_cache_continues_the_chosen_rows(llm):
    ids = random_ids(3, 6)
    rows = torch.tensor([2, 0, 2, 1])
    cache = llm.new_cache(3, 8)
    decode(llm, ids, [6], cache)
    cache.reorder(rows)
    tail = random_ids(4, 2, seed=4)
    got = torch.cat(
        [logits_of(llm, tail[:, i : i + 1], position_ids=torch.full((4, 1), 6 + i), cache=cache) for i in range(2)], 1
    )
    full = logits_of(llm, torch.cat((ids[rows], tail), 1))[:, 6:]
    torch.testing.assert_close(got, full, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_eager_equals_fused_and_outputs_have_their_shapes(llm):
    ids = random_ids(2, 6)
    out = llm(llm.embed(ids), position_ids=torch.arange(6)[None], output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(llm.logits(out.hidden), logits_of(llm, ids), atol=2e-5, rtol=1e-4)
    assert len(out.hidden_states) == 4 and len(out.attentions) == 3
    assert torch.equal(out.hidden_states[0], llm.embed(ids))
    assert torch.equal(out.hidden_states[-1], out.hidden)
    assert out.attentions[0].shape == (2, 4, 6, 6)
    assert out.router is None
    plain = llm(llm.embed(ids), position_ids=torch.arange(6)[None])
    assert plain.hidden_states is None and plain.attentions is None


@torch.no_grad()
def test_eager_with_a_cache(llm):
    ids = random_ids(2, 6)
    cache = llm.new_cache(2, 6)
    first = logits_of(llm, ids[:, :3], cache=cache, output_attentions=True)
    out = llm(llm.embed(ids[:, 3:]), position_ids=torch.arange(3, 6)[None], cache=cache, output_attentions=True)
    got = torch.cat((first, llm.logits(out.hidden)), 1)
    torch.testing.assert_close(got, logits_of(llm, ids), atol=2e-5, rtol=1e-4)
    assert out.attentions[0].shape == (2, 4, 3, 6)


@torch.no_grad()
def test_later_tokens_change_nothing_before_them(llm):
    ids = random_ids(1, 8)
    changed = ids.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(logits_of(llm, changed)[:, :5], logits_of(llm, ids)[:, :5], atol=2e-5, rtol=1e-4)


def test_every_parameter_gets_a_finite_gradient(llm):
    llm.train()
    ids = torch.arange(VOCAB + NEW)[None]
    logits_of(llm, ids).logsumexp(-1).sum().backward()
    for name, parameter in llm.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_embedding_tables():
    llm = build()
    ids = torch.tensor([[0, VOCAB - 1, VOCAB, VOCAB + NEW - 1, -1, -100]])
    table = torch.cat((llm.wte.embedding, llm.wte.new_embedding))
    assert torch.equal(llm.embed(ids), table[[0, VOCAB - 1, VOCAB, VOCAB + NEW - 1, 0, 0]][None])
    llm.embed(ids).sum().backward()
    assert llm.wte.embedding.grad[:, 0].nonzero().flatten().tolist() == [0, VOCAB - 1]
    assert llm.wte.new_embedding.grad[:, 0].nonzero().flatten().tolist() == [0, NEW - 1]


def test_no_added_vocabulary():
    llm = build(additional_vocab_size=0)
    assert llm.wte.new_embedding is None
    assert torch.equal(llm.embed(torch.tensor([[3, -1]])), llm.wte.embedding[[3, 0]][None])


def test_logits_cover_the_base_table_only():
    for tied in (False, True):
        llm = build(weight_tying=tied, embedding_size=48)
        assert logits_of(llm, random_ids(1, 3)).shape == (1, 3, 48)
        assert ("lm_head.weight" in llm.state_dict()) is not tied


def test_router_statistics_only_when_asked():
    llm = build(**VARIANTS["olmoe"])
    embeds, positions = llm.embed(random_ids(2, 5)), torch.arange(5)[None]
    assert llm(embeds, position_ids=positions).router is None
    counted = torch.ones(2, 5, dtype=torch.bool)
    counted[1, 3:] = False
    found = llm(embeds, position_ids=positions, router_counts=counted).router
    assert found.load.shape == (3, 6) and found.load.sum(-1).tolist() == [16, 16, 16]
    assert found.n_tokens.tolist() == [8, 8, 8]
    dense = build()
    assert dense(dense.embed(random_ids(2, 5)), position_ids=positions, router_counts=counted).router is None


def test_state_dict_names():
    def names(llm):
        return {n.replace("blocks.0.", "") for n in llm.state_dict() if not n.startswith(("blocks.1", "blocks.2"))}

    outer = {"wte.embedding", "wte.new_embedding", "ln_f.weight", "lm_head.weight"}
    outer |= {"attn_norm.weight", "ff_norm.weight"}
    attention = {"attention.att_proj.weight", "attention.attn_out.weight"}
    dense = {"mlp.ff_proj.weight", "mlp.ff_out.weight"}
    routed = {"mlp.router.weight", "mlp.experts_in", "mlp.experts_out"}
    qk = {"attention.q_norm.weight", "attention.k_norm.weight"}
    assert names(build()) == outer | attention | dense
    assert names(build(qkv_bias=True)) == outer | attention | dense | {"attention.att_proj.bias"}
    assert names(build(**VARIANTS["olmoe"])) == outer | attention | routed | qk


class TestInitialisation:
    def test_values(self):
        llm = build(d_model=64, qkv_bias=True, init_std=0.05)
        for name, parameter in llm.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
            elif "norm" in name or name.startswith("ln_f"):
                assert (parameter == 1).all(), name
            else:
                assert parameter.std().item() == pytest.approx(0.05, rel=0.15), name
                assert abs(parameter.mean().item()) < 0.01, name

    def test_same_seed_same_weights(self, llm):
        before = {name: p.clone() for name, p in llm.state_dict().items()}
        llm.reset_parameters(torch.Generator().manual_seed(6))
        assert any(not torch.equal(p, before[name]) for name, p in llm.state_dict().items())
        llm.reset_parameters(torch.Generator().manual_seed(5))
        assert all(torch.equal(p, before[name]) for name, p in llm.state_dict().items())

    def test_a_generator_leaves_the_global_state_alone(self, llm):
        before = torch.get_rng_state()
        llm.reset_parameters(torch.Generator().manual_seed(6))
        assert torch.equal(torch.get_rng_state(), before)

    def test_from_the_meta_device(self, llm):
        with torch.device("meta"):
            empty = Llm(llm.config)
        assert all(p.is_meta for p in empty.parameters()) and not list(empty.buffers())
        empty = empty.to_empty(device="cpu").eval()
        empty.reset_parameters(torch.Generator().manual_seed(5))
        ids = random_ids(2, 5)
        assert torch.equal(logits_of(empty, ids), logits_of(llm, ids))

    def test_fresh_model_is_usable(self):
        assert logits_of(Llm(build(**VARIANTS["olmoe"]).config), random_ids(1, 4)).isfinite().all()


class TestDropout:
    def run(self, llm, response=None, seed=0):
        torch.manual_seed(seed)
        ids = random_ids(1, 6)
        return llm(llm.embed(ids), position_ids=torch.arange(6)[None], response_mask=response).hidden

    @pytest.mark.parametrize("kind", ["embedding_dropout", "attention_dropout", "residual_dropout"])
    def test_only_when_training(self, kind):
        llm = build(**{kind: 0.5})
        assert torch.equal(self.run(llm, seed=0), self.run(llm, seed=1))
        llm.train()
        assert torch.equal(self.run(llm, seed=1), self.run(llm, seed=1))
        assert not torch.equal(self.run(llm, seed=0), self.run(llm, seed=1))

    def dropped(self, response_mask, length=400, **rates):
        """Share of branch values dropped on answer tokens and on the others."""
        block = TransformerBlock(LlmConfig(d_model=32, n_heads=4, **rates)).train()
        llm = build(**rates).train()
        keep = llm._keep_probability(response_mask)
        branch = torch.ones(1, length, 32)
        torch.manual_seed(0)
        out = block._finish(branch, block.attn_norm, keep)
        share = (out == 0).float().mean(-1)[0]
        return out, share

    def test_answers_have_their_own_rate(self):
        response = torch.arange(400)[None] >= 200
        out, share = self.dropped(response, residual_dropout=0.1, response_residual_dropout=0.5)
        assert share[:200].mean() == pytest.approx(0.1, abs=0.02)
        assert share[200:].mean() == pytest.approx(0.5, abs=0.02)
        torch.testing.assert_close(out[:, :200].unique(), torch.tensor([0.0, 1 / 0.9]))
        torch.testing.assert_close(out[:, 200:].unique(), torch.tensor([0.0, 2.0]))

    def test_answer_rate_zero_means_one_rate_for_all(self):
        response = torch.arange(400)[None] >= 200
        _, share = self.dropped(response, residual_dropout=0.1, response_residual_dropout=0.0)
        assert share[:200].mean() == pytest.approx(0.1, abs=0.02)
        assert share[200:].mean() == pytest.approx(0.1, abs=0.02)

    def test_only_the_answer_rate_set(self):
        response = torch.arange(400)[None] >= 200
        _, share = self.dropped(response, response_residual_dropout=0.5)
        assert share[:200].max() == 0 and share[200:].mean() == pytest.approx(0.5, abs=0.02)


class TestPrecision:
    @torch.no_grad()
    def test_bfloat16_stays_near_float32(self, llm):
        ids = random_ids(2, 12)
        wanted = logits_of(llm, ids)
        got = logits_of(llm.bfloat16(), ids)
        assert got.dtype == torch.bfloat16
        assert (got.float() - wanted).abs().mean() < 0.05 * wanted.std()

    @torch.no_grad()
    def test_bfloat16_cached_and_masked(self, llm):
        llm = llm.bfloat16()
        ids = random_ids(2, 6)
        valid = torch.ones(2, 6, dtype=torch.bool)
        valid[0, :2] = False
        cache = llm.new_cache(2, 6)
        assert decode(llm, ids, [4, 1, 1], cache, valid).isfinite().all()
        assert cache.as_tuple()[0][0].dtype == torch.bfloat16

    def test_autocast_trains_with_a_mask(self, llm):
        llm.train()
        ids = random_ids(2, 6)
        valid = torch.ones(2, 6, dtype=torch.bool)
        valid[0, 4:] = False
        with torch.no_grad():
            wanted = logits_of(llm, ids, attention_mask=build_attention_mask(6, key_is_valid=valid))
        with torch.autocast("cpu", torch.bfloat16):
            got = logits_of(llm, ids, attention_mask=build_attention_mask(6, key_is_valid=valid))
        got.float().square().mean().backward()
        assert (got.float() - wanted).abs().mean() < 0.05 * wanted.std()
        assert all(p.grad.isfinite().all() for p in llm.blocks.parameters())


def test_num_params_of_inactive_experts():
    llm = build(**VARIANTS["olmoe"])
    assert llm.num_params() == sum(p.numel() for p in llm.parameters())
    assert llm.num_params() - llm.num_params(include_inactive=False) == 3 * 4 * 3 * 32 * 24
    assert build().num_params() == build().num_params(include_inactive=False)
