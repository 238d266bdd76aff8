from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_elmix import UsageError
from hf_elmix.losses import max_mahalanobis_centers, mmc_loss
from hf_elmix.training.mahalanobis_head import MahalanobisHead, use_mahalanobis_head

CLASSES = 3
LABELS = torch.tensor([0, 1, 2, 1])
TEXT = {"vocab_size": 60, "num_labels": CLASSES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"num_labels": CLASSES, "image_size": 32, "patch_size": 8}

# For each family, the place of the classifier and a small model.
MODELS = {
    "bert": ("classifier", lambda kit: kit.sequence_model()),
    "roberta": ("classifier.out_proj", lambda kit: RobertaForSequenceClassification(RobertaConfig(**TEXT, **LAYERS))),
    "distilbert": (
        "classifier",
        lambda kit: DistilBertForSequenceClassification(
            DistilBertConfig(**TEXT, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
        ),
    ),
    "gpt2": ("score", lambda kit: GPT2ForSequenceClassification(GPT2Config(**TEXT, n_embd=32, n_layer=1, n_head=2))),
    "llama": ("score", lambda kit: LlamaForSequenceClassification(LlamaConfig(**TEXT, **LAYERS))),
    "bart": (
        "classification_head.out_proj",
        lambda kit: BartForSequenceClassification(
            BartConfig(
                **TEXT,
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
            )
        ),
    ),
    "vit": ("classifier", lambda kit: ViTForImageClassification(ViTConfig(**IMAGE, **LAYERS))),
    "swin": (
        "classifier",
        lambda kit: SwinForImageClassification(
            SwinConfig(**IMAGE, window_size=2, embed_dim=16, depths=[1, 1], num_heads=[1, 2])
        ),
    ),
    "resnet": (
        "classifier.1",
        lambda kit: ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], num_labels=CLASSES)
        ),
    ),
}


def inputs_of(model: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(4, 3, 32, 32, generator=generator)}
    ids = torch.randint(3, 60, (4, 6), generator=generator)
    ids[:, -1] = 2  # the end, from which an encoder-decoder takes its features
    return {"input_ids": ids}


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs_of(model)).logits


def features_of(model: nn.Module, place: str) -> torch.Tensor:
    """The input of the classifier."""
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(place).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits_of(model)
    hook.remove()
    return seen[0]


@pytest.fixture(params=MODELS)
def placed(request, kit):
    """A model and the place of its classifier."""
    torch.manual_seed(0)
    place, build = MODELS[request.param]
    return build(kit), place


def test_replaces_the_classifier(placed):
    model, place = placed
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    head = use_mahalanobis_head(model, 7.0)
    assert model.get_submodule(place) is head
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed - {f"{place}.bias"} == {f"{place}.weight"}
    assert head.bias is None or not head.bias.any()
    assert torch.equal(head.weight, max_mahalanobis_centers(CLASSES, 32, 7.0))
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_predicts_the_nearest_center(placed):
    model, place = placed
    centers = use_mahalanobis_head(model, 2.0).weight.double().numpy()
    features = features_of(model, place).double().numpy()
    distances = np.array([[((z - mu) ** 2).sum() / 2 for mu in centers] for z in features.reshape(-1, 32)])
    logits = logits_of(model).double().numpy()
    if features.ndim == 3:  # of each token: the last of each row is used
        distances = distances.reshape(4, -1, CLASSES)[:, -1]
    np.testing.assert_allclose(logits, -distances, rtol=1e-5)
    assert logits.argmax(-1).tolist() == distances.argmin(-1).tolist()


def test_trains_all_but_the_centers(placed):
    model, place = placed
    centers = use_mahalanobis_head(model, 2.0).weight.clone()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    features = features_of(model, place)
    z = features[:, -1] if features.dim() == 3 else features
    losses = []
    for _ in range(2):
        loss = F.nll_loss(model(**inputs_of(model)).logits, LABELS)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(mmc_loss(z, LABELS, centers).item(), rel=1e-5)
    assert losses[1] < losses[0]
    assert torch.equal(model.get_submodule(place).weight, centers)
    assert model.get_submodule(place).weight.grad is None


