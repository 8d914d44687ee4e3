"""The signature of a bundle: whatever is not as it was signed is refused, each in its own words."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("model_signing", reason="needs model-signing")
import tiny_bundle
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bev_perception.archive import pack_bundle, release_row, unpack_bundle
from bev_perception.bundle import GOLDEN, MODEL, SIGNATURE, SPEC, load_bundle
from bev_perception.model_spec import BundleError
from bev_perception.signing import SignatureError, main, require_signature, sign_bundle
from bev_perception.store import main as store_main

PEM = serialization.Encoding.PEM


def write_keys(folder: Path, key: Any = None, password: bytes = b"") -> tuple[Path, Path]:
    """A private key and its public half, as openssl writes them."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    (folder / "key").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public").write_bytes(public)
    return folder / "key", folder / "public"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, public key)."""
    folder = tmp_path_factory.mktemp("signed")
    key, public = write_keys(folder / "keys")
    tiny_bundle.write_bundle(folder / "bundle")
    (folder / "bundle" / "MODEL_CARD.md").write_text("# tiny\n")
    sign_bundle(folder / "bundle", key)
    return folder / "bundle", public


@pytest.fixture
def bundle(signed: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed[0], tmp_path / "bundle"))


def test_what_is_signed_is_accepted_whole_and_after_it_travelled(signed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, public = signed
    require_signature(bundle, public)
    assert load_bundle(bundle).spec.name == "tiny"
    pack_bundle(bundle, tmp_path / "b.zip")
    unpack_bundle(tmp_path / "b.zip", tmp_path / "another name")
    require_signature(tmp_path / "another name", public)


def test_a_store_gives_a_vehicle_that_has_a_key_nothing_else(
    bundle: Path, signed: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "store").mkdir()
    _, other = write_keys(tmp_path / "other")
    pack_bundle(bundle, tmp_path / "store" / "b.zip")
    row = release_row(tmp_path / "store" / "b.zip", (bundle / SPEC).read_text())
    (tmp_path / "store" / "manifest.json").write_text(
        json.dumps({"format": 1, "releases": [{"version": "1", "share": 1, **row}]})
    )
    fetch = [str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--public-key"]
    assert store_main([*fetch, str(other)]) == 1
    assert "is signed with another key" in capsys.readouterr().err
    assert not any(f.is_dir() for f in (tmp_path / "out").iterdir())
    assert store_main([*fetch, str(signed[1])]) == 0
    assert store_main([*fetch, str(other)]) == 1, "nor what is there already"


def test_others_read_it(signed: tuple[Path, Path]) -> None:
    """The library as its own manual calls it."""
    from model_signing import verifying

    verifying.Config().use_elliptic_key_verifier(public_key=signed[1]).verify(signed[0], signed[0] / SIGNATURE)


@pytest.mark.parametrize("name", [MODEL, SPEC, GOLDEN, "MODEL_CARD.md"])
def test_an_altered_file(bundle: Path, signed: tuple[Path, Path], name: str) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
    with pytest.raises(SignatureError, match=f": {name} was altered since it was signed. Copy the signed bundle again"):
        require_signature(bundle, signed[1])


def test_a_missing_file(bundle: Path, signed: tuple[Path, Path]) -> None:
    (bundle / GOLDEN).unlink()
    with pytest.raises(SignatureError, match=f": {GOLDEN} is missing, which was signed. Copy"):
        require_signature(bundle, signed[1])


@pytest.mark.parametrize("name", ["weights.bin", ".gitignore", ".gitattributes"])
def test_an_extra_file(bundle: Path, signed: tuple[Path, Path], name: str) -> None:
    (bundle / name).write_text("x")
    with pytest.raises(SignatureError, match=f": {name} was added since it was signed. Copy"):
        require_signature(bundle, signed[1])


def test_folders_and_links(bundle: Path, signed: tuple[Path, Path]) -> None:
    (bundle / ".git").mkdir()
    with pytest.raises(BundleError, match=r"\.git: is no regular file"):
        require_signature(bundle, signed[1])
    (bundle / ".git").rmdir()
    shutil.move(bundle / MODEL, bundle.parent / MODEL)
    (bundle / MODEL).symlink_to(bundle.parent / MODEL)
    with pytest.raises(BundleError, match=f"{MODEL}: is no regular file"):
        require_signature(bundle, signed[1])


def test_several_differences_are_all_named(bundle: Path, signed: tuple[Path, Path]) -> None:
    (bundle / GOLDEN).unlink()
    (bundle / "extra").write_text("x")
    (bundle / SPEC).write_text("{}")
    with pytest.raises(SignatureError, match=f"{GOLDEN} is missing.*; extra was added.*; {SPEC} was altered"):
        require_signature(bundle, signed[1])


def test_no_signature(bundle: Path, signed: tuple[Path, Path]) -> None:
    (bundle / SIGNATURE).unlink()
    with pytest.raises(
        SignatureError, match=r"is not signed \(it has no model\.sig\), expected a signature by .*public"
    ):
        require_signature(bundle, signed[1])


def test_another_key(bundle: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path / "other")
    with pytest.raises(
        SignatureError, match=r"is signed with another key, expected .*other/public; name the public key"
    ):
        require_signature(bundle, other)


def edited(bundle: Path, change: Any) -> None:
    signature = json.loads((bundle / SIGNATURE).read_text())
    change(signature)
    (bundle / SIGNATURE).write_text(json.dumps(signature))


def test_a_signature_that_claims_another_content(bundle: Path, signed: tuple[Path, Path]) -> None:
    """The file and its hash in the payload are changed alike: the payload is no longer what was signed."""

    def claim(signature: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
        payload["predicate"]["resources"] = payload["predicate"]["resources"][1:]
        signature["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    edited(bundle, claim)
    with pytest.raises(SignatureError, match=r"was not made with .*public, or was altered since"):
        require_signature(bundle, signed[1])


def test_a_signature_with_the_hint_of_our_key_by_another(
    bundle: Path, signed: tuple[Path, Path], tmp_path: Path
) -> None:
    hint = json.loads((bundle / SIGNATURE).read_text())["verificationMaterial"]
    key, _ = write_keys(tmp_path / "other")
    sign_bundle(bundle, key)
    edited(bundle, lambda signature: signature.update(verificationMaterial=hint))
    with pytest.raises(SignatureError, match=r"was not made with .*public, or was altered since"):
        require_signature(bundle, signed[1])


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"verificationMaterial": {}}', "[" * 5000, "é", '{"a": 1}'])
def test_what_is_no_signature(bundle: Path, signed: tuple[Path, Path], text: str) -> None:
    (bundle / SIGNATURE).write_bytes(text.encode("latin-1"))
    with pytest.raises(SignatureError, match=r"model\.sig"):
        require_signature(bundle, signed[1])
    (bundle / SIGNATURE).write_bytes(bytes(2**20 + 1))
    with pytest.raises(SignatureError, match="has 1048577 bytes, at most 1048576"):
        require_signature(bundle, signed[1])


def test_a_signature_that_leaves_files_out_proves_nothing(bundle: Path, tmp_path: Path) -> None:
    """By whoever has the key, with the library's own way to ignore files."""
    from model_signing import hashing, signing

    key, public = write_keys(tmp_path / "keys")
    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE, MODEL], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(ignoring)
    signer.sign(bundle, bundle / SIGNATURE)
    with pytest.raises(SignatureError, match=rf"its signature leaves out {MODEL}, expected every file"):
        require_signature(bundle, public)


