"""What model hubs read of a card, checked with their own reader; the weights for torch beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bev_perception.bundle import load_bundle
from training.bundling.card_metadata import Origin, card_metadata, join_card, model_index, split_card

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "bev_perception" / "bundles" / "demo"
SCORES = json.loads((ROOT / "docs" / "data" / "demo_scores.json").read_text())
ORIGIN = Origin("apache-2.0", ("synthetic-town", "somebody/drives"))


def loaded(text: str, tmp_path: Path):
    """By Hugging Face's reader, without a network."""
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    (tmp_path / "README.md").write_text(text)
    return hub.ModelCard.load(tmp_path / "README.md")


def test_the_hubs_own_reader_finds_everything(tmp_path: Path) -> None:
    spec = load_bundle(SHIPPED).spec
    metadata = card_metadata(spec, SCORES, ORIGIN)
    card = loaded(join_card(metadata, "# A model\n"), tmp_path)
    assert card.text.strip() == "# A model"
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "onnx")
    assert card.data.datasets == ["synthetic-town", "somebody/drives"]
    assert {"camera", "radar", "ros2"} <= set(card.data.tags)
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) == 7 * len(SCORES)
    assert found["all", "mAP"] == round(SCORES["all"]["mean_ap"], 4)
    assert found["radar", "mAVE"] == round(SCORES["radar"]["errors"]["ave"], 4)
    assert {r.dataset_name for r in card.data.eval_results} == {"synthetic-town"}
    assert card.data.to_dict() == metadata, "and would write the same"


def test_what_is_not_known_is_not_claimed(tmp_path: Path) -> None:
    spec = load_bundle(SHIPPED).spec
    card = loaded(join_card(card_metadata(spec, {}, Origin()), "# A model\n"), tmp_path)
    assert card.data.license == "unknown" and card.data.datasets is None and not card.data.eval_results
    (entry,) = model_index("m", {"all": {"mean_ap": 0.5, "nds": 0.4, "errors": {"ate": None, "ave": 1.0}}})
    (result,) = entry["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["mAP", "NDS", "mAVE"]
    for licence, datasets in (
        ("Apache 2.0", ()),
        ("", ()),
        ("mit\nx: y", ()),
        ("mit", ("my data",)),
        ("mit", ("a/b/c",)),
    ):
        with pytest.raises(ValueError, match=r"licence must be|data sets must be"):
            Origin(licence, datasets)


def test_the_shipped_card_states_what_was_measured(tmp_path: Path) -> None:
    """Of a network in 8 bits what the gate has measured, with the engine that the demo runs."""
    text = (SHIPPED / "MODEL_CARD.md").read_text()
    metadata, body = split_card(text)
    stated = json.loads((SHIPPED / "scores.json").read_text())
    scores = {"all": {"mean_ap": stated["mean_ap"], "nds": stated["nds"]}}
    found = metadata.pop("model-index")
    assert found == model_index("demo_camera_radar", scores, ("synthetic-city",))
    expected = card_metadata(load_bundle(SHIPPED).spec, SCORES, Origin("apache-2.0", ("synthetic-city",)))
    del expected["model-index"]
    assert metadata == expected and body.startswith("# demo_camera_radar\n")
    assert loaded(text, tmp_path).data.license == "apache-2.0"
    assert SCORES["all"]["mean_ap"] == pytest.approx(stated["mean_ap"], abs=0.002), "docs/results.md says the same"


def test_cards_of_before_and_damaged_ones() -> None:
    assert split_card("# A model\n\n---\n\ntext") == ({}, "# A model\n\n---\n\ntext")
    assert split_card("---\nno end") == ({}, "---\nno end")
    assert split_card("---\na: 1\n---\n# A\n") == ({"a": 1}, "# A\n")
    for head in ("a: [", "- 1"):
        with pytest.raises(ValueError, match=r"MODEL_CARD\.md: what stands before its text"):
            split_card(f"---\n{head}\n---\n# A\n")