def test_loads_without_this_package_and_predicts_the_same(placed, tmp_path):
    model, place = placed
    use_mahalanobis_head(model, 2.0)
    model.save_pretrained(tmp_path)
    images = model.main_input_name == "pixel_values"
    auto = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())  # no key is missing or unexpected
    assert type(loaded.get_submodule(place)) is nn.Linear
    ours, theirs = logits_of(model), logits_of(loaded)
    torch.testing.assert_close(theirs.softmax(-1), ours.softmax(-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(theirs.argmax(-1), ours.argmax(-1))

    head = use_mahalanobis_head(loaded)  # to train it further, at its scale
    assert head.scale == 2.0
    assert torch.equal(logits_of(loaded), ours)
    use_mahalanobis_head(loaded)  # again
    assert torch.equal(logits_of(loaded), ours)


def test_a_pipeline_can_use_it(kit, tmp_path):
    model = kit.sequence_model()
    use_mahalanobis_head(model, 2.0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(55))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["w1 w2 w3", "w50", "w7 w7"]
    shown = pipeline("text-classification", model=str(tmp_path), top_k=None)(texts)
    for text, row in zip(texts, shown, strict=True):
        with torch.no_grad():
            logits = model.eval()(**tokenizer(text, return_tensors="pt")).logits[0]
        scores = {model.config.label2id[entry["label"]]: entry["score"] for entry in row}
        expected = logits.softmax(-1).tolist()
        assert [scores[label] for label in range(CLASSES)] == pytest.approx(expected, abs=1e-6)


def test_the_trainer_leaves_the_centers_out_of_its_optimizer(kit):
    model = kit.sequence_model()
    head = use_mahalanobis_head(model)
    trainer = kit.trainer(Trainer, model=model)
    groups = trainer.create_optimizer().param_groups
    trained = {id(weight) for group in groups for weight in group["params"]}
    assert trained == {id(weight) for weight in model.parameters()} - {id(weight) for weight in head.parameters()}


def test_half_precision_predicts_what_full_precision_does(kit):
    model = kit.sequence_model()
    head = use_mahalanobis_head(model, 2.0)
    expected = logits_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = logits_of(model)
    half = logits_of(copy.deepcopy(model).bfloat16())
    built = use_mahalanobis_head(model.bfloat16(), 2.0)
    assert torch.equal(built.weight, head.weight)
    for logits in (inside, half):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02)


def test_weights_are_not_initialised_again(kit):
    model = kit.sequence_model()
    head = use_mahalanobis_head(model)
    model.init_weights()
    assert torch.equal(head.weight, max_mahalanobis_centers(CLASSES, 32))


def test_shows_its_scale():
    assert repr(MahalanobisHead(5, 3, 4, bias=False)) == (
        "MahalanobisHead(in_features=5, out_features=3, bias=False, scale=4)"
    )


def changed(kit, **settings):
    model = kit.sequence_model()
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model


def with_teacher(kit):
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**IMAGE, **LAYERS))


def many_classes(kit):
    config = kit.config()
    config.num_labels = 40
    return BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (with_teacher, r"cls_classifier \(3 outputs\), distillation_classifier \(3 outputs\)"),
        (lambda kit: changed(kit, problem_type="regression"), "problem_type='regression'"),
        (lambda kit: changed(kit, problem_type="multi_label_classification"), "multi-label"),
        (lambda kit: changed(kit, num_labels=1), "num_labels=1"),
        (lambda kit: changed(kit, num_labels=4), r"num_labels=4 outputs .* are: classifier \(3 outputs\)"),
        (lambda kit: BertForQuestionAnswering(kit.config()), "returns no class logits"),
        (lambda kit: BertModel(kit.config()), "BertModel to have one linear layer with num_labels=3 outputs"),
        (lambda kit: nn.Linear(4, 3), "Linear to have one linear layer with num_labels=None outputs"),
        (many_classes, "cannot have a Max-Mahalanobis head. Expected 39 features or more"),
        (lambda kit: get_peft_model(kit.sequence_model(), LoraConfig(task_type="SEQ_CLS")), "before get_peft_model"),
    ],
)
def test_models_without_one_classifier_are_refused(kit, build, message):
    model = build(kit)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=message):
        use_mahalanobis_head(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_has_to_be_above_0(kit, scale):
    model = kit.sequence_model()
    with pytest.raises(UsageError, match="scale to be a number above 0"):
        use_mahalanobis_head(model, scale)
    assert not hasattr(model.config, "mahalanobis_scale")


def test_adapters_around_it_leave_the_centers_alone(kit):
    model = kit.sequence_model()
    head = use_mahalanobis_head(model, 2.0)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["query", "value"]))
    trained = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    F.nll_loss(wrapped(**inputs_of(model)).logits, LABELS).backward()
    assert torch.equal(head.weight, max_mahalanobis_centers(CLASSES, 32, 2.0))
