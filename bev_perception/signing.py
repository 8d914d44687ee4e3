"""Who made a bundle: a signature over all its files, `model.sig`, in the format of OpenSSF model signing.

    ros2 run bev_perception sign_bundle BUNDLE --key KEY           signs with a private key (PEM, elliptic curve)
    ros2 run bev_perception sign_bundle BUNDLE --verify PUBLIC     says whether it is signed with the key of this half

Keys of one's own, no service and no network: `model_signing verify key` reads the same file. Needs the package
model-signing (https://github.com/sigstore/model-transparency), where a bundle is signed or verified and nowhere else.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bev_perception.bundle import SIGNATURE, bundle_files, load_bundle
from bev_perception.files import read_bytes, read_text, sha256_of, write_atomic
from bev_perception.missing import mend
from bev_perception.model_spec import BundleError

KEY_LIMIT, SIGNATURE_LIMIT = 2**16, 2**20  # bytes
# What the library raises for keys that it does not take: of a password (TypeError), of no curve (AttributeError).
KEY_ERRORS = (ValueError, TypeError, AttributeError)
MAKE_KEYS = (
    "`openssl ecparam -name prime256v1 -genkey -noout -out KEY` makes one, `openssl ec -in KEY -pubout -out PUBLIC` "
    "its public half"
)


class SignatureError(BundleError):
    """A bundle that is not signed, or not as it is; the message says by what and how to mend it."""


def sign_bundle(bundle: str | Path, key: str | Path) -> Path:
    """Sign every file of a verified bundle with the private key in the file `key`; returns the signature's file.

    An earlier signature is replaced. Raises BundleError for what is no bundle, ValueError for what is no such key,
    OSError, ImportError without model-signing.
    """
    from model_signing import signing

    source = load_bundle(bundle)
    bundle_files(source.path)  # or BundleError: what is no file cannot be signed
    _check_key(key, "private")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=Path(key))
    except KEY_ERRORS as error:
        raise ValueError(
            f"{key}: no private key of an elliptic curve without a password ({error}); {MAKE_KEYS}"
        ) from error
    config.set_hashing_config(_hashing())
    with tempfile.TemporaryDirectory() as folder:
        config.sign(source.path, Path(folder, SIGNATURE))
        write_atomic(source.path / SIGNATURE, read_bytes(Path(folder, SIGNATURE), SIGNATURE_LIMIT))
    return source.path / SIGNATURE


def require_signature(bundle_path: str | Path, public_key: str | Path) -> None:
    """Return where every file of the bundle is as it was when it was signed with the other half of `public_key`.

    Raises SignatureError saying what was found, what was expected and how to mend it: no signature, another key, an
    altered, missing or extra file; ValueError where `public_key` is no public key, OSError, ImportError without
    model-signing. What is in the bundle is not looked at otherwise: `load_bundle` does.
    """
    from model_signing import verifying

    folder = Path(bundle_path)
    _check_key(public_key, "public")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    except KEY_ERRORS as error:
        raise ValueError(f"{public_key}: no public key of an elliptic curve ({error}); {MAKE_KEYS}") from error
    config.set_hashing_config(_hashing())
    files = bundle_files(folder)
    if SIGNATURE not in files:
        raise SignatureError(
            f"bundle {folder}: is not signed (it has no {SIGNATURE}), expected a signature by {public_key}; sign it "
            "with `sign_bundle`, or copy the signed bundle whole"
        )
    text = _signature_text(folder)
    try:
        config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # whatever the reader of a file that anybody may have written raises: it is no proof
        raise SignatureError(f"bundle {folder}: {_why(error, folder, files, text, public_key)}") from error
    # What the signer chose to leave out of the signature is not proven: nothing may be left out.
    if unsigned := sorted(set(files) - set(_signed(text)) - {SIGNATURE}):
        raise SignatureError(
            f"bundle {folder}: its signature leaves out {', '.join(unsigned)}, expected every file; sign the whole "
            "bundle with `sign_bundle`"
        )


def _hashing() -> Any:
    """Every file but the signature itself, also those that git would not look at."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _check_key(key: str | Path, half: str) -> None:
    try:
        read_bytes(key, KEY_LIMIT)
    except ValueError as error:
        raise ValueError(f"{key}: {error}; expected the {half} key, a PEM file") from error


def _signature_text(folder: Path) -> str:
    try:
        return read_text(folder / SIGNATURE, SIGNATURE_LIMIT)
    except ValueError as error:
        raise SignatureError(f"{folder / SIGNATURE}: {error}; copy the signed bundle again") from error


def _why(error: Exception, folder: Path, files: list[str], text: str, public_key: str | Path) -> str:
    """What to say of a signature that does not hold; looked for again, because the library says it to programmers."""
    if "Key mismatch" in str(error):
        return (
            f"is signed with another key, expected {public_key}; name the public key of whoever signed it, if that is "
            "to be trusted, or sign it with `sign_bundle` and the right key"
        )
    if type(error).__name__ == "InvalidSignature":
        return f"{SIGNATURE} was not made with {public_key}, or was altered since; copy the signed bundle again"
    try:
        signed = _signed(text)
    except (ValueError, LookupError, TypeError, RecursionError) as unread:
        return (
            f"{SIGNATURE} is no signature of a bundle ({type(unread).__name__}: {unread}); copy the signed bundle again"
        )
    there = [name for name in files if name != SIGNATURE]
    differing = [
        *(f"{name} is missing, which was signed" for name in sorted(set(signed) - set(there))),
        *(f"{name} was added since it was signed" for name in sorted(set(there) - set(signed))),
        *(
            f"{name} was altered since it was signed"
            for name in sorted(set(there) & set(signed))
            if sha256_of(folder / name) != signed[name]
        ),
    ]
    said = "; ".join(differing) or f"{SIGNATURE} does not hold ({type(error).__name__}: {error})"
    return f"{said}. Copy the signed bundle again; if the change is yours, sign it anew with `sign_bundle`"


def _signed(text: str) -> dict[str, str]:
    """File -> sha256, as a signature states them. Raises ValueError, LookupError or TypeError for what is none."""
    payload = json.loads(base64.b64decode(json.loads(text)["dsseEnvelope"]["payload"]))
    return {str(row["name"]): str(row["digest"]) for row in payload["predicate"]["resources"]}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="sign_bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--key", type=Path, help="private key that signs it, a PEM file")
    what.add_argument("--verify", type=Path, metavar="PUBLIC", help="public key whose other half must have signed it")
    args = parser.parse_args(argv)

    def sign() -> str:
        return f"{sign_bundle(args.bundle, args.key)}: signs every file of the bundle"

    def verify() -> str:
        require_signature(args.bundle, args.verify)
        return f"{args.bundle}: every file is as it was signed with {args.verify}"

    act: Callable[[], str] = sign if args.key else verify
    try:
        print(act())
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {mend(error) or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
