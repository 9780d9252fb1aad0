import numpy as np
import pytest
import torch

from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.visualization.attention import (
    AttentionMaps,
    attention_maps,
    attention_shares,
    word_relevance,
)

TEXTS = ["A man in a red coat, with a blue bag.", "一个穿红色外套的男子", "woman"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def build(image_size, tokens="all", **disentangle):
    """A tiny model with patches of 8 x 8, which knows English words and Chinese characters."""
    torch.manual_seed(0)
    return T2IReIDModel(
        {
            "vit_pretrained": {"image_size": image_size, "patch_size": 8, **SMALL},
            "bert_base_path": {"max_position_embeddings": 64, **SMALL},
            "tokenizer": learn_wordpiece(TEXTS, 200),
            "num_classes": 3,
            "disentangle": {"tokens": tokens, **disentangle},
            "fusion": None,
        }
    ).eval()


@pytest.fixture(scope="module")
def model():
    """Takes 48 x 16 pixels, so 6 x 2 patches."""
    return build([48, 16])


@pytest.fixture
def targets():
    return torch.nn.functional.normalize(torch.randn(3, 256, generator=torch.Generator().manual_seed(3)), dim=1)


def images(count, height=48, width=16):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


class TestMaps:
    def test_one_pooled_token_is_refused(self):
        with pytest.raises(ConfigError, match="no attention over patches"):
            attention_maps(build([48, 16], "mean"), images(1))

    def test_definition(self, model):
        """By hand: scores of queries and keys, softmax, mean over heads and queries, without the class token."""
        maps = attention_maps(model, images(3))
        with torch.no_grad():
            tokens = model.visual_encoder(images(3)).last_hidden_state
            for name, actual in (("id", maps.identity), ("cloth", maps.clothing)):
                attention = getattr(model.disentangle, f"{name}_attn")
                projected = getattr(model.disentangle, f"{name}_linear")(tokens)
                qkv = projected @ attention.in_proj_weight.T + attention.in_proj_bias
                query, key = (part.view(3, 13, 4, 4).transpose(1, 2) for part in qkv.chunk(3, dim=-1)[:2])
                weights = (query @ key.transpose(-1, -2) / 4**0.5).softmax(dim=-1)  # [3, heads, 13, 13]
                patches = weights.mean(dim=(1, 2))[:, 1:]
                expected = (patches / patches.sum(dim=1, keepdim=True)).view(3, 6, 2)
                torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
        assert not torch.allclose(maps.identity, maps.clothing, atol=1e-4)

    @pytest.mark.parametrize("disentangle", [{"pool": "stripes", "stripes": 4}, {"pool": "attention", "cross": "none"}])
    def test_other_pools_have_the_same_maps(self, model, disentangle):
        other = build([48, 16], **disentangle)
        other.load_state_dict(model.state_dict(), strict=False)
        for actual, expected in zip(attention_maps(other, images(2)), attention_maps(model, images(2))):
            torch.testing.assert_close(actual, expected)

    @pytest.mark.parametrize(
        ("native", "height", "width", "grid"),
        [
            ([16, 40], 16, 40, (2, 5)),
            ([32, 32], 64, 24, (8, 3)),  # not its own size: the encoder interpolates its positions
        ],
    )
    def test_any_grid(self, native, height, width, grid):
        maps = attention_maps(build(native), images(2, height, width))
        for branch in maps:
            assert branch.shape == (2, *grid)
            assert (branch > 0).all()
            torch.testing.assert_close(branch.sum(dim=(1, 2)), torch.ones(2))

    def test_the_model_is_left_unchanged(self, model, targets):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        attention_maps(model, images(2))
        word_relevance(model, TEXTS, targets)
        assert not model.disentangle._forward_pre_hooks
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_an_encoder_without_patches_is_refused(self, model, monkeypatch):
        monkeypatch.setattr(model.visual_encoder.config, "patch_size", 4)
        with pytest.raises(InputError, match="13 tokens for 12 x 4 patches"):
            attention_maps(model, images(1))
        with pytest.raises(InputError, match="images must be"):
            attention_maps(model, images(1)[0])


class TestWords:
    def cosine(self, model, text, target):
        with torch.no_grad():
            return float(model.encode_text(text) @ target)

    def test_relevance_is_the_fall_of_the_cosine(self, model, targets):
        english, chinese, single = word_relevance(model, TEXTS, targets)
        assert [word for word, _ in english] == ["A", "man", "in", "a", "red", "coat", "with", "a", "blue", "bag"]
        without = {"red": "A man in a  coat, with a blue bag.", "coat": "A man in a red , with a blue bag."}
        whole = self.cosine(model, TEXTS[0], targets[0])
        for word, text in without.items():
            assert dict(english)[word] == pytest.approx(whole - self.cosine(model, text, targets[0]), abs=1e-5)
        assert [word for word, _ in chinese] == list(TEXTS[1])
        whole = self.cosine(model, TEXTS[1], targets[1])
        less = self.cosine(model, TEXTS[1].replace("外", ""), targets[1])
        assert dict(chinese)["外"] == pytest.approx(whole - less, abs=1e-5)
        assert single == [("woman", pytest.approx(self.cosine(model, "woman", targets[2]), abs=1e-5))]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("A T-shirt, don't ask.", ["A", "T-shirt", "don't", "ask"]),
            ("穿Nike鞋，3条", ["穿", "Nike", "鞋", "3", "条"]),
            ("...", []),
        ],
    )
    def test_words_without_punctuation(self, model, targets, text, words):
        assert [word for word, _ in word_relevance(model, [text], targets[:1])[0]] == words

    def test_an_empty_caption_is_refused(self, model, targets):
        with pytest.raises(InputError, match="the text is empty"):
            word_relevance(model, [" "], targets[:1])