def test_signing_again_replaces_the_signature(bundle: Path, signed: tuple[Path, Path], tmp_path: Path) -> None:
    key, public = write_keys(tmp_path / "keys", ec.generate_private_key(ec.SECP384R1()))
    (bundle / "MODEL_CARD.md").write_text("# tiny, revised\n")
    sign_bundle(bundle, key)
    require_signature(bundle, public)
    with pytest.raises(SignatureError, match=r"another key|was not made with"):
        require_signature(bundle, signed[1])


def test_keys_that_are_none(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    locked, _ = write_keys(tmp_path / "locked", password=b"secret")
    of_no_curve, public_of_none = write_keys(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "text").write_text("hello")
    (tmp_path / "large").write_bytes(bytes(2**16 + 1))
    for key in (locked, of_no_curve, tmp_path / "text", tmp_path / "large", tmp_path / "none"):
        assert main([str(bundle), "--key", str(key)]) == 1
        assert str(key) in capsys.readouterr().err
    for key in (public_of_none, tmp_path / "text", tmp_path / "none"):
        assert main([str(bundle), "--verify", str(key)]) == 1
        assert str(key) in capsys.readouterr().err


def test_the_command(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    key, public = write_keys(tmp_path / "keys")
    assert main([str(bundle), "--key", str(key)]) == 0
    assert main([str(bundle), "--verify", str(public)]) == 0
    assert capsys.readouterr().out.endswith(f"every file is as it was signed with {public}\n")
    (bundle / MODEL).write_bytes(b"")
    assert main([str(bundle), "--verify", str(public)]) == 1
    assert f"{MODEL} was altered since it was signed" in capsys.readouterr().err
    assert main([str(bundle), "--key", str(key)]) == 1, "what is no bundle is not signed"
