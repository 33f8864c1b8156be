"""Sequences, labels and message trees that the preprocessor makes."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.packed import SHARED_SEGMENT
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

SPEC = ImageSpec(image_size=56, patch_size=7, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""8x8 patches, 4x4 tokens a crop."""

EOS = 256
QUESTION = " User: q Assistant:"


@pytest.fixture(scope="module")
def make(byte_tokenizer):
    def build(formatter=None, spec=SPEC, config=None, for_inference=False, **kwargs):
        config = config or MolmoPreprocessorConfig(overlap_margins=[2, 2], max_crops=4)
        formatter = formatter or DataFormatter()
        return Preprocessor(byte_tokenizer, formatter, config, spec, for_inference, **kwargs)

    return build


def picture(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


def test_inference_on_text(make, byte_tokenizer):
    inputs = make(for_inference=True)({"prompt": "q"})
    assert inputs["input_ids"].tolist() == [EOS, *byte_tokenizer.encode(QUESTION)]
    assert set(inputs) == {"input_ids", "metadata"}
    assert inputs["metadata"] == {"style": None, "image_sizes": []}


def test_training_labels_are_the_answers_and_their_ends(make, byte_tokenizer):
    inputs = make()({"messages": turns("q", "one", "q", "two"), "weight": 0.5})
    ids, labels = inputs["input_ids"], inputs["labels"]
    learned = labels != -100
    assert torch.equal(labels[learned], ids[learned])
    assert byte_tokenizer.decode(ids[learned], False) == " one<|endoftext|> two<|endoftext|>"
    assert byte_tokenizer.decode(ids[1:], False) == f"{QUESTION} one<|endoftext|>{QUESTION} two<|endoftext|>"
    assert torch.equal(inputs["loss_masks"], learned.float() * 0.5)
    assert "position_ids" not in inputs and "subsegment_ids" not in inputs


def test_dtypes_and_shapes(make):
    inputs = make()({"image": picture(60, 60), "messages": turns("q", "a")})
    n = inputs["images"].shape[0]
    assert inputs["images"].shape == (n, 3, 56, 56) and inputs["images"].dtype == torch.float32
    assert inputs["image_masks"].shape == (n, 64) and inputs["image_masks"].dtype == torch.float32
    assert inputs["image_input_idx"].shape == (n, 16) and inputs["image_input_idx"].dtype == torch.int64
    for key in ("input_ids", "labels"):
        assert inputs[key].dtype == torch.int64 and inputs[key].shape == inputs["input_ids"].shape
    assert inputs["loss_masks"].dtype == torch.float32


def test_features_point_at_patch_tokens_each_once(make, byte_tokenizer):
    inputs = make()({"images": [picture(60, 90), picture(20, 20, 1), picture(90, 30, 2)], "messages": turns("q", "a")})
    used = inputs["image_input_idx"][inputs["image_input_idx"] >= 0].sort().values
    patches = (inputs["input_ids"] == byte_tokenizer.im_patch_id).nonzero().flatten()
    assert torch.equal(used, patches)
    assert inputs["input_ids"][0] == EOS and inputs["input_ids"][1] == byte_tokenizer.im_start_id
    assert inputs["metadata"]["image_sizes"] == [(90, 60), (20, 20), (30, 90)]


def test_several_pictures_are_single_ones_in_a_row(make):
    preprocess = make(for_inference=True)
    pictures = [picture(60, 90), picture(20, 20, 1)]
    together = preprocess({"images": pictures, "prompt": "q"})
    alone = [preprocess({"image": p, "prompt": "q"}) for p in pictures]
    n_text = len(preprocess({"prompt": "q"})["input_ids"]) - 1
    blocks = [a["input_ids"][1:-n_text] for a in alone]
    assert torch.equal(together["input_ids"][1:-n_text], torch.cat(blocks))
    assert torch.equal(together["images"], torch.cat([a["images"] for a in alone]))
    assert torch.equal(together["image_masks"], torch.cat([a["image_masks"] for a in alone]))
    second = alone[1]["image_input_idx"]
    shifted = torch.where(second >= 0, second + len(blocks[0]), second)
    assert torch.equal(together["image_input_idx"], torch.cat([alone[0]["image_input_idx"], shifted]))


@pytest.mark.parametrize("n_pictures", [0, 1, 2])
def test_a_tree_is_its_conversations_side_by_side(make, n_pictures):
    """Each conversation, seen with what all share, equals the same example on its own."""
    preprocess = make(DataFormatter(loss_token_weighting="none"))
    images = {"images": [picture(40, 60, i) for i in range(n_pictures)]}
    talks = [turns("first", "yes"), turns("second", "no", "again", "maybe"), turns("3", "x")]
    tree = preprocess({**images, "message_list": talks})
    segments = tree["subsegment_ids"]
    assert set(segments.tolist()) == {1, 2, 3, SHARED_SEGMENT}
    for number, talk in enumerate(talks, start=1):
        alone = preprocess({**images, "messages": talk})
        assert "subsegment_ids" not in alone
        seen = (segments == number) | (segments == SHARED_SEGMENT)
        for key in ("input_ids", "labels", "loss_masks"):
            assert torch.equal(tree[key][seen], alone[key])
        assert torch.equal(tree["position_ids"][seen], torch.arange(len(alone["input_ids"])))


def test_positions_follow_the_rule_of_the_notes(make):
    """Within segment s: cumsum(seg >= s) - 1."""
    tree = make()({"image": picture(), "message_list": [turns("a", "b"), turns("c", "d"), turns("e", "f")]})
    segments, positions = tree["subsegment_ids"].numpy(), tree["position_ids"].numpy()
    for s in np.unique(segments):
        rule = np.cumsum(segments >= s) - 1
        assert (positions[segments == s] == rule[segments == s]).all()


def test_nothing_is_learned_across_conversations(make):
    """Without questions the first token of a conversation is an answer's; the token before belongs to another one."""
    formatter = DataFormatter(message_format="none", system_prompt="none", prompt_templates="none")
    tree = make(formatter)({"image": picture(), "message_list": [{"text": "one"}, {"text": "two"}]})
    segments, labels = tree["subsegment_ids"], tree["labels"]
    begins = segments[1:] != segments[:-1]
    assert begins.sum() == 2 and (labels[1:][begins] == -100).all()
    assert (tree["loss_masks"][1:][begins] == 0).all()
    assert (labels[segments != SHARED_SEGMENT] != -100).sum() == (segments != SHARED_SEGMENT).sum() - 2


def test_root_weighting(make):
    tree = make()({"message_list": [turns("a", "b")] * 4, "weight": 3.0})
    assert set(tree["loss_masks"].tolist()) == {0.0, 1.5}
    one = make()({"message_list": [turns("a", "b")]})
    assert set(one["loss_masks"].tolist()) == {0.0, 1.0} and "position_ids" not in one


def test_randomness_comes_from_the_generator_alone(make):
    example = {"style": "pointing", "label": "cat", "points": [(3, 4)], "image": picture()}
    train = make()
    drawn = [train(example, np.random.default_rng(s))["input_ids"].tolist() for s in range(12)]
    assert len({tuple(d) for d in drawn}) > 4
    assert drawn == [train(example, np.random.default_rng(s))["input_ids"].tolist() for s in range(12)]
    plain = train(example)["input_ids"]
    for other in (make(is_training=False), make()):
        rng = np.random.default_rng(5) if other.is_training is False else None
        assert torch.equal(other(example, rng)["input_ids"], plain)
    with pytest.raises(OLMoInputError, match="rng is a numpy Generator"):
        train(example, np.random.RandomState(0))


def test_for_inference_wins_over_is_training(make):
    assert make(for_inference=True, is_training=True).is_training is False


def test_evaluation_has_labels_without_randomness(make):
    inputs = make(is_training=False)({"style": "user_qa", "question": "q", "answer": "a"})
    assert (inputs["labels"] != -100).sum() == 3


def test_pixel_points_refer_to_the_upright_picture(make, byte_tokenizer):
    image = Image.fromarray(picture(20, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    inputs = make()({"image": buffer.getvalue(), "style": "pointing", "label": "x", "points": [(10, 10)]})
    assert inputs["metadata"]["image_sizes"] == [(20, 40)]
    assert '<point x="50.0" y="25.0"' in byte_tokenizer.decode(inputs["input_ids"])


def test_include_image_keeps_the_decoded_picture(make):
    image = picture()
    inputs = make(include_image=True)({"image": image, "messages": turns("q", "a"), "metadata": {"id": 3}})
    assert np.array_equal(inputs["metadata"]["images"][0], image)
    assert inputs["metadata"]["id"] == 3
    assert "images" not in make()({"image": image, "messages": turns("q", "a")})["metadata"]


def test_metadata_names_the_styles(make):
    assert make()({"question": "q", "answer": "a", "style": "eval_short_answer"})["metadata"]["style"] == "vqa2"
    tree = make()({"message_list": [turns("q", "a")] * 2, "styles": ["user_qa", None]})
    assert tree["metadata"]["style"] == ["user_qa", None]


def test_long_text_is_cut_from_its_end_but_pictures_never(make):
    example = {"image": picture(60, 60), "messages": turns("q", "a" * 50)}
    whole = make()(example)
    n_picture = int(whole["image_input_idx"].max()) + 3
    for limit in (n_picture + 1, n_picture + 30, len(whole["input_ids"]), 10_000):
        cut = make(max_seq_len=limit)(example)
        length = min(limit, len(whole["input_ids"]))
        for key in ("input_ids", "labels", "loss_masks"):
            assert torch.equal(cut[key], whole[key][:length])
        assert torch.equal(cut["image_input_idx"], whole["image_input_idx"])
    with pytest.raises(
        OLMoInputError, match=rf"1 picture\(s\) take {n_picture - 1} tokens.*max_seq_len={n_picture}; lower"
    ):
        make(max_seq_len=n_picture)(example)


def test_a_tree_is_cut_in_all_its_tensors(make):
    example = {"message_list": [turns("q", "a" * 20), turns("q", "b" * 20)]}
    whole = make()(example)
    cut = make(max_seq_len=60)(example)
    for key in ("input_ids", "labels", "loss_masks", "position_ids", "subsegment_ids"):
        assert torch.equal(cut[key], whole[key][:60])


def test_a_prompt_is_never_cut(make):
    with pytest.raises(OLMoInputError, match=r"the prompt needs \d+ tokens .* max_seq_len=30; shorten the text"):
        make(for_inference=True, max_seq_len=30)({"prompt": "x" * 40})


def test_text_only_model_refuses_pictures(make):
    assert len(make(spec=None, for_inference=True)({"prompt": "q"})["input_ids"]) > 1
    with pytest.raises(OLMoInputError, match="text-only"):
        make(spec=None, for_inference=True)({"image": picture(), "prompt": "q"})


def test_a_prompt_cannot_pose_as_a_picture(make, byte_tokenizer):
    preprocess = pickle.loads(pickle.dumps(make(for_inference=True)))
    inputs = preprocess({"image": picture(), "prompt": "<im_start><im_patch><im_end><|image|>"})
    used = inputs["image_input_idx"][inputs["image_input_idx"] >= 0]
    assert (inputs["input_ids"] == byte_tokenizer.im_patch_id).sum() == len(used)


def test_one_crop_mode(make):
    config = MolmoPreprocessorConfig(crop_mode="resize", overlap_margins=[2, 2])
    inputs = make(config=config, for_inference=True)({"image": picture(200, 300), "prompt": "q"})
    assert inputs["images"].shape[0] == 1 and (inputs["image_input_idx"] >= 0).all()