def halves(count, top):
    """Maps 4 x 2 of which the identity branch spends ``top`` on the upper half, the clothing branch on the lower."""
    identity = torch.full((count, 4, 2), (1 - top) / 4)
    identity[:, :2] = top / 4
    return AttentionMaps(identity, identity.flip(1))


class TestShares:
    def half(self, height=40, width=20):
        mask = np.zeros((height, width), bool)
        mask[: height // 2] = True
        return {"top": mask, "bottom": ~mask, "all": mask | ~mask, "none": mask & ~mask}

    def test_by_hand(self):
        rows = attention_shares(halves(3, 0.9), [self.half()] * 3, [1, 2, 3])
        assert list(rows) == ["top", "bottom", "all", "none"]
        expected = {"top": (0.5, 0.9, 0.1), "bottom": (0.5, 0.1, 0.9), "all": (1, 1, 1), "none": (0, 0, 0)}
        for part, (area, identity, clothing) in expected.items():
            row = rows[part]
            assert row["area"] == pytest.approx(area)
            for name, mean in (("identity", identity), ("clothing", clothing), ("difference", identity - clothing)):
                figures = {"mean": mean, "low": mean, "high": mean}  # all photos alike: no uncertainty
                assert row[name] == pytest.approx(figures, abs=1e-6)

    def test_uniform_maps_give_the_area(self):
        """Also where parts cut patches, and photos differ in size."""
        source = np.random.default_rng(0)
        masks = [{"some": source.random((101 + i, 47 + i)) < 0.3} for i in range(5)]
        maps = AttentionMaps(torch.full((5, 7, 3), 1 / 21), torch.full((5, 7, 3), 1 / 21))
        row = attention_shares(maps, masks, range(5))["some"]
        assert row["identity"]["mean"] == pytest.approx(row["area"], abs=1e-5)

    def test_people_are_resampled_not_photos(self):
        """Ten photos of each of two people say no more than one photo of each."""
        once = AttentionMaps(*(torch.cat(pair) for pair in zip(halves(1, 0.9), halves(1, 0.1))))
        tenfold = AttentionMaps(*(branch.repeat_interleave(10, dim=0) for branch in once))
        few, many, apart = (
            attention_shares(maps, [self.half()] * len(pids), pids)["top"]["identity"]
            for maps, pids in ((once, [5, 9]), (tenfold, [5] * 10 + [9] * 10), (tenfold, range(20)))
        )
        assert few == pytest.approx({"mean": 0.5, "low": 0.1, "high": 0.9})
        assert many == pytest.approx(few)
        assert apart["high"] - apart["low"] < 0.5
